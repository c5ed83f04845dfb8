"""The candidates for an ensemble: the models of runs and snapshots, with the predictions of each for its validation images."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from goodfit.core.errors import DataError, UsageError
from goodfit.core.fitted_task import read_task, unfitted_task
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import ENSEMBLE_FILE, Run, list_runs
from goodfit.core.run_files import check_hash, explain_damage
from goodfit.core.task import Task
from goodfit.core.words import list_some
from goodfit.models.weights.saved import CONFIG_FILE, WEIGHTS_FILE
from goodfit.predict.calibration import apply_temperature
from goodfit.predict.paired import select_images
from goodfit.runs.start import SPLITS_FILE
from goodfit.training.snapshots import FOLDER, snapshot_hash


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A model: its run, the file of its weights with its SHA-256 as it was recorded, the run's config.json and its predictions for the
    run's validation images.
    """

    run: Run
    file: Path
    sha256: str | None
    config: dict[str, Any]
    predictions: Predictions

    @property
    def name(self) -> str:
        """Its name in messages: the run, or the file of the snapshot."""
        return str(self.run.path if self.file.name == WEIGHTS_FILE else self.file)

    @property
    def task(self) -> Task:
        """What it answers, with nothing that is fitted to its own answers."""
        return unfitted_task(read_task(self.config.get("task"), self.config["label_names"]))

    @property
    def digests(self) -> tuple[str, str]:
        """The digests of the run's images and of their splits."""
        data = self.run.read("about.json", "data.digest", "data.split_digest")["data"]
        return data["digest"], data["split_digest"]


def find_candidates(names: Sequence[str | Path], final: bool = False) -> list[Candidate]:
    """Find the models of run folders, of folders of runs and of files of snapshots: of a run its snapshots, if it has any and not
    `final`, else its kept model.

    Raises:
        UsageError: there is no such run, it is not finished, a model is named twice, there are fewer than two, or their classes differ.
    """
    candidates = [candidate for name in names for candidate in _candidates_at(Path(name), final)]
    files = [candidate.file.resolve() for candidate in candidates]
    if duplicates := [candidate.name for candidate in candidates if files.count(candidate.file.resolve()) > 1]:
        raise UsageError(f"Expected each model once, received {list_some(list(dict.fromkeys(duplicates)))} twice.")
    if len(candidates) < 2:
        raise UsageError(
            f"Expected two models or more, received {f'{candidates[0].name} alone' if candidates else 'none'}: name more runs, or one"
            " trained with --snapshots."
        )
    first = candidates[0]
    for other in candidates:
        if other.task.name != first.task.name:
            raise UsageError(
                f'Expected models of the same task, but "{first.name}" answers {first.task.name} and "{other.name}" {other.task.name}.'
            )
        if set(other.predictions.classes) != set(first.predictions.classes):
            odd = sorted(set(first.predictions.classes) ^ set(other.predictions.classes))
            raise UsageError(f'Expected models of the same classes, but "{first.name}" and "{other.name}" differ in {list_some(odd)}.')
    return candidates


def _candidates_at(path: Path, final: bool) -> list[Candidate]:
    """The models that one path names."""
    if path.suffix == ".safetensors" and path.is_file():
        return [_candidate(Run.open(path.parent.parent if path.parent.name == FOLDER else path.parent), path)]
    if not (path / "recipe.toml").is_file() and (inner := [run.path for run in list_runs(path) if not (run.path / ENSEMBLE_FILE).exists()]):
        return [
            candidate for folder in sorted(inner) for candidate in _candidates_at(folder, final)
        ]  # such as the folder of --folds, or of --seeds
    run = Run.open(path)
    snapshots = (
        [] if final else sorted({file.with_suffix(".safetensors") for file in (run.path / FOLDER).glob("*.*") if file.stem.isdigit()})
    )
    return [_candidate(run, file) for file in snapshots or [run.path / WEIGHTS_FILE]]


def _candidate(run: Run, file: Path) -> Candidate:
    if not (run.path / CONFIG_FILE).exists():
        is_ensemble = (run.path / ENSEMBLE_FILE).exists()
        reason = "is an ensemble already: name the runs it is of" if is_ensemble else "has no model yet: train it to its end"
        raise UsageError(f'"{run.path}" {reason}.')
    config = run.read(CONFIG_FILE, "model", "loss", "label_names", "preprocess", "use")
    hashes = dict(config.get("files", {}))
    if file.name != WEIGHTS_FILE:
        config.pop("temperature", None)  # it was fitted to the kept model
        hashes[WEIGHTS_FILE] = snapshot_hash(file)
    for name, sha256 in hashes.items():
        check_hash(file if name == WEIGHTS_FILE else run.path / name, sha256)
    predictions = Predictions.read(run.path / PREDICTIONS_FILE if file.name == WEIGHTS_FILE else file.with_suffix(".npz"))
    if predictions is None:
        raise UsageError(f'The predictions of "{file}" for its validation images are not kept: run goodfit evaluate "{run.path}" first.')
    return Candidate(run, file, hashes.get(WEIGHTS_FILE), config, predictions)


def align_predictions(candidates: Sequence[Candidate]) -> list[Predictions]:
    """The predictions of each candidate, with its temperature, for the images that all validated on, in the order and classes of the first.

    No model was trained on such an image, and none is a test image of any of their runs.

    Raises:
        DataError: the runs label an image differently.
    """
    first = candidates[0].predictions
    known = [set(candidate.predictions.names.tolist()) for candidate in candidates]
    names = [name for name in first.names.tolist() if all(name in others for others in known)]
    result: list[Predictions] = []
    for candidate in candidates:
        selected = select_images(candidate.predictions, names, first.classes)
        shares, temperature = torch.from_numpy(selected.probabilities), float(candidate.config.get("temperature", 1.0))
        shares = apply_temperature(shares, temperature, candidate.task)
        labels = selected.labels
        if result and (labels != result[0].labels).any():
            wrong = names[int(np.argwhere(labels != result[0].labels)[0][0])]
            raise DataError(
                f'"{candidates[0].name}" and "{candidate.name}" were trained on different labels, such as that of {wrong}:'
                " they cannot be combined."
            )
        result.append(dataclasses.replace(selected, probabilities=shares.numpy()))
    return result


def count_seen_test_images(candidates: Sequence[Candidate]) -> int:
    """Count the test images of the first run that another run trained or validated on, because their splits differ."""
    first = candidates[0]
    others = {candidate.run.path: candidate.run for candidate in candidates if candidate.digests[1] != first.digests[1]}
    if not others:
        return 0
    test = {path for path, split in read_splits(first.run).items() if split == "test"}
    seen = {path for run in others.values() for path, split in read_splits(run).items() if split != "test"}
    return len(test & seen)


def read_splits(run: Run) -> dict[str, str]:
    """The split of each image of a run, by name."""
    path = run.path / SPLITS_FILE
    if not path.exists():
        return {}
    check_hash(path, run.read("about.json").get("files", {}).get(SPLITS_FILE))
    with explain_damage(path), path.open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}
