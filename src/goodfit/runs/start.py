"""Starting and resuming a run: which run to resume, what may change then, and what is written before the first step."""

from __future__ import annotations

import contextlib
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from goodfit.core.device import describe_machine, select_device
from goodfit.core.errors import DataError, UsageError
from goodfit.core.fetch import hash_file
from goodfit.core.files import lock, remove_partials, write_atomic
from goodfit.core.progress import Lengths
from goodfit.core.run import LOCK_FILE, START_FILE, Run, list_runs
from goodfit.core.words import list_some
from goodfit.data.dataset import Dataset
from goodfit.data.index import SPLITS
from goodfit.data.splits import write_splits
from goodfit.recipe.prepare import Prepared
from goodfit.recipe.recipe import Recipe, with_current_keys

CHANGEABLE_ON_RESUME = ("budget", "evaluate_every", "save_every", "stop", "probes", "workers", "cache")
# A run that lacks the first field is of a version in which the default of the second was not yet "auto", but one of these.
FORMER_DEFAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "head_init": {"trainable": ("all", "all(1.0)")},
    "resolution": {"views": ("center",)},
}
UNFINISHED_STATES = ("running", "interrupted", "terminated", "diverged", "failed")


def find_resumable(asked: Recipe, out: Path | None, resume: str) -> Run | None:
    """Find the run that `--resume auto` continues: the one at `out`, else the newest unfinished one of the same recipe.

    Raises:
        UsageError: the run at `out` has another recipe.
    """
    if resume == "never":
        return None
    if out is not None:
        if not (out / "recipe.toml").is_file():
            return None
        run = Run(out)
        refuse_changes(run, asked)
        return run
    return next((run for run in reversed(list_runs(Path("runs"))) if is_unfinished(run, asked) and not is_busy(run)), None)


def is_busy(run: Run) -> bool:
    """Whether another process is training this run."""
    with lock(run.path / LOCK_FILE, wait=False) as held:
        return held is False


@contextlib.contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Hold the lock of a run while it is trained: two processes must not write one log.

    Raises:
        UsageError: another process holds it.
    """
    with lock(run.path / LOCK_FILE, wait=False) as held:
        if held is False:
            raise UsageError(f'The run "{run.path}" is being trained by another process: wait for it, or choose another --out.')
        remove_partials(run.path)
        yield


def is_unfinished(run: Run, asked: Recipe) -> bool:
    """Whether a run has the same recipe and did not end; one whose about.json does not read counts as ended."""
    try:
        about = run.read("about.json")
    except ValueError:
        return False
    return about.get("state") in UNFINISHED_STATES and not changed_fields(about, asked)


def refuse_changes(run: Run, asked: Recipe) -> None:
    """Refuse a resume that would train something else.

    Raises:
        UsageError: a field has changed that may not change.
    """
    changed = [key for key in changed_fields(run.read("about.json"), asked) if key not in CHANGEABLE_ON_RESUME]
    if changed:
        raise UsageError(
            f'The run "{run.path}" was started with another {list_some(changed)}; on a resume only'
            f" {', '.join(CHANGEABLE_ON_RESUME)} may change. Give another --out to start anew."
        )


def changed_fields(about: Mapping[str, Any], asked: Recipe) -> list[str]:
    """The fields that are asked for otherwise than of the run with this about.json; a former default may be spelled out or left open."""
    written, current = with_current_keys(about.get("asked", {})), asked_values(about)
    return [key for key, value in asked.plain().items() if value not in (current[key], written.get(key, current[key]))]


def refuse_shorter(run: Run, budget: str, step: int, lengths: Lengths) -> None:
    """Refuse a budget that ends before the step a run has reached: its rate would never anneal.

    Raises:
        UsageError: it does.
    """
    if not lengths.timed and lengths.total_steps < step:
        raise UsageError(
            f'The run "{run.path}" is at step {step:,} already, past the budget of {budget} ({lengths.total_steps:,} steps):'
            " give a longer one, or another --out to start anew."
        )


def resumed_recipe(own: Recipe, run: Run, asked: Recipe) -> Recipe:
    """The run's `own` recipe with the changes that a resume may make."""
    before = asked_values(run.read("about.json"))
    return own.but(
        **{key: getattr(asked, key) for key in CHANGEABLE_ON_RESUME if asked.plain()[key] != before[key] and getattr(asked, key) != "auto"}
    )


class DataChanged(DataError):
    """The images or their splits are not those that the run started with."""


def require_same_data(run: Run, data: Dataset) -> None:
    """Refuse other images than those the run started with.

    Raises:
        DataChanged: the images or their splits have changed.
    """
    before = run.read("about.json")["data"]
    if (before["digest"], before["split_digest"]) != (data.digest, data.splits.digest):
        raise DataChanged(
            f'The images of "{data.name}" or their splits have changed since "{run.path}" started; start anew with another --out.'
        )


def record_start(run: Run, asked: Recipe, prepared: Prepared) -> None:
    """Write what the run is, before its first step: copies of the user's files, splits.csv, about.json, and recipe.toml last."""
    recipe, data = prepared.recipe, prepared.data
    for index, file in enumerate(recipe.use):  # numbered, so that they are read back in this order
        (run.path / "use").mkdir(exist_ok=True)
        shutil.copyfile(file, run.path / "use" / f"{index:02d}-{Path(file).name}")
    write_splits(run.path / "splits.csv", prepared.index, data.splits)
    about = {
        **describe_environment(select_device(recipe.device)),
        "started": timestamp(),
        "state": "running",
        "asked": asked.plain(),
        "choices": [vars(choice) for choice in prepared.choices],
        "use": {Path(file).name: hash_file(Path(file)) for file in recipe.use},
        "data": describe_data(data),
        **({"source": prepared.source} if prepared.source else {}),
        **({"forecast": vars(prepared.forecast)} if prepared.forecast else {}),
        "openings": [],
    }
    run.write("about.json", about)
    if (start := prepared.training.plan.start) is not None:
        tensors = {name: x.cpu().contiguous() for name, x in start.items()}
        write_atomic(run.path / START_FILE, save(tensors))
    write_atomic(run.path / "recipe.toml", recipe.to_toml())


def read_start(run: Run) -> dict[str, Tensor] | None:
    """The weights that a run with a source started from; None where it has none."""
    path = run.path / START_FILE
    return load_file(path) if path.is_file() else None


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What a run records of the versions, the machine and the command."""
    return {
        "goodfit": version("goodfit"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": describe_machine(device),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def asked_values(about: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the recipe that a run was asked for, as its about.json has them; those that it does not have are at their default."""
    before = with_current_keys(about.get("asked", {}))
    former = {key: values for field, defaults in FORMER_DEFAULTS.items() if field not in before for key, values in defaults.items()}
    return {**Recipe().plain(), **{key: "auto" if value in former.get(key, ()) else value for key, value in before.items()}}


def describe_data(data: Dataset) -> dict[str, Any]:
    """What a run records of its data."""
    columns = [data.class_counts(name) for name in SPLITS]
    train, validation = columns[0], columns[1]
    return {
        "name": data.name,
        "images": sum(map(sum, columns)),
        "classes": list(data.classes),
        "splits": {name: sum(column) for name, column in zip(SPLITS, columns, strict=True)},
        "counts": {name: [column[i] for column in columns] for i, name in enumerate(data.classes)},
        "majority": validation[train.index(max(train))] / max(1, sum(validation)),
        "digest": data.digest,
        "split_digest": data.splits.digest,
        "channels": data.preprocess.channels,
        "box": list(data.preprocess.box),
        "size": list(data.preprocess.size),
        "mean": list(data.statistics.mean),
        "std": list(data.statistics.std),
        "notes": list(data.notes),
        "broken": data.broken,
    }


def timestamp() -> str:
    """The local time as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
