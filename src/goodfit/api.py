"""Goodfit from Python: `train` images to a run, `load` its predictor, `evaluate` it on images held out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.reporter import Reporter, WarningsReporter
from goodfit.core.run import Run
from goodfit.core.steering import send
from goodfit.core.trust import trust_own_code
from goodfit.doctor.audit.audit import Audit, audit_recipe, audit_with_run
from goodfit.doctor.audit.image_table import ImageTable
from goodfit.doctor.doctor_adviser import DoctorAdviser
from goodfit.doctor.loop_patient import LoopParts
from goodfit.doctor.loop_watch import Watch
from goodfit.doctor.patient import Batches
from goodfit.inspection.dissection import LossFunction
from goodfit.predict.predictor import Predictor, load_predictor
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.report.page import write_report
from goodfit.runs.evaluate import EvaluateOptions, evaluate_run
from goodfit.runs.plan import report_plan
from goodfit.runs.train import RunOptions
from goodfit.runs.train import train as train_run
from goodfit.terminal.log import LoggingReporter
from goodfit.terminal.reporter import TerminalReporter
from goodfit.terminal.streams import MESSAGES
from goodfit.training.lr_range import LrRange, find_lr_range, sweep_lr


def train(
    data: str | Path = "", recipe: Recipe | None = None, out: str | Path | None = None, resume: str = "never", quiet: bool = False
) -> Run:
    """Train a classifier on images and return its run folder.

    `data` is a folder, file or name as on the command line (or the recipe's own); `recipe` says how, "auto" where left open. Progress is
    shown on a terminal and in a notebook, elsewhere told to the logger `goodfit`: evaluations at INFO, steps at DEBUG; with `quiet`,
    warnings are, and nothing else.

    Raises:
        GoodfitError: with one sentence on what is wrong; see goodfit.core.errors for the kinds.
    """
    recipe, reporter = recipe or Recipe(), _make_reporter(quiet)
    options = RunOptions(Path(out) if out else None, resume, reporter=reporter, adviser=DoctorAdviser())
    try:
        run = train_run(recipe.but(data=str(data)) if data else recipe, options)
    finally:
        reporter.clear_progress()
    assert run is not None
    return run


def _make_reporter(quiet: bool) -> Reporter:
    """The reporter for a person at a terminal or notebook, else for the program's log; when `quiet`, of warnings alone, to the log."""
    if quiet:
        return WarningsReporter(LoggingReporter())
    is_watched = MESSAGES.isatty() or hasattr(sys, "ps1")  # Python and IPython set ps1 where a person types
    return TerminalReporter() if is_watched else LoggingReporter()


def load(run: str | Path | Run, device: str = "auto", views: str = "") -> Predictor:
    """Load the predictor of a run or ensemble: `load(run).predict(paths, PIL images or arrays)`; `views`, as "ten_crop", replace its own.

    Raises:
        UsageError: there is no such run, it has no finished model yet, or its model does not take the views.
        GoodfitError: its model is damaged.
    """
    trust_own_code([views])
    return load_predictor(run, device, views)


def evaluate(
    run: str | Path | Run,
    test: bool = False,
    device: str = "auto",
    reporter: Reporter | None = None,
    marginalize: int = 0,
    views: str = "",
    calibrate: bool = False,
    augment: str = "",
) -> dict[str, Any]:
    """Score a run or an ensemble on its validation images, or on its test images; each opening of those is logged in the run.

    The figure of its task is under "accuracy", "mean_average_precision" or "r2", with its 95 % "interval"; docs/tasks.md has the others.

    The scores use the run's own views of an image, or `views`, such as "ten_crop"; the key "viewed" then has the scores of the mean over
    the first 1, 2, 4, ... and all of them, with their cost, beside those of the center crop.

    With `marginalize` N, the key "marginalized" has the scores of the mean of the probabilities over 1, 2, 4, ... N passes with the
    model's noise active, beside the "deterministic" pass without noise; the passes are seeded by the recipe, so they repeat. Each shows
    other draws of `augment`, such as "flip | crop(4)", or "train" for that of the training, if it is given.

    The key "calibration" has how well the probabilities are calibrated, before and after a temperature that is fitted to the validation
    images alone; with `calibrate` it is stored with the model, and `load` and predict apply it from then on.

    Raises:
        UsageError: there is no such run, it is not finished, its data has no test split, or its model has no noise or does not take the
            views.
        DataError: the data is gone or has changed.
    """
    trust_own_code([views, augment])
    folder = Run.open(run)
    reporter = reporter or LoggingReporter()
    result = evaluate_run(folder, EvaluateOptions(test, device, views, marginalize, calibrate, augment), reporter)
    try:
        write_report(folder.path)
    except GoodfitError as error:  # of a run that cannot be written
        reporter.say(f"Warning: the report could not be written: {error}")
    return result


def audit(data: str | Path = "", run: str | Path | None = None, quick: bool = False, reporter: Reporter | None = None) -> Audit:
    """Look for what makes training on images, or its scores, wrong: broken, blank and repeated images, leaks, wrong labels, other splits.

    With a `run` or a study of folds on them (whose images they are if `data` is empty) also its accuracy without leaked images, the labels
    that its predictions contradict, and the splits before and after its transforms. `quick` leaves out what compares images one by one.

    Raises:
        UsageError: there are neither data nor run, or the run has no predictions for these images.
        DataError: there are no images, or they cannot be trained on.
    """
    found, _ = open_audit(Recipe(data=str(data)), Path(run) if run is not None else None, quick, reporter or LoggingReporter())
    return found


def open_audit(asked: Recipe, run: Path | None, quick: bool, reporter: Reporter) -> tuple[Audit, ImageTable]:
    """Audit the images of a recipe, or where it names none those of a run, and return the images, too; see `audit`."""
    recipe = asked
    if run is not None and not run.is_dir():
        raise UsageError(f'Expected a run or a study of folds to audit the images of, found no folder "{run}".')
    if run is not None and (run / "recipe.toml").is_file():
        of_run = Recipe.of_run(run)
        recipe = of_run.but(data=asked.data) if asked.data else of_run
    found, table = audit_recipe(recipe, reporter, quick)
    return (audit_with_run(found, table, run, recipe, reporter) if run is not None else found), table


def lr_range(asked: Recipe, reporter: Reporter, low: float, high: float, steps: int) -> LrRange:
    """Run the learning-rate range test of a recipe: its model, data and optimizer, at rates from `low` to `high`; no run is made."""
    prepared = prepare(asked, reporter)
    report_plan(prepared, reporter, whole=False)
    training = prepared.training
    return find_lr_range(sweep_lr(training.state, training.loader, training.plan, low, high, steps))


def steer(run: str | Path | Run, command: str, factor: float | None = None) -> str:
    """Ask a training that is running for something before its next step; returns what will happen, in a sentence.

    `command` is lr, with the `factor` by which the learning rate is multiplied, snapshot, finish, pause, continue or stop.

    Raises:
        UsageError: there is no such run or command, or the run is not running.
    """
    return send(Run.open(run), command, factor)


def watch(
    model: nn.Module,
    optimizer: Optimizer,
    loss: LossFunction = F.cross_entropy,
    classes: int = 0,
    steps: int = 0,
    validation: Batches | None = None,
    evaluate: Callable[[nn.Module, Batches], float] | None = None,
    make_model: Callable[[], nn.Module] | None = None,
) -> Watch:
    """Watch a training loop of your own; its weights are the same, bit for bit, with the watch and without.

    Iterate over `watch.epoch(loader)`, and put each step into `with watch.step(images, labels) as step:`, in which `step.loss` is set. Then
    `watch.verdict()` says what is wrong, as the doctor does, and `watch.signals` has what was seen of each step.

    `loss` takes the outputs [B, K] and the labels; `classes` is K where the network has more outputs than there are classes; `steps` is how
    many are planned, if a verdict is wanted before they are over. With `validation`, batches that can be iterated again and again, training
    and validation are compared, and with `evaluate`, (model, batches) -> accuracy, how that is measured is examined. `make_model` makes the
    network anew: weights that differ each time are random, and must learn; the others are pretrained.
    """
    return Watch(model, optimizer, LoopParts(loss, steps, validation, evaluate, make_model), classes)
