"""The plan of a training: from what was asked to everything that trains, said on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from goodfit.core.run import Run, used
from goodfit.data.dataset import Dataset
from goodfit.data.headers import ImageHeaders
from goodfit.data.index import SPLITS
from goodfit.recipe.auto import Chooser, data_choices, machine_choices, training_choices
from goodfit.recipe.build import Built, build, catalog, check_model, parts
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.recipe.transfer import pretrained
from goodfit.runs import start
from goodfit.terminal.reporter import Voice
from goodfit.terminal.sketch import sketch
from goodfit.training.loop import learns

PLOTTED = 1000  # points of a schedule that is drawn


def plan_of(
    asked: Recipe, voice: Voice, run: Run | None = None, started: float | None = None
) -> tuple[Recipe, Built, Dataset, Chooser, ImageHeaders, float]:
    """What a recipe comes to on its data, said and built, for a new run or one to go on with; and when the data was packed.

    A budget in minutes counts from the clock time `started`.
    """
    recipe = start.continued(run, asked) if run else asked
    known = catalog(used(run) if run else recipe.use)
    asked_parts = parts(recipe, known)  # a misspelled part is said before any work
    chooser = Chooser(recipe)
    machine_choices(chooser)
    if (weights := pretrained.weights_of(recipe, run, voice.say)) and run is None:
        known = pretrained.take_over(chooser, weights, known)
    seen = look(chooser.recipe, voice.say)
    data_choices(chooser, seen)
    pretrained.settle(chooser, weights, known)
    data = open_data(chooser.recipe, seen, voice.packing)
    packed = time.time()
    rule = "raw pixels within the cache, JPEG above it, above that the originals, from which crops are then cut"
    chooser.choose("storage", data.pixels.storage, rule, f"the cache is {chooser.recipe.cache:g} GB")
    if "model" in asked_parts:
        check_model(asked_parts["model"], data)
    if run is None:
        training_choices(chooser, data, known, packed - started if started else 0.0)
    else:
        start.same_data(run, data)
    recipe = start.spelled(chooser.recipe, parts(chooser.recipe, known))
    built = build(recipe, data, known)
    if weights:
        built = pretrained.plant(built, weights, data)
    tell_plan(voice, recipe, data, chooser, built)
    return recipe, built, data, chooser, seen, packed


def plain_paths(recipe: Recipe) -> Recipe:
    """The recipe with its data, validation and use files as absolute paths where they are paths, so that it replays from anywhere."""

    def plain(text: Any) -> Any:
        path = Path(text).expanduser() if isinstance(text, str) and text else None
        return str(path.resolve()) if path is not None and path.exists() else text

    paths = {"data": plain(recipe.data), "validation": plain(recipe.validation), "use": tuple(plain(file) for file in recipe.use)}
    return recipe.but(**paths, source=pretrained.lasting(recipe.source))


def tell_plan(voice: Voice, recipe: Recipe, data: Dataset, chooser: Chooser, built: Built) -> None:
    """Say the data, each choice with its rule and evidence, and the size of the network."""
    counts = ", ".join(f"{len(data.rows(name)):,} {name}" for name in SPLITS)
    voice.say(f"{data.name}: {len(data.classes)} classes, {counts} images")
    for note in data.notes:
        voice.say(f"  {note}")
    before, model = "", built.state.model
    for choice in chooser.choices:
        if choice.field == "budget" and not learns(model):
            continue  # no steps are made
        evidence = f": {choice.evidence}" if choice.evidence != before else ""  # one measurement may decide several fields
        before = choice.evidence
        voice.say(f"  {choice.field} = {choice.value}  ({choice.rule}{evidence})")
    numbers = sum(p.numel() for p in model.parameters())
    length = f"; {recipe.budget} in steps of {round(built.plan.lengths.batch, 1):g}" if learns(model) else ""
    voice.say(f"  {recipe.model}: {numbers:,} parameters{length}")
    for note in built.notes:
        voice.say(f"  {note}")
    for warning in built.warnings:
        voice.say(f"Warning: {warning}")


def drawn(built: Built) -> str:
    """The learning rate over the budget, as text."""
    ts = [i / PLOTTED for i in range(PLOTTED + 1)]
    peak = float(built.state.optimizer.param_groups[0]["peak"])
    epochs = 1.0 if built.plan.lengths.timed else built.plan.lengths.total_steps / built.plan.lengths.epoch_steps
    label = "share of the budget" if built.plan.lengths.timed else "epochs"
    return sketch([t * epochs for t in ts], [peak * built.plan.schedule(t) for t in ts], "learning rate", label)
