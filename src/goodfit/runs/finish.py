"""Finishing a run: final scores in fp32 by the recipe's views, the worst errors with their pictures, the kept model."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from goodfit.core.commit import write_together
from goodfit.core.errors import GoodfitError
from goodfit.core.figures import ACCURACY, Figure, figure_of
from goodfit.core.files import remove
from goodfit.core.forecast import Forecast
from goodfit.core.predictions import PREDICTIONS_FILE
from goodfit.core.progress import Cost, steady_time
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.run_files import DamagedFile, format_json
from goodfit.core.words import describe_communication
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.models.anatomy.account import account_for
from goodfit.models.weights.saved import format_model, read_weights
from goodfit.predict.calibration import measure_calibration
from goodfit.predict.predictor import Classifier
from goodfit.predict.scoring import predictions_of, score_views
from goodfit.recipe.build import Training
from goodfit.recipe.parts import MODEL_ERRORS
from goodfit.recipe.prepare import Prepared
from goodfit.recipe.recipe import Recipe
from goodfit.report.frame import REPORT_FILE
from goodfit.report.interpretation import describe_kept
from goodfit.report.markup import plain_text
from goodfit.report.page import write_report
from goodfit.report.record import read_record
from goodfit.runs import baselines
from goodfit.runs.adviser import Adviser
from goodfit.runs.look import FILE as FILE_OF_PICTURES
from goodfit.runs.look import write_look
from goodfit.runs.pictures import write_pictures
from goodfit.runs.start import timestamp
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.evaluate import Outputs
from goodfit.training.rules import stop
from goodfit.training.snapshots import FOLDER, Snapshots, snapshot_hash
from goodfit.training.state import Plan, State


def finish_run(run: Run, prepared: Prepared, reporter: Reporter, adviser: Adviser) -> None:
    """Score the run, keep its model, compute the baselines, conclude and write the report."""
    began = steady_time()
    reporter.show_activity("scoring the model")
    scores = keep_model(run, prepared, reporter)
    seconds = run.read("about.json").get("seconds", {})
    seconds = {**seconds, "evaluation": seconds.get("evaluation", 0.0) + steady_time() - began}
    model = prepared.training.state.model
    run.update(
        "about.json",
        {
            "state": "stopped early" if prepared.training.state.stopped else "finished",
            "finished": timestamp(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "multiply_adds": count_multiply_adds(model, prepared.data.preprocess),
            "seconds": seconds,
        },
    )
    if kept := describe_kept(read_record(run)):
        reporter.say(plain_text(kept))
    if forecast := run.read("about.json").get("forecast"):
        reporter.say(Forecast(**forecast).compare(scores["accuracy"]))
    reporter.show_activity("writing the report")
    try:
        if not prepared.training.plan.lengths.timed:
            run.write(baselines.FILE, baselines.compute_baselines(prepared.data, baselines.time_limit(seconds["training"])))
    except (GoodfitError, OSError) as error:  # such as images that are gone: the run is finished all the same
        reporter.say(f"Warning: the baselines could not be computed: {error}")
    finally:
        conclusions = adviser.conclude(run, prepared)
        write_report(run.path)
    reporter.say(*conclusions)


def keep_model(run: Run, prepared: Prepared, reporter: Reporter) -> dict[str, Any]:
    """Score the model on the validation images and write everything about it; returns the validation scores.

    The last weights are kept, or under `keep` best those of the best evaluation where the last fall behind; where the best do not read,
    the last are kept, and it is reported.
    """
    training, data = prepared.training, prepared.data
    state = training.state
    kept = state.step
    if prepared.recipe.keep == "best" and falls_behind(state, training.plan, len(data.rows("validation")), data.task.figure):
        last = state.step, state.stopped, state.snapshots
        try:
            Checkpoints(run.checkpoints).restore(state, state.best["step"])
            kept = state.step
        except GoodfitError:
            best = state.best["step"]
            reporter.say(f"Warning: the best weights, those of step {best:,}, do not read: those of step {kept:,} are kept instead.")
        state.step, state.stopped, state.snapshots = last
    views, center = prepared.parts["views"], training.last_outputs if kept == state.step else None
    scored = score_views(training.evaluator, state.eval_model, data.rows("validation"), views, center)
    task = data.task.fit(scored.probabilities, scored.center.labels)
    scored.scores["calibration"] = measure_calibration(scored.probabilities, scored.center.labels, task=data.task)
    scores = {"validation": scored.scores, "best": state.best, "kept": kept}  # a test score was of other weights
    if state.snapshots:
        scores["snapshots"] = score_snapshots(run, training, data, views, reporter)
    predictions = predictions_of(scored.probabilities, scored.center.ids, data)
    contents = format_model(run, state.eval_model, prepared.parts, data.classes, data.preprocess, task)
    contents["scores.json"] = format_json("scores.json", scores)
    contents[PREDICTIONS_FILE] = predictions.to_npz(PREDICTIONS_FILE)
    write_together(run.path, contents)
    try:
        write_pictures(run, scored, data, task)
    except (GoodfitError, OSError, MemoryError) as error:  # the model is kept all the same
        reporter.say(f"Warning: the pictures of the worst errors could not be made: {str(error) or 'memory ran out'}")
    draw_network(run, training, data, scored.center, reporter)
    return scored.scores


def draw_network(run: Run, training: Training, data: Dataset, outputs: Outputs, reporter: Reporter) -> None:
    """Draw the kept network for the report, in place of earlier weights; under a budget in minutes, `goodfit look` does it later."""
    try:
        remove(run.path / FILE_OF_PICTURES)
        if data.task.name == "classes" and not training.plan.lengths.timed:
            evaluator, seconds = training.evaluator, run.read("about.json").get("seconds", {}).get("training", 0.0)
            classifier = Classifier(training.state.eval_model, data.classes, data.preprocess, evaluator.loss, evaluator.device)
            write_look(run, classifier, data, outputs, seconds)
    except (GoodfitError, OSError, MemoryError, *MODEL_ERRORS) as error:  # of the user's network, too: the run is finished without them
        reporter.say(f"Warning: the pictures of the network could not be made: {str(error) or 'memory ran out'}")


def describe_result(run: Run) -> list[str]:
    """Say what a run has reached, and by which views of each image if not by the center crop, which its log is about; and where it lies."""
    places = [f"Run: {run.path}", f"Report: {run.path / REPORT_FILE}"]
    if cost := Cost.read(Recipe.of_run(run.path).budget):
        places.insert(0, f"Spent {cost.describe(sum(run.read('about.json').get('seconds', {}).values()))}.")
    if communication := run.read("about.json").get("communication"):
        places.insert(0, describe_communication(**communication))
    if not (scores := run.scores.get("validation")):
        return places
    figure = figure_of(scores)
    low, high = (figure.format(x) for x in scores["interval"])
    views = scores.get("viewed")
    by_views = f"; by {views['spelling']}, {figure.format(views['center'][figure.key])} by the center crop alone" if views else ""
    images = f"{scores['images']:,} images{by_views}"
    return [f"Validation {figure.name} {figure.format(scores[figure.key])} (95 % interval {low} to {high}, {images}).", *places]


def falls_behind(state: State, plan: Plan, images: int, figure: Figure = ACCURACY) -> bool:
    """Whether the last evaluation, of so many validation images, fell behind the best by more than noise, or below a pretrained start.

    Noise is what lies within the 95 % interval of the best. Under a stop rule, which asks for the best, any lead counts.
    """
    if not state.history:
        return False
    best, last = max(state.history), state.history[-1]
    if plan.start is not None and last < state.history[0]:
        return True
    return figure.is_clearly_below(last, best, images) if isinstance(plan.parts["stop"], stop.None_) else last < best


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
        figure = data.task.figure.key
        rows.append({"step": step, figure: scored.scores[figure], "loss": scored.scores["loss"]})
    return rows


def count_multiply_adds(model: nn.Module, preprocess: Preprocess) -> int | None:
    """The multiply-adds for one image; None where a model of the user's own cannot be traced."""
    try:
        return account_for(model, preprocess.channels, preprocess.size).totals["macs"]
    except Exception:  # whatever the user's code raises on meta tensors: the run is finished without this figure
        return None
