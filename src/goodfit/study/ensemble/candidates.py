"""The models an ensemble may be of: those of runs and snapshots, with the answers each gave to its validation images."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from goodfit.core.errors import DataError, UsageError
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import ENSEMBLE, Run, runs
from goodfit.core.words import some
from goodfit.predict.ensemble import MODEL
from goodfit.training.calibration import tempered
from goodfit.training.snapshots import FOLDER


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A model: its run, the file of its weights, the run's config.json and its answers to the run's validation images."""

    run: Run
    file: Path
    config: dict[str, Any]
    answers: Predictions

    @property
    def name(self) -> str:
        """How it is said to people: the run, or the file of the snapshot."""
        return str(self.run.path if self.file.name == MODEL else self.file)

    @property
    def digests(self) -> tuple[str, str]:
        """Those of the run's images and of their splits."""
        data = self.run.read("about.json").get("data", {})
        return str(data.get("digest")), str(data.get("split_digest"))


def candidates(words: Sequence[str | Path], final: bool = False) -> list[Candidate]:
    """The models of run folders, of folders of runs and of files of snapshots: of a run its snapshots, if it has any and not `final`, else
    its kept model.

    Raises:
        UsageError: there is no such run, it is not finished, a model is named twice, there are fewer than two, or their classes differ.
    """
    found = [candidate for word in words for candidate in _named(Path(word), final)]
    files = [candidate.file.resolve() for candidate in found]
    if twice := [candidate.name for candidate in found if files.count(candidate.file.resolve()) > 1]:
        raise UsageError(f"Expected each model once, received {some(list(dict.fromkeys(twice)))} twice.")
    if len(found) < 2:
        raise UsageError(
            f"Expected two models or more, received {f'{found[0].name} alone' if found else 'none'}: name more runs, or one trained"
            " with --snapshots."
        )
    first = found[0]
    for other in found:
        if set(other.answers.classes) != set(first.answers.classes):
            odd = sorted(set(first.answers.classes) ^ set(other.answers.classes))
            raise UsageError(f'Expected models of the same classes, but "{first.name}" and "{other.name}" differ in {some(odd)}.')
    return found


def _named(path: Path, final: bool) -> list[Candidate]:
    """The models of one word."""
    if path.suffix == ".safetensors" and path.is_file():
        return [_candidate(Run.open(path.parent.parent if path.parent.name == FOLDER else path.parent), path)]
    if not (path / "recipe.toml").is_file() and (inner := [run.path for run in runs(path) if not run.read(ENSEMBLE)]):
        return [candidate for one in sorted(inner) for candidate in _named(one, final)]  # such as the folder of --folds, or of --seeds
    run = Run.open(path)
    snapshots = [] if final else sorted((run.path / FOLDER).glob("*.safetensors"))
    return [_candidate(run, file) for file in snapshots or [run.path / MODEL]]


def _candidate(run: Run, file: Path) -> Candidate:
    config = run.read("config.json")
    if not config:
        said = "is an ensemble already: name the runs it is of" if run.read(ENSEMBLE) else "has no model yet: train it to its end"
        raise UsageError(f'"{run.path}" {said}.')
    if file.name != MODEL:
        config.pop("temperature", None)  # it was fitted to the kept model
    answers = Predictions.read(run.path / PREDICTIONS_FILE if file.name == MODEL else file.with_suffix(".npz"))
    if answers is None:
        raise UsageError(f'The answers of "{file}" to its validation images are not kept: run goodfit evaluate "{run.path}" first.')
    return Candidate(run, file, config, answers)


def aligned(found: Sequence[Candidate]) -> list[Predictions]:
    """The answers of each to the images that all validated on, in the order and with the classes of the first; calibrated ones where the
    model is.

    No model was trained on such an image, and none is a test image of any of their runs.

    Raises:
        DataError: the runs label an image differently.
    """
    first = found[0].answers
    places = [{name: row for row, name in enumerate(one.answers.names.tolist())} for one in found]
    names = [name for name in first.names.tolist() if all(name in place for place in places)]
    result: list[Predictions] = []
    for one, place in zip(found, places, strict=True):
        own, rows = one.answers, np.array([place[name] for name in names], dtype=np.int64)
        order = np.array([own.classes.index(name) for name in first.classes])
        shares = torch.from_numpy(own.probabilities[rows][:, order])
        shares = tempered(shares, float(one.config.get("temperature", 1.0)))
        labels = np.argsort(order)[own.labels[rows]]
        if result and (labels != result[0].labels).any():
            wrong = names[int(np.flatnonzero(labels != result[0].labels)[0])]
            raise DataError(f'"{found[0].name}" and "{one.name}" were trained on different labels, as of {wrong}: they do not go together.')
        result.append(Predictions(np.array(names, dtype=np.str_), labels, shares.numpy(), first.classes))
    return result


def tests_seen(found: Sequence[Candidate]) -> int:
    """How many test images of the first run another run trained or validated on: their splits are not the same."""
    first = found[0]
    others = {one.run.path: one.run for one in found if one.digests[1] != first.digests[1]}
    if not others:
        return 0
    test = {path for path, split in splits(first.run).items() if split == "test"}
    seen = {path for run in others.values() for path, split in splits(run).items() if split != "test"}
    return len(test & seen)


def splits(run: Run) -> dict[str, str]:
    """The split of each image of a run, by name."""
    path = run.path / "splits.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}
