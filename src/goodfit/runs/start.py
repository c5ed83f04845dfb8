"""Starting a run: what is written before the first step, and checked again before the run is used with its data."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from goodfit.core.device import describe_machine, select_device
from goodfit.core.errors import DataError
from goodfit.core.fetch import hash_file
from goodfit.core.files import copy_file, write_atomic
from goodfit.core.launched import is_launched, launch_id
from goodfit.core.run import FORK_FOLDER, START_FILE, Run, part_files, remove_unfinished_start
from goodfit.core.run_files import DamagedFile, check_hash
from goodfit.core.words import count_of, hide_passwords
from goodfit.data.dataset import Dataset
from goodfit.data.index import SPLITS
from goodfit.data.splits import write_splits
from goodfit.models.weights.saved import read_weights
from goodfit.recipe.prepare import Prepared
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.run_recipe import RECIPE_HASHES, hash_recipe
from goodfit.training.checkpoint import Checkpoints

SPLITS_FILE = "splits.csv"


class DataChanged(DataError):
    """The images or their splits are not those that the run started with."""


def require_same_data(run: Run, data: Dataset) -> None:
    """Refuse other images than those the run started with.

    Raises:
        DataChanged: the images or their splits have changed.
        DamagedFile: about.json, which knows them, does not read.
    """
    before = run.read("about.json", "data.digest", "data.split_digest")["data"]
    if (before["digest"], before["split_digest"]) != (data.digest, data.splits.digest):
        raise DataChanged(
            f'The images of "{data.name}" or their splits have changed since "{run.path}" started; start anew with another --out.'
        )


def describe_other_data(folder: Path | None, data: Dataset) -> str:
    """Say in a sentence that a recipe comes from the folder of a run that was trained on other images; empty if not, or if unknown."""
    try:
        before = Run(folder).read("about.json").get("data", {}) if folder else {}
    except DamagedFile:
        return ""
    if before.get("digest") in (None, data.digest):
        return ""
    images = f'other images, "{before.get("name")}" of {count_of(len(before.get("classes", [])), "class", "classes")}'
    return f'Note: the recipe is that of "{folder}", which was trained on {images}: what it holds was chosen for those.'


def record_start(run: Run, asked: Recipe, prepared: Prepared) -> None:
    """Write what the run is, before its first step: copies of the user's files, splits.csv, about.json, and recipe.toml last."""
    recipe, data = prepared.recipe, prepared.data
    remove_unfinished_start(run)
    for index, file in enumerate(recipe.use):  # numbered, so that they are read back in this order
        copy_file(Path(file), run.path / "use" / f"{index:02d}-{Path(file).name}")
    write_splits(run.path / SPLITS_FILE, prepared.index, data.splits)
    if (start := prepared.training.plan.start) is not None:
        tensors = {name: x.cpu().contiguous() for name, x in start.items()}
        write_atomic(run.path / START_FILE, save(tensors))
    if recipe.fork:  # from which a kill before the first checkpoint goes on
        Checkpoints(run.path / FORK_FOLDER).save(prepared.training.state)
    about = {
        **describe_environment(select_device(recipe.device)),
        "started": timestamp(),
        **({"launch": launch_id()} if is_launched() else {}),
        "state": "running",
        "asked": asked.plain(),
        "recipe": recipe.plain(),
        RECIPE_HASHES: [hash_recipe(recipe)],
        "choices": [vars(choice) for choice in prepared.choices],
        "use": {Path(file).name: hash_file(Path(file)) for file in recipe.use},
        "files": {file.relative_to(run.path).as_posix(): hash_file(file) for file in kept_files(run)},
        "data": describe_data(data),
        **({"source": prepared.source} if prepared.source else {}),
        **({"forecast": vars(prepared.forecast)} if prepared.forecast else {}),
        "openings": [],
    }
    run.write("about.json", about)
    write_atomic(run.path / "recipe.toml", recipe.to_toml())


def kept_files(run: Run) -> list[Path]:
    """The files that a run keeps of what it started from: its splits, the weights of its source, and the user's parts."""
    return [file for file in (run.path / SPLITS_FILE, run.path / START_FILE, *part_files(run)) if file.exists()]


def check_kept_files(run: Run, has_checkpoints: bool) -> None:
    """Check that what a run is trained with is what it started with; a run of an earlier version has not recorded it.

    Its splits are computed anew, and so are the weights that it started from where they are gone and it has no checkpoints yet.

    Raises:
        DamagedFile: a file is gone, or is not the one that was kept.
    """
    for file, sha256 in run.read("about.json").get("files", {}).items():
        is_made_again = file == START_FILE and not has_checkpoints and not (run.path / file).exists()
        if file != SPLITS_FILE and not is_made_again:
            check_hash(run.path / file, sha256)


def read_start(run: Run) -> dict[str, Tensor] | None:
    """The weights that a run with a source started from; None where it has none.

    Raises:
        DamagedFile: they do not read.
    """
    path = run.path / START_FILE
    return read_weights(path, run.read("about.json").get("files", {}).get(START_FILE)) if path.exists() else None


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What a run records of the versions, the machine and the command."""
    words = ["goodfit" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "goodfit": version("goodfit"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": describe_machine(device),
        "command": shlex.join(map(hide_passwords, words)),
    }


def describe_data(data: Dataset) -> dict[str, Any]:
    """What a run records of its data."""
    columns = [data.class_counts(name) for name in SPLITS]
    train, validation = columns[0], columns[1]
    splits = {name: len(data.rows(name)) for name in SPLITS}
    majority = {"majority": validation[train.index(max(train))] / max(1, sum(validation))}
    return {
        "name": data.name,
        "images": sum(splits.values()),
        "classes": list(data.classes),
        "splits": splits,
        "counts": {name: [column[i] for column in columns] for i, name in enumerate(data.classes) if data.task.name != "numbers"},
        **(majority if data.task.name == "classes" else {"task": data.task.name}),
        "digest": data.digest,
        "split_digest": data.splits.digest,
        "leaked": data.splits.leaked,
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
