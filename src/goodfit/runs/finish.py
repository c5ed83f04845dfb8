"""Finishing a run: final scores in fp32 by the recipe's views, the worst errors with their pictures, the kept model."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import nn

from goodfit.core.errors import GoodfitError
from goodfit.core.predictions import PREDICTIONS_FILE
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.run_files import DamagedFile
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.models.anatomy.account import account_for
from goodfit.models.weights.saved import read_weights, save_model
from goodfit.predict.calibration import measure_calibration
from goodfit.predict.scoring import predictions_of, score_views
from goodfit.recipe.build import Training
from goodfit.recipe.prepare import Prepared
from goodfit.runs.pictures import write_pictures
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.rules import stop
from goodfit.training.snapshots import FOLDER, Snapshots, snapshot_hash
from goodfit.training.state import Plan, State


def keep_model(run: Run, prepared: Prepared, reporter: Reporter) -> dict[str, Any]:
    """Score the model on the validation images and write everything about it; returns the validation scores.

    The last weights are kept, or the best where a stop rule watches, or where a pretrained start had become better than they are; where
    the best do not read, the last are kept, and it is reported.
    """
    training, data = prepared.training, prepared.data
    state = training.state
    kept = state.step
    if state.best and (
        not isinstance(prepared.parts["stop"], stop.None_) or is_worse_than_start(state, training.plan, len(data.rows("validation")))
    ):
        last = state.step, state.stopped, state.snapshots
        try:
            Checkpoints(run.checkpoints).restore(state, state.best["step"])
            kept = state.step
        except GoodfitError:
            best = state.best["step"]
            reporter.say(f"Warning: the best weights, those of step {best:,}, do not read: those of step {kept:,} are kept instead.")
        state.step, state.stopped, state.snapshots = last
    views = prepared.parts["views"]
    scored = score_views(training.evaluator, state.eval_model, data.rows("validation"), views)
    scored.scores["calibration"] = measure_calibration(scored.probabilities, scored.center.labels)
    run.write("scores.json", {"validation": scored.scores, "best": state.best, "kept": kept})  # a test score was of other weights
    if state.snapshots:
        run.update("scores.json", {"snapshots": score_snapshots(run, training, data, views, reporter)})
    write_pictures(run, scored, data)
    predictions_of(scored.probabilities, scored.center.ids, data).save(run.path / PREDICTIONS_FILE)
    save_model(run, state.eval_model, prepared.parts, data.classes, data.preprocess)
    return scored.scores


def is_worse_than_start(state: State, plan: Plan, images: int) -> bool:
    """Whether training from pretrained weights ended below its start on the validation images, or clearly below the best on the way.

    Clearly is by more than the standard error of an accuracy of so many images.
    """
    if plan.start is None:
        return False
    best, last = max(state.history), state.history[-1]
    return last < state.history[0] or best - last > math.sqrt(best * (1 - best) / images)


def score_snapshots(run: Run, training: Training, data: Dataset, views: Any, reporter: Reporter) -> list[dict[str, Any]]:
    """Score each snapshot on the validation images, and keep its predictions beside its weights; returns a row for each.

    One that does not read is reported and left out.
    """
    snapshots = Snapshots(Checkpoints(run.checkpoints), run.path / FOLDER)
    snapshots.prune(training.state)
    model, rows = copy.deepcopy(training.state.model), []
    for step in training.state.snapshots:
        file = snapshots.path(step)
        try:
            tensors = read_weights(file, snapshot_hash(file))
        except DamagedFile as error:
            reporter.say(f"Warning: {error} The snapshot of step {step:,} is left out.")
            continue
        model.load_state_dict(tensors)
        scored = score_views(training.evaluator, model, data.rows("validation"), views)
        predictions_of(scored.probabilities, scored.center.ids, data).save(file.with_suffix(".npz"))
        rows.append({"step": step, "accuracy": scored.scores["accuracy"], "loss": scored.scores["loss"]})
    return rows


def count_multiply_adds(model: nn.Module, preprocess: Preprocess) -> int | None:
    """The multiply-adds for one image; None where a model of the user's own cannot be traced."""
    try:
        return account_for(model, preprocess.channels, preprocess.size).totals["macs"]
    except Exception:  # whatever the user's code raises on meta tensors: the run is finished without this figure
        return None
