"""Goodfit from Python: `train` images to a run, `load` the run's classifier, `evaluate` it on images held out."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

from goodfit.core.errors import Diverged, GoodfitError, UsageError
from goodfit.core.files import write
from goodfit.core.run import ENSEMBLE, Run, refuse_taken, used
from goodfit.core.words import duration, percent
from goodfit.data.dataset import Dataset
from goodfit.predict.ensemble import Ensemble, load_any
from goodfit.predict.predictor import Classifier
from goodfit.recipe.build import Built, catalog
from goodfit.recipe.plan import drawn, plain_paths, plan_of
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.advise import resolved
from goodfit.report.page import write_report
from goodfit.runs import baselines, panel, start
from goodfit.runs import evaluate as evaluation
from goodfit.runs.finish import finish, multiply_adds
from goodfit.runs.signals import halt_error, halting
from goodfit.study import cross_validation as crossing
from goodfit.study import seeds as copies
from goodfit.terminal.reporter import Silent, Terminal, Voice
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.journal import Journal
from goodfit.training.loop import fit
from goodfit.training.lr_range import Trace, Verdict, judge, sweep
from goodfit.training.snapshots import FOLDER, Snapshots
from goodfit.training.steering import Lever
from goodfit.watch.tensorboard import Events, writer

LEVER = "lever"  # folder of a run: the pulls of a person


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a training is carried out, beside what it trains: where it is written, whether it goes on with an earlier run, who hears of it.

    `out` names the run folder (default: runs/<time>-<data>); `resume` is "never" or "auto"; `dry` prints the plan and stops; `plot`
    draws the learning rate; `started` is the clock time that a budget in minutes counts from; with `told` the plan is not said again.
    """

    out: Path | None = None
    resume: str = "never"
    dry: bool = False
    plot: bool = False
    tensorboard: bool = False
    voice: Voice = dataclasses.field(default_factory=Silent)
    started: float = dataclasses.field(default_factory=time.time)
    told: bool = False


def train(
    data: str | Path = "", recipe: Recipe | None = None, out: str | Path | None = None, resume: str = "never", quiet: bool = False
) -> Run:
    """Train a classifier on images and return its run folder.

    `data` is a folder, file or name as on the command line (or the recipe's own); `recipe` says how, "auto" where left open.

    Raises:
        GoodfitError: with one sentence on what is wrong; see goodfit.core.errors for the kinds.
    """
    recipe = recipe or Recipe()
    manner = Manner(Path(out) if out else None, resume, voice=Silent() if quiet else Terminal())
    run = run_recipe(recipe.but(data=str(data)) if data else recipe, manner)
    assert run is not None
    return run


def load(run: str | Path | Run, device: str = "auto", views: str = "") -> Classifier | Ensemble:
    """The classifier of a run or ensemble: `load(run).predict(paths, PIL images or arrays)`; `views`, as "ten_crop", replace its own."""
    return load_any(run.path if isinstance(run, Run) else run, device, views)


def run_recipe(asked: Recipe, manner: Manner) -> Run | None:
    """Train what a recipe asks for; None under `dry`."""
    if manner.tensorboard:
        writer()  # a missing extra is said before any work
    asked = plain_paths(asked)
    run = start.earlier(asked, manner.out, manner.resume)
    with start.owned(run) if run else contextlib.nullcontext():
        return run_owned(asked, run, manner)


def run_owned(asked: Recipe, run: Run | None, manner: Manner) -> Run | None:
    """Train a recipe anew, or go on with `run`."""
    if run is None and manner.out is not None and not manner.dry:
        refuse_taken(manner.out)  # said before any work
    voice = Silent() if manner.told else manner.voice
    try:
        recipe, built, data, chooser, survey, packed = plan_of(resolved(asked, voice) if run is None else asked, voice, run, manner.started)
    except start.Changed:
        if manner.out is not None:
            raise
        return run_owned(asked, None, manner)
    if manner.plot:
        voice.say(drawn(built))
    if manner.dry:
        return None
    timed, compared = built.plan.lengths.timed, {}
    if timed and run is None:  # what comes after the last step would be over the budget
        compared = baselines.baselines(data, baselines.SHARE * built.plan.lengths.budget.amount)
    seconds = {"data": packed - manner.started, "startup": time.time() - packed}
    if run is not None:
        go_on(run, asked, recipe, built, manner.voice)
        train_run(run, built, data, recipe, manner, seconds)
        return run
    if built.plan.lengths.t(0, time.time() - manner.started) >= 1:
        raise GoodfitError(
            f"The budget of {recipe.budget} was over before the first step: packing the images took {duration(seconds['data'])}."
            " They are packed now: run the same command again, or give a longer budget."
        )
    run = Run.new(manner.out, data.name)
    with start.owned(run):
        start.begin(run, asked, recipe, data, survey.index, chooser.choices, built.source)
        if timed:
            run.write(baselines.FILE, compared)
        run.point_latest()
        train_run(run, built, data, recipe, manner, seconds)
    return run


def train_run(run: Run, built: Built, data: Dataset, recipe: Recipe, manner: Manner, seconds: dict[str, float]) -> None:
    """Train a run that is written down, to its end."""
    built.state.elapsed += time.time() - manner.started
    carry_out(run, built, manner, seconds)
    finished(run, built, data, recipe, manner.voice)


def lr_range(asked: Recipe, manner: Manner, low: float, high: float, steps: int) -> tuple[Trace, Verdict]:
    """The learning-rate range test of a recipe: its model, data and optimizer, at rates from `low` to `high`; no run is made."""
    built = plan_of(resolved(plain_paths(asked), manner.voice), manner.voice)[1]
    trace = sweep(built.state, built.loader, built.plan, low, high, steps)
    return trace, judge(trace)


def steer(run: str | Path | Run, factor: float) -> Path:
    """Multiply the learning rate of a training that is running, from its next step on; returns the file that asks for it.

    Raises:
        UsageError: there is no such run, or it is not running.
    """
    folder = run if isinstance(run, Run) else Run.open(run)
    if (state := folder.read("about.json").get("state")) != "running":
        raise UsageError(f'Expected "{folder.path}" to be a run that is training now, but it is {state}.')
    return Lever(folder.path / LEVER).pull(factor)


def go_on(run: Run, asked: Recipe, recipe: Recipe, built: Built, voice: Voice) -> None:
    """Bring a run back to its last good checkpoint, and its log with it."""
    before = Recipe.from_toml(run.path / "recipe.toml")
    state, plan = built.state, built.plan
    checkpoints = Checkpoints(run.checkpoints)
    if not checkpoints.steps() and (run.path / "model.safetensors").exists():
        raise UsageError(f'The checkpoints of "{run.path}" are gone, so it cannot go on: start anew with another --out.')
    if checkpoints.steps():
        for sentence in checkpoints.restore(state):
            voice.say(sentence)
    if (before.budget, before.evaluate_every) != (recipe.budget, recipe.evaluate_every) and plan.evaluate_every:
        state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, plan.t(state))
    if (before.budget, before.stop) != (recipe.budget, recipe.stop):
        state.stopped = ""
    start.refuse_shorter(run, recipe.budget, state.step, plan.lengths)
    run.cut_log(state.step)
    run.point_latest()
    run.update("about.json", {"state": "running", "asked": asked.plain()})
    write(run.path / "recipe.toml", recipe.to_toml())
    voice.say(f"Going on with {run.path} at step {state.step:,}.")


def carry_out(run: Run, built: Built, manner: Manner, seconds: dict[str, float]) -> None:
    """Train, and leave the run in a state that can be taken up again whatever happens."""
    state, snapshots = built.state, Snapshots(Checkpoints(run.checkpoints), run.path / FOLDER)
    readers = (run.append, manner.voice.rows, *((Events(run.path / "tensorboard"),) if manner.tensorboard else ()))
    journal = Journal(readers)
    began = time.time()
    before = run.read("about.json").get("seconds", {})

    def leave(word: str) -> None:
        manner.voice.hush()
        spent = {name: before.get(name, 0.0) + x for name, x in {**seconds, "training": time.time() - began}.items()}
        run.update("about.json", {"state": word, "finished": start.now(), "seconds": {**before, **spent}})

    with halting() as halt:
        try:
            fit(state, built.loader, built.plan, built.watch, journal, snapshots.save, halt, Lever(run.path / LEVER))
        except BaseException as error:
            journal.flush()
            leave("diverged" if isinstance(error, Diverged) else "failed")
            raise
    if halt.signal and built.plan.t(state) < 1:
        leave("interrupted" if halt.signal == "SIGINT" else "terminated")
        raise halt_error(halt, run, state.step)
    leave("running")  # finished only when its model is written, too


def finished(run: Run, built: Built, data: Dataset, recipe: Recipe, voice: Voice) -> None:
    """Score, keep, report."""
    began = time.time()
    result = finish(run, built, data, recipe, catalog(used(run)))
    seconds = run.read("about.json").get("seconds", {})
    parameters = sum(p.numel() for p in built.state.model.parameters())
    spent = {**seconds, "evaluation": seconds.get("evaluation", 0.0) + time.time() - began}
    cost = {"parameters": parameters, "multiply_adds": multiply_adds(built.state.model, data.preprocess), "seconds": spent}
    run.update("about.json", {"state": "stopped early" if built.state.stopped else "finished", "finished": start.now(), **cost})
    low, high = result["interval"]
    voice.say(
        f"Validation accuracy {percent(result['accuracy'])} (95 % interval {percent(low)} to {percent(high)}, {result['images']:,} images)."
    )
    try:
        if not built.plan.lengths.timed:
            run.write(baselines.FILE, baselines.baselines(data, baselines.limit(spent["training"])))
    except (GoodfitError, OSError) as error:  # the images are gone, say: the run is finished all the same
        voice.say(f"Warning: the baselines could not be computed: {error}")
    finally:
        page = write_report(run.path)
    voice.say(f"Run: {run.path}\nReport: {page}")


def train_seeds(asked: Recipe, manner: Manner, seeds: int) -> dict[str, Any]:
    """Train `seeds` copies that differ in their seed alone; returns the mean validation accuracy and its standard error."""
    return copies.train_seeds(asked, trainer(manner), manner.out, seeds, manner.voice)


def train_folds(asked: Recipe, manner: Manner, folds: int, groups: Path | None = None) -> dict[str, Any]:
    """Cross-validate: train once for each of so many folds of the training and validation images; see `study.crossing.train_folds`.

    The page of the folds is written after each, one that was stopped too, and at the end.
    """
    train_one = trainer(dataclasses.replace(manner, resume="auto"))

    def train(recipe: Recipe, out: Path | None) -> Run | None:
        try:
            return train_one(recipe, out)
        finally:
            if out is not None:
                write_report(out.parent)

    result = crossing.train_folds(asked, train, folds, manner.out, manner.resume, manner.dry, groups, manner.voice)
    if result:
        write_report(Path(result["folder"]))
    return result


def trainer(manner: Manner) -> copies.Train:
    """What trains one recipe after the other; for the first alone the plan is said, and a budget in minutes counts from `started`."""
    first = [manner]

    def train_one(recipe: Recipe, out: Path | None) -> Run | None:
        own = first.pop() if first else dataclasses.replace(manner, started=time.time(), told=True)
        return run_recipe(recipe, dataclasses.replace(own, out=out))

    return train_one


def evaluate(
    run: str | Path | Run,
    test: bool = False,
    device: str = "auto",
    voice: Voice | None = None,
    marginalize: int = 0,
    views: str = "",
    calibrate: bool = False,
) -> dict[str, Any]:
    """Scores of a run's classifier on its validation images, or on its test images: each opening of those is logged in the run.

    They are by the run's own views of an image, or by `views`, such as "ten_crop"; the key "viewed" then has what the mean over the first
    1, 2, 4, ... and all of them comes to, with its cost, beside the center crop.

    With `marginalize` N, the key "marginalized" has what the mean of the probabilities over 1, 2, 4, ... N passes with the model's
    noise at work comes to, beside the "deterministic" rule without noise; the passes are seeded by the recipe, so they repeat.

    The key "calibration" has how well the probabilities are calibrated, before and after a temperature that is fitted to the validation
    images alone; with `calibrate` it is stored with the model, and `load` and predict apply it from then on.

    Raises:
        UsageError: there is no such run, it is not finished, its data has no test split, or its model no noise or no use for the views.
        DataError: the data is gone or has changed.
    """
    folder = run if isinstance(run, Run) else Run.open(run)
    voice = voice or Silent()
    if calibrate and (test or views):
        raise UsageError(
            f"calibrate fits a temperature to the validation images by the run's own views, received {'test' if test else views} too."
        )
    if (folder.path / ENSEMBLE).is_file():
        result = panel.evaluate(folder, test, device, voice, views, "marginalize" if marginalize else "calibrate" if calibrate else "")
    else:
        result = evaluation.evaluate(folder, test, device, voice, views, marginalize, calibrate)
    write_report(folder.path)
    return result
