"""Goodfit from Python: `train` images to a run, `load` the run's classifier, `evaluate` it on images held out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from goodfit.core.errors import Diverged, GoodfitError, Interrupted, Terminated, UsageError
from goodfit.core.files import write
from goodfit.core.run import Run, refuse_taken
from goodfit.core.words import count, duration, percent
from goodfit.data.dataset import SPLITS, Dataset
from goodfit.recipe import start
from goodfit.recipe.auto import Chooser, data_choices, machine_choices, training_choices
from goodfit.recipe.build import Built, Judge, build, catalog, check_model, parts
from goodfit.recipe.classifier import Classifier, load_run
from goodfit.recipe.finish import finish
from goodfit.recipe.marginalize import averaged, needs_noise
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.signals import Halt, halting
from goodfit.recipe.source import look, open_data
from goodfit.report.page import write_report
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.evaluate import scores
from goodfit.training.journal import Journal
from goodfit.training.loop import fit
from goodfit.watch.tensorboard import Events, writer
from goodfit.watch.voice import Silent, Terminal, Voice


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a training is carried out, beside what it trains: where it is written, whether it goes on with an earlier run, who hears of it.

    `out` names the run folder (default: runs/<time>-<data>); `resume` is "never" or "auto"; `dry` prints the plan and stops;
    `started` is the clock time that a budget in minutes counts from.
    """

    out: Path | None = None
    resume: str = "never"
    dry: bool = False
    tensorboard: bool = False
    voice: Voice = dataclasses.field(default_factory=Silent)
    started: float = dataclasses.field(default_factory=time.time)


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


def load(run: str | Path | Run, device: str = "auto") -> Classifier:
    """The classifier of a run: `load(run).predict(paths, PIL images or arrays)`."""
    return load_run(run.path if isinstance(run, Run) else run, device)


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
    recipe = start.continued(run, asked) if run else asked
    known = catalog([str(path) for path in sorted((run.path / "use").glob("*.py"))] if run else recipe.use)
    asked_parts = parts(recipe, known)  # a misspelled part is said before any work
    chooser = Chooser(recipe)
    machine_choices(chooser)
    seen = look(chooser.recipe, manner.voice.say)
    data_choices(chooser, seen)
    data = open_data(chooser.recipe, seen, manner.voice.packing)
    packed = time.time()
    if "model" in asked_parts:
        check_model(asked_parts["model"], data)
    if run is None:
        training_choices(chooser, data, known, packed - manner.started)
    elif manner.out is None and not start.is_same_data(run, data):
        return run_owned(asked, None, dataclasses.replace(manner, resume="never"))
    else:
        start.same_data(run, data)
    recipe = start.spelled(chooser.recipe, parts(chooser.recipe, known))
    built = build(recipe, data, known)
    tell_plan(manner.voice, recipe, data, chooser, built)
    if manner.dry:
        return None
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
        start.begin(run, asked, recipe, data, seen.index, chooser.choices)
        run.point_latest()
        train_run(run, built, data, recipe, manner, seconds)
    return run


def train_run(run: Run, built: Built, data: Dataset, recipe: Recipe, manner: Manner, seconds: dict[str, float]) -> None:
    """Train a run that is written down, to its end."""
    built.state.elapsed += time.time() - manner.started
    carry_out(run, built, manner, seconds)
    finished(run, built, data, recipe, manner.voice)


def plain_paths(recipe: Recipe) -> Recipe:
    """The recipe with its data, validation and use files as absolute paths where they are paths, so that it replays from anywhere."""

    def plain(text: Any) -> Any:
        path = Path(text).expanduser() if isinstance(text, str) and text else None
        return str(path.resolve()) if path is not None and path.exists() else text

    return recipe.but(data=plain(recipe.data), validation=plain(recipe.validation), use=tuple(plain(file) for file in recipe.use))


def tell_plan(voice: Voice, recipe: Recipe, data: Dataset, chooser: Chooser, built: Built) -> None:
    """Say the data, each choice with its rule and evidence, and the size of the network."""
    counts = ", ".join(f"{len(data.rows(name)):,} {name}" for name in SPLITS)
    voice.say(f"{data.name}: {len(data.classes)} classes, {counts} images")
    for note in data.notes:
        voice.say(f"  {note}")
    before = ""
    for choice in chooser.choices:
        evidence = f": {choice.evidence}" if choice.evidence != before else ""  # one measurement may decide several fields
        before = choice.evidence
        voice.say(f"  {choice.field} = {choice.value}  ({choice.rule}{evidence})")
    numbers = sum(p.numel() for p in built.state.model.parameters())
    voice.say(f"  {recipe.model}: {numbers:,} parameters; {recipe.budget} in steps of {built.plan.lengths.batch}")
    for warning in built.warnings:
        voice.say(f"Warning: {warning}")


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
    state, checkpoints = built.state, Checkpoints(run.checkpoints)
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
            fit(state, built.loader, built.plan, built.watch, journal, checkpoints.save, halt)
        except BaseException as error:
            journal.flush()
            leave("diverged" if isinstance(error, Diverged) else "failed")
            raise
    if halt.signal and built.plan.t(state) < 1:
        leave("interrupted" if halt.signal == "SIGINT" else "terminated")
        raise halt_error(halt, run, state.step)
    leave("running")  # finished only when its model is written, too


def halt_error(halt: Halt, run: Run, step: int) -> GoodfitError:
    """What to say of a run that was asked to stop."""
    kind = Interrupted if halt.signal == "SIGINT" else Terminated
    return kind(f'Stopped at step {step:,}, everything is saved; the same command with "--resume auto --out {run.path}" goes on.')


def finished(run: Run, built: Built, data: Dataset, recipe: Recipe, voice: Voice) -> None:
    """Score, keep, report."""
    began = time.time()
    result = finish(run, built, data, recipe, catalog(str(p) for p in sorted((run.path / "use").glob("*.py"))))
    seconds = run.read("about.json").get("seconds", {})
    parameters = sum(p.numel() for p in built.state.model.parameters())
    spent = {**seconds, "evaluation": seconds.get("evaluation", 0.0) + time.time() - began}
    state = "stopped early" if built.state.stopped else "finished"
    run.update("about.json", {"state": state, "finished": start.now(), "parameters": parameters, "seconds": spent})
    page = write_report(run)
    low, high = result["interval"]
    voice.say(
        f"Validation accuracy {percent(result['accuracy'])} (95 % interval {percent(low)} to {percent(high)}, {result['images']:,} images)."
    )
    voice.say(f"Run: {run.path}\nReport: {page}")


def train_seeds(asked: Recipe, manner: Manner, seeds: int) -> dict[str, Any]:
    """Train `seeds` copies that differ in their seed alone; returns the mean validation accuracy and its standard error."""
    runs = []
    for place in range(seeds):
        out = manner.out / f"seed-{asked.seed + place}" if manner.out else None
        run = run_recipe(
            asked.but(seed=asked.seed + place), dataclasses.replace(manner, out=out, started=time.time() if place else manner.started)
        )
        if run is not None:
            runs.append(run)
    found = [run.read("scores.json")["validation"]["accuracy"] for run in runs]
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return {
        "runs": [str(run.path) for run in runs],
        "accuracies": found,
        "accuracy": statistics.fmean(found) if found else None,
        "standard_error": error,
    }


def evaluate(
    run: str | Path | Run, test: bool = False, device: str = "auto", voice: Voice | None = None, marginalize: int = 0
) -> dict[str, Any]:
    """Scores of a run's classifier on its validation images, or on its test images: each opening of those is logged in the run.

    With `marginalize` N, the key "marginalized" has what the mean of the probabilities over 1, 2, 4, ... N passes with the model's
    noise at work comes to, beside the "deterministic" rule without noise; the passes are seeded by the recipe, so they repeat.

    Raises:
        UsageError: there is no such run, it is not finished, its data has no test split, or its model no noise to average over.
        DataError: the data is gone or has changed.
    """
    folder = run if isinstance(run, Run) else Run.open(run)
    voice = voice or Silent()
    recipe = Recipe.from_toml(folder.path / "recipe.toml")
    classifier = load_run(folder.path, device)
    needs_noise(classifier.model, marginalize)
    torch.set_num_threads(int(recipe.threads))
    data = open_data(recipe, look(recipe, voice.say), voice.packing)
    start.same_data(folder, data)
    rows = data.rows("test" if test else "validation")
    if not len(rows):
        raise UsageError(f'"{data.name}" has no test images to evaluate on.')
    if test:
        open_test(folder, voice)
    judge = Judge(data, classifier.loss, classifier.device)
    answers = judge(classifier.model, rows)
    result = scores(answers, data.classes)
    if marginalize:
        result["marginalized"] = averaged(judge, classifier.model, answers, marginalize, recipe.seed)
    folder.update("scores.json", {"test" if test else "validation": result})
    write_report(folder)
    return result


def open_test(run: Run, voice: Voice) -> None:
    """Log that the test split is opened; warn from the second time on."""
    openings = run.read("about.json").get("openings", [])
    if openings:
        voice.say(
            f"Warning: the test split of this run was opened {count(len(openings), 'time')} before,"
            f" first {openings[0]['time']}; choosing by it makes it a second validation split."
        )
    command = " ".join(psutil.Process().cmdline()[1:])
    run.update("about.json", {"openings": [*openings, {"time": start.now(), "command": command}]})
