"""Cross-validation: one ordinary run for each fold, and their results together; a finished fold is not trained again."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from goodfit.core.errors import DataError, GoodfitError, Interrupted, Terminated, UsageError
from goodfit.core.fitted_task import read_task, unfitted_task
from goodfit.core.interval import standard_error
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import FINISHED_STATES, Run, is_run, require_free_folder
from goodfit.core.run_files import DamagedFile
from goodfit.data.index import Index
from goodfit.data.splits import write_splits
from goodfit.predict.calibration import measure_calibration
from goodfit.predict.scoring import outputs_of_probabilities
from goodfit.recipe.prepare import open_recipe, with_absolute_paths
from goodfit.recipe.recipe import Recipe
from goodfit.report.page import write_report
from goodfit.runs.resume import asked_values
from goodfit.runs.signals import describe_stop
from goodfit.runs.train import RunOptions, train
from goodfit.study.folds import FOLDS_FILE, Folds, describe_folds, find_groups, make_folds
from goodfit.training.evaluate import compute_scores


def train_folds(asked: Recipe, options: RunOptions, folds: int, groups: Path | None = None) -> dict[str, Any]:
    """Train a recipe once for each fold, which then validates it, under one folder; returns the results, also in its folds.json.

    The folder has fold-1.csv, ..., the splits; fold-1/, ..., the runs; predictions.npz, the prediction for every image that trains or
    validates by the model that was not trained on it; and a report, written after each fold. With `resume` auto, finished folds are kept
    and an unfinished one is resumed.

    Raises:
        UsageError: there are too few folds, or the folder is taken.
        DataError: the images do not make such folds, or have changed since the folder began.
    """
    reporter = options.reporter
    opened = open_recipe(asked, reporter)
    asked, data, index = with_absolute_paths(asked), opened.data, opened.index
    group_of = find_groups(index, asked.data, groups)
    partition = make_folds(index, data.splits, folds, asked.split_seed, group_of, data.originals)
    reporter.say(describe_folds(partition, group_of))
    if options.dry:
        train(asked, dataclasses.replace(options, out=None))
        return {}
    folder = choose_folder(asked, options.out, options.resume, folds, data.name)
    record_folds(folder, asked, index, partition)
    runs, fold_options = [], options
    for k in range(folds):
        path = folder / f"fold-{k + 1}"
        recipe = asked.but(validation=str(Path(f"{path}.csv").resolve()))
        run = finished_run(path, recipe)
        reporter.say(f"Fold {k + 1} of {folds}" + (f": {path} is finished." if run else "."))
        if run is None:
            fold_options = dataclasses.replace(fold_options, out=path, resume="auto" if is_run(path) else "never")
            run = _train_fold(recipe, fold_options, f"fold {k + 1} of {folds}")
            fold_options = fold_options.for_next_run()
        runs.append(run)
    predictions = out_of_fold_predictions(runs, [index.names[row] for row in partition.rows])
    predictions.save(folder / PREDICTIONS_FILE)
    result = record_results(folder, runs, predictions)
    return {**result, "report": str(write_report(folder))}


def _train_fold(recipe: Recipe, options: RunOptions, name: str) -> Run:
    """Train one fold, and write the report of all so far, also when it is stopped."""
    assert options.out is not None
    folder = options.out.parent
    try:
        run = train(recipe, options)
    except (Interrupted, Terminated) as error:
        raise type(error)(describe_stop(f"in {name}", folder)) from error
    finally:
        write_report(folder)
    assert run is not None
    return run


def choose_folder(asked: Recipe, out: Path | None, resume: str, folds: int, name: str) -> Path:
    """Choose the folder of the folds: `out`, else with `resume` auto the newest unfinished one of the same recipe, else a new one in runs/.

    Raises:
        UsageError: the folder is taken.
    """
    if out is not None:
        if not ((out / FOLDS_FILE).exists() or (out / "fold-1.csv").is_file()):
            require_free_folder(out)
        elif resume == "never":
            raise UsageError(f'"{out}" holds folds already: continue them with --resume auto, or choose another --out.')
        return out
    existing = sorted(Path("runs").glob(f"*/{FOLDS_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True) if resume == "auto" else []
    for file in existing:
        try:
            content = Run(file.parent).read(FOLDS_FILE)
        except DamagedFile:
            continue
        if content.get("state") != "finished" and (content.get("folds"), asked_values(content)) == (folds, asked.plain()):
            return file.parent
    run = Run.new(None, f"{name}-folds")
    run.checkpoints.rmdir()  # the folds have their own
    return run.path


def record_folds(folder: Path, asked: Recipe, index: Index, partition: Folds) -> None:
    """Write the splits of each fold, or check that they are those the folder started with.

    Raises:
        DataError: they are not.
    """
    before = Run(folder).read(FOLDS_FILE)
    for k in range(partition.count):
        file = folder / f"fold-{k + 1}.csv"
        temporary = folder / f".fold-{k + 1}.csv"
        write_splits(temporary, index, partition.splits(k))
        if file.is_file() and file.read_bytes() != temporary.read_bytes():
            temporary.unlink()
            raise DataError(f'The images or the folds have changed since "{folder}" started; start anew with another --out.')
        temporary.replace(file)
    if before.get("folds", partition.count) != partition.count:
        raise DataError(f'"{folder}" started with {before["folds"]} folds, not {partition.count}; start anew with another --out.')
    Run(folder).write(FOLDS_FILE, {"folds": partition.count, "state": "running", "asked": asked.plain()})


def finished_run(path: Path, recipe: Recipe) -> Run | None:
    """The run of a fold, if it has the same recipe and is finished."""
    if not (path / "recipe.toml").is_file():
        return None
    run = Run(path)
    about = run.read("about.json")
    done = (
        about.get("state") in FINISHED_STATES
        and asked_values(about) == with_absolute_paths(recipe).plain()
        and (path / PREDICTIONS_FILE).exists()
    )
    return run if done else None


def out_of_fold_predictions(runs: list[Run], names: list[str]) -> Predictions:
    """Collect the prediction for every image, in the order of `names`, by the one run that validated on it.

    Raises:
        GoodfitError: the runs did not validate on each of them once.
    """
    by_run = [part for run in runs if (part := Predictions.read(run.path / PREDICTIONS_FILE))]
    names_by_run = np.concatenate([part.names for part in by_run])
    where = {name: row for row, name in enumerate(names_by_run.tolist())}
    if len(by_run) < len(runs) or sorted(names_by_run.tolist()) != sorted(names):
        raise GoodfitError(f'The folds in "{runs[0].path.parent}" did not validate on every image once: train them again.')
    order = [where[name] for name in names]
    labels, shares = np.concatenate([part.labels for part in by_run]), np.concatenate([part.probabilities for part in by_run])
    return Predictions(names_by_run[order], labels[order], shares[order], by_run[0].classes, by_run[0].task)


def record_results(folder: Path, runs: list[Run], predictions: Predictions) -> dict[str, Any]:
    """Write mean and standard deviation, and the scores of the out-of-fold predictions, to folds.json; returns them."""
    task = unfitted_task(read_task(runs[0].read("config.json").get("task"), predictions.classes))
    values = [float(run.read("scores.json", f"validation.{task.figure.key}")["validation"][task.figure.key]) for run in runs]
    probabilities, labels = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels)
    outputs = outputs_of_probabilities(probabilities, torch.arange(len(labels)), labels, task)
    calibration = measure_calibration(probabilities, labels, task=task)
    result = {
        **({} if task.name == "classes" else {"task": task.name}),
        "folder": str(folder),
        "runs": [str(run.path) for run in runs],
        task.figure.plural: values,
        task.figure.key: statistics.fmean(values),
        "deviation": statistics.stdev(values),
        "standard_error": standard_error(values),
        "out_of_fold": {**compute_scores(outputs, predictions.classes), "calibration": calibration},
    }
    Run(folder).update(FOLDS_FILE, {**result, "state": "finished", "seconds": sum(seconds_of(run) for run in runs)})
    return result


def seconds_of(run: Run) -> float:
    """The seconds a run took, start-up, packing and evaluation included."""
    return float(sum(run.read("about.json").get("seconds", {}).values()))
