"""Cross-validation: one ordinary run for each fold, and what they come to together; a finished fold is not trained again."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from goodfit.core.errors import DataError, GoodfitError, Interrupted, Terminated, UsageError
from goodfit.core.files import write
from goodfit.core.interval import wilson_interval
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import Run, refuse_taken
from goodfit.data.dataset import Dataset
from goodfit.data.index import Index
from goodfit.data.splits import write_splits
from goodfit.recipe.auto import Chooser, data_choices, machine_choices
from goodfit.recipe.build import catalog
from goodfit.recipe.plan import plain_paths
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.recipe.transfer import pretrained
from goodfit.study.folds import FOLDS, Folds, deal, groups_of, sizes_said
from goodfit.study.seeds import Train, standard_error
from goodfit.terminal.reporter import Voice
from goodfit.training.calibration import calibration

DONE = ("finished", "stopped early")


def train_folds(
    asked: Recipe, train: Train, folds: int, out: Path | None, resume: str, dry: bool, groups: Path | None, voice: Voice
) -> dict[str, Any]:
    """Train a recipe once for each fold, which then validates it, under one folder; returns what they come to, also in its folds.json.

    The folder has fold-1.csv, ..., the splits; fold-1/, ..., the runs; and predictions.npz: for every image that trains or validates,
    what the model said that was not trained on it. With `resume` auto, finished folds are kept and an unfinished one goes on.

    Raises:
        UsageError: there are too few folds, or the folder is taken.
        DataError: the images do not make such folds, or have changed since the folder began.
    """
    asked = plain_paths(asked)
    data, index = opened(asked, voice)
    found = groups_of(index, asked.data, groups)
    dealt = deal(index, data.splits, folds, asked.split_seed, found)
    voice.say(sizes_said(dealt, found))
    if dry:
        train(asked, None)
        return {}
    folder = place(asked, out, resume, folds, data.name)
    begin(folder, asked, index, dealt)
    runs = []
    for k in range(folds):
        path = folder / f"fold-{k + 1}"
        recipe = asked.but(validation=str(Path(f"{path}.csv").resolve()))
        run = finished(path, recipe)
        voice.say(f"Fold {k + 1} of {folds}" + (f": {path} is finished." if run else "."))
        try:
            run = run or train(recipe, path)
        except (Interrupted, Terminated) as error:
            kept = f'Stopped in fold {k + 1} of {folds}, everything is saved; the same command with "--resume auto --out {folder}" goes on.'
            raise type(error)(kept) from error
        assert run is not None
        runs.append(run)
    answers = together(runs, [index.names[row] for row in dealt.rows])
    answers.save(folder / PREDICTIONS_FILE)
    return concluded(folder, runs, answers)


def opened(asked: Recipe, voice: Voice) -> tuple[Dataset, Index]:
    """The data of a recipe as its training will open it, and the index of its images."""
    chooser = Chooser(asked)
    machine_choices(chooser)
    if weights := pretrained.weights_of(asked, None, lambda text: None):
        pretrained.take_over(chooser, weights, catalog(asked.use))
    seen = look(chooser.recipe, voice.say)
    data_choices(chooser, seen)
    return open_data(chooser.recipe, seen, voice.packing), seen.index


def place(asked: Recipe, out: Path | None, resume: str, folds: int, name: str) -> Path:
    """The folder of the folds: `out`, else with `resume` auto the newest unfinished one of the same recipe, else a new one in runs/.

    Raises:
        UsageError: `resume` is neither auto nor never, or the folder is taken.
    """
    if resume not in ("auto", "never"):
        raise UsageError(f'Expected --resume to be auto or never, received "{resume}".')
    if out is not None:
        if not (out / FOLDS).is_file():
            refuse_taken(out)
        elif resume == "never":
            raise UsageError(f'"{out}" holds folds already: go on with them by --resume auto, or choose another --out.')
        return out
    begun = sorted(Path("runs").glob(f"*/{FOLDS}"), key=lambda file: file.stat().st_mtime, reverse=True) if resume == "auto" else []
    for file in begun:
        said = Run(file.parent).read(FOLDS)
        if said.get("state") != "finished" and (said.get("folds"), said.get("asked")) == (folds, asked.plain()):
            return file.parent
    fresh = Run.new(None, f"{name}-folds")
    fresh.checkpoints.rmdir()  # the folds have their own
    return fresh.path


def begin(folder: Path, asked: Recipe, index: Index, dealt: Folds) -> None:
    """Write the splits of each fold, or check that they are those the folder began with.

    Raises:
        DataError: they are not.
    """
    before = Run(folder).read(FOLDS)
    for k in range(dealt.number):
        file = folder / f"fold-{k + 1}.csv"
        beside = folder / f".fold-{k + 1}.csv"
        write_splits(beside, index, dealt.splits(k))
        if before and file.is_file() and file.read_bytes() != beside.read_bytes():
            beside.unlink()
            raise DataError(f'The images or the folds have changed since "{folder}" began; start anew with another --out.')
        beside.replace(file)
    if before.get("folds", dealt.number) != dealt.number:
        raise DataError(f'"{folder}" began with {before["folds"]} folds, not {dealt.number}; start anew with another --out.')
    write(folder / FOLDS, json.dumps({"folds": dealt.number, "state": "running", "asked": asked.plain()}, indent=1) + "\n")


def finished(path: Path, recipe: Recipe) -> Run | None:
    """The run of a fold where it was asked for the same and is finished."""
    if not (path / "recipe.toml").is_file():
        return None
    run = Run(path)
    about = run.read("about.json")
    done = about.get("state") in DONE and about.get("asked") == plain_paths(recipe).plain() and (path / PREDICTIONS_FILE).is_file()
    return run if done else None


def together(runs: list[Run], names: list[str]) -> Predictions:
    """The out-of-fold predictions: of every image, in the order of `names`, by the one run that validated on it.

    Raises:
        GoodfitError: the runs did not validate on each of them once.
    """
    parts = [part for run in runs if (part := Predictions.read(run.path / PREDICTIONS_FILE))]
    found = np.concatenate([part.names for part in parts])
    where = {name: row for row, name in enumerate(found.tolist())}
    if len(parts) < len(runs) or sorted(found.tolist()) != sorted(names):
        raise GoodfitError(f'The folds in "{runs[0].path.parent}" did not validate on every image once: train them anew.')
    order = [where[name] for name in names]
    labels, shares = np.concatenate([part.labels for part in parts]), np.concatenate([part.probabilities for part in parts])
    return Predictions(found[order], labels[order], shares[order], parts[0].classes)


def concluded(folder: Path, runs: list[Run], answers: Predictions) -> dict[str, Any]:
    """What the folds come to: mean and standard deviation, and the scores of the out-of-fold predictions; written to folds.json."""
    accuracies = [float(run.read("scores.json")["validation"]["accuracy"]) for run in runs]
    right = int(answers.correct.sum())
    result = {
        "folder": str(folder),
        "runs": [str(run.path) for run in runs],
        "accuracies": accuracies,
        "accuracy": statistics.fmean(accuracies),
        "deviation": statistics.stdev(accuracies),
        "standard_error": standard_error(accuracies),
        "out_of_fold": {
            "images": len(answers.labels),
            "accuracy": right / len(answers.labels),
            "interval": wilson_interval(right, len(answers.labels)),
            "calibration": calibration(torch.from_numpy(answers.probabilities), torch.from_numpy(answers.labels)),
        },
    }
    Run(folder).update(FOLDS, {**result, "state": "finished", "seconds": sum(spent(run) for run in runs)})
    return result


def spent(run: Run) -> float:
    """The seconds a run has taken, start-up, packing and evaluation included."""
    return float(sum(run.read("about.json").get("seconds", {}).values()))
