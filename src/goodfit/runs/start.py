"""Where a run begins or goes on: its folder, what may change on a resume, and what is written down first."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from goodfit.core.catalog import spell
from goodfit.core.device import choose, machine
from goodfit.core.errors import DataError, UsageError
from goodfit.core.files import alone, write
from goodfit.core.progress import Lengths
from goodfit.core.run import Run, runs
from goodfit.core.words import some
from goodfit.data.dataset import Dataset
from goodfit.data.index import SPLITS
from goodfit.data.splits import write_splits
from goodfit.data.index import Index
from goodfit.recipe.auto import Choice
from goodfit.recipe.recipe import Recipe

CHANGEABLE = ("budget", "evaluate_every", "save_every", "stop", "probes", "workers", "cache")
LOCK = ".lock"
OPEN = ("running", "interrupted", "terminated", "diverged", "failed")


def earlier(asked: Recipe, out: Path | None, resume: str) -> Run | None:
    """The run that `--resume auto` goes on with: the one at `out`, else the newest unfinished one that was asked for the same.

    Raises:
        UsageError: `resume` is neither auto nor never, or the run at `out` was asked for something else.
    """
    if resume not in ("auto", "never"):
        raise UsageError(f'Expected --resume to be auto or never, received "{resume}".')
    if resume == "never":
        return None
    if out is not None:
        if not (out / "recipe.toml").is_file():
            return None
        run = Run(out)
        refuse_changes(run, asked)
        return run
    return next((run for run in reversed(runs(Path("runs"))) if unfinished(run, asked) and not busy(run)), None)


def busy(run: Run) -> bool:
    """Whether another process is training this run."""
    with alone(run.path / LOCK, wait=False) as held:
        return held is False


@contextlib.contextmanager
def owned(run: Run) -> Iterator[None]:
    """Own the run while it is trained: two processes must not write one log.

    Raises:
        UsageError: another process has it.
    """
    with alone(run.path / LOCK, wait=False) as held:
        if held is False:
            raise UsageError(f'The run "{run.path}" is being trained by another process: wait for it, or choose another --out.')
        yield


def unfinished(run: Run, asked: Recipe) -> bool:
    """Whether a run was asked for the same and did not end; one whose about.json does not read is passed over."""
    try:
        about = run.read("about.json")
    except ValueError:
        return False
    return about.get("state") in OPEN and about.get("asked") == asked.plain()


def refuse_changes(run: Run, asked: Recipe) -> None:
    """Refuse a resume that would train something else."""
    before = run.read("about.json").get("asked", {})
    changed = [key for key, value in asked.plain().items() if before.get(key, value) != value and key not in CHANGEABLE]
    if changed:
        raise UsageError(
            f'The run "{run.path}" was started with another {some(changed)}; on a resume only {", ".join(CHANGEABLE)} may change.'
            f" Give another --out to start anew."
        )


def refuse_shorter(run: Run, budget: str, step: int, lengths: Lengths) -> None:
    """Refuse a budget that ended before the step a run has reached: its rate would never come down.

    Raises:
        UsageError: it did.
    """
    if not lengths.timed and lengths.total_steps < step:
        raise UsageError(
            f'The run "{run.path}" is at step {step:,} already, past the budget of {budget} ({lengths.total_steps:,} steps):'
            " give a longer one, or another --out to start anew."
        )


def continued(run: Run, asked: Recipe) -> Recipe:
    """The run's own recipe, with the changes that a resume may make."""
    recipe = Recipe.from_toml(run.path / "recipe.toml")
    before = run.read("about.json")["asked"]
    return recipe.but(
        **{key: getattr(asked, key) for key in CHANGEABLE if asked.plain()[key] != before[key] and getattr(asked, key) != "auto"}
    )


class Changed(DataError):
    """The images or their splits are not those the run began with."""


def same_data(run: Run, data: Dataset) -> None:
    """Refuse to go on with other images than the run began with."""
    before = run.read("about.json")["data"]
    if (before["digest"], before["split_digest"]) != (data.digest, data.splits.digest):
        raise Changed(f'The images of "{data.name}" or their splits have changed since "{run.path}" began; start anew with another --out.')


def begin(run: Run, asked: Recipe, recipe: Recipe, data: Dataset, index: Index, choices: list[Choice], source: dict[str, Any]) -> None:
    """Write down what the run is, before its first step: copies of the user's files, splits, about.json, and recipe.toml last."""
    for place, file in enumerate(recipe.use):  # numbered, so that they are read back in this order
        (run.path / "use").mkdir(exist_ok=True)
        shutil.copyfile(file, run.path / "use" / f"{place:02d}-{Path(file).name}")
    write_splits(run.path / "splits.csv", index, data.splits)
    about = {
        "goodfit": version("goodfit"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": machine(choose(recipe.device)),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": now(),
        "state": "running",
        "asked": asked.plain(),
        "choices": [vars(choice) for choice in choices],
        "use": {Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in recipe.use},
        "data": about_data(data),
        **({"source": source} if source else {}),
        "openings": [],
    }
    run.write("about.json", about)
    write(run.path / "recipe.toml", recipe.to_toml())


def about_data(data: Dataset) -> dict[str, Any]:
    """What a run should remember of its data."""
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


def now() -> str:
    """The local time as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def spelled(recipe: Recipe, parts: dict[str, Any]) -> Recipe:
    """The recipe with every part written out, all settings included."""
    return recipe.but(**{("probes" if seat == "probe" else seat): spell(part, full=True) for seat, part in parts.items()})
