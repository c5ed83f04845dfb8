"""The plan of a training in words: what was found, chosen and will be done, before it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from goodfit.core.chance import MIXING_BLOCK
from goodfit.core.parameters import has_parameters
from goodfit.core.parts import spell
from goodfit.core.reporter import WARNING, Reporter
from goodfit.core.run import list_runs
from goodfit.core.run_files import DamagedFile
from goodfit.core.words import format_duration, list_some
from goodfit.data.index import SPLITS, UNASSIGNED
from goodfit.predict.views import Viewer
from goodfit.recipe.auto import SMALL_SIDE
from goodfit.recipe.chooser import Choice
from goodfit.recipe.plan import MIN_COLOR_CHANNELS, SPEED_SHARE, speed_gain
from goodfit.recipe.prepare import Prepared
from goodfit.runs.adviser import Adviser
from goodfit.terminal.sketch import sketch_curve

SCHEDULE_POINTS = 1000  # of a learning rate that is drawn
GROUPS = {  # of the fields that are chosen, as they are reported
    "images": ("size", "channels", "mean", "std", "storage", "augment", "resolution", "views"),
    "network": ("model", "head_init", "trainable", "cached_views"),
    "length": ("budget", "evaluate_every"),
    "machine": ("device", "threads", "precision", "layout", "pieces"),
}
OTHER_GROUP = "steps"
# Training images up to which pretrained weights are spoken of: with 100 photos of clothing they were worth 35 points of test accuracy (72.0
# against 37.4 %, bench/transfer_real.py), with 2,400 about 7 (92.1 % against what the curves of recipe/curves.json end at, 84.7 %).
FEW_PHOTOS, VERY_FEW_PHOTOS = 5000, 500
WORTH_OF_WEIGHTS = {  # by the most training images: in half a minute from weights, in 5 minutes from scratch
    VERY_FEW_PHOTOS: "with 100 photos of clothing mobilenet_v2's reached 72 %, training from scratch 37 %",
    FEW_PHOTOS: "with 2,400 photos of clothing mobilenet_v2's reached 92 %, training from scratch 85 %",
}


def report_plan(prepared: Prepared, reporter: Reporter, whole: bool) -> None:
    """Report the plan: `whole` with every choice, else in a few lines; and what pretrained weights would be worth."""
    reporter.say(*(describe_plan if whole else summarize_plan)(prepared), *suggest_source(prepared))
    if not whole and prepared.choices:
        reporter.say("  What was chosen, and why: in the report, or here with -v.")


def warn_of_data(prepared: Prepared, adviser: Adviser, reporter: Reporter) -> Prepared:
    """Warn of what is wrong with the data by the adviser; the run keeps it with the other notes on its data."""
    remarks = adviser.remark_on(prepared.data)
    reporter.say(*(f"{WARNING}{text}" for text in remarks))
    return dataclasses.replace(prepared, data=dataclasses.replace(prepared.data, notes=(*prepared.data.notes, *remarks)))


def summarize_plan(prepared: Prepared) -> list[str]:
    """Describe in a few lines what will be trained: the data with its notes, the network, its images, the steps, their number and what is
    expected of them, and what is assumed of a source.
    """
    recipe, parts, training = prepared.recipe, prepared.parts, prepared.training
    height, width = prepared.data.preprocess.size
    lines = [*_describe_data(prepared), f"  network: {spell(parts['model'])}, {_count_parameters(prepared):,} parameters"]
    augment = "" if spell(parts["augment"]) == "none" else f", {spell(parts['augment'])}"
    lines.append(f"  images: {width} x {height} pixels{augment}")
    if has_parameters(training.state.model):
        expected = f"; expected accuracy {prepared.forecast}" if prepared.forecast else ""
        lines.append(f"  steps: {spell(parts['optimizer'])}, {spell(parts['schedule'])}")
        lines.append(
            f"  length: {recipe.budget}, {round(training.plan.lengths.batch, 1):,g} images a step{_describe_duration(prepared)}{expected}"
        )
    assumed = [f"  {choice.field} = {choice.value}  ({choice.rule})" for choice in prepared.choices if "assumed" in choice.rule]
    return [*lines, *assumed, *_describe_training(prepared)]


def describe_plan(prepared: Prepared) -> list[str]:
    """Describe the data, each choice with its rule and evidence, and the size of the network, in lines of text."""
    recipe, model = prepared.recipe, prepared.training.state.model
    lines = _describe_data(prepared)
    choices = [choice for choice in prepared.choices if choice.field != "budget" or has_parameters(model)]  # else no steps are made
    for group in dict.fromkeys((*GROUPS, OTHER_GROUP)):
        in_group = [choice for choice in choices if find_group(choice.field) == group]
        lines += [f"  {group}:", *_describe_choices(in_group)] if in_group else []
    length = f"; {recipe.budget}, {round(prepared.training.plan.lengths.batch, 1):g} images a step" if has_parameters(model) else ""
    lines.append(f"  {recipe.model}: {_count_parameters(prepared):,} parameters{length}")
    return [*lines, *_describe_training(prepared)]


def describe_sync(prepared: Prepared, processes: int) -> list[str]:
    """Say what it means in so many processes that their weights are averaged once in a while; nothing where their gradients are."""
    sync: Any = prepared.parts["sync"]
    if sync.every == 0:
        return []
    if processes == 1:
        return [f"  Note: sync = {spell(sync)} has no effect in one process: give --processes."]
    lines = []
    if (images := prepared.recipe.images_per_step(len(prepared.data.splits.train))) <= MIXING_BLOCK * (processes - 1):
        lines.append(
            f"  Note: a step of {images} images has less than {MIXING_BLOCK} for each of {processes} processes: each computes all of them;"
            f" give --batch-size {MIXING_BLOCK * processes} or more."
        )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in prepared.training.state.model.modules()):
        lines.append(
            "  Note: batch norms take their statistics from each process's own images; the running ones are averaged with the weights."
        )
    return lines


def find_group(field: str) -> str:
    """The group of choices that one of a field is reported with."""
    return next((group for group, fields in GROUPS.items() if field in fields), OTHER_GROUP)


def _describe_choices(choices: Iterable[Choice]) -> list[str]:
    """A line for each choice; one measurement may decide several fields, and is evidence once."""
    lines, before = [], ""
    for choice in choices:
        evidence = f": {choice.evidence}" if choice.evidence != before else ""
        before = choice.evidence
        lines.append(f"    {choice.field} = {choice.value}  ({choice.rule}{evidence})")
    return lines


def suggest_source(prepared: Prepared) -> list[str]:
    """Say what pretrained weights would be worth where a conv net is to learn few photos from scratch, and how to get them.

    It is said once for the same images: not of a run that goes on, nor where the newest run in runs/ was trained on them.
    """
    recipe, data = prepared.recipe, prepared.data
    side = float(data.extents.min(1).values.double().median())
    are_photos = data.preprocess.channels >= MIN_COLOR_CHANNELS and side > SMALL_SIDE
    has_convs = any(isinstance(module, nn.Conv2d) for module in prepared.training.state.model.modules())
    goes_on = not prepared.choices
    if recipe.source or goes_on or not (are_photos and has_convs) or len(data.splits.train) > FEW_PHOTOS:
        return []
    try:
        newest = [run.read("about.json").get("data", {}).get("digest") for run in list_runs(Path("runs"))[-1:]]
    except DamagedFile:
        newest = []
    if data.digest in newest:
        return []
    worth = next(text for most, text in WORTH_OF_WEIGHTS.items() if len(data.splits.train) <= most)
    return [
        f"  Pretrained weights are worth more here than a longer training: {worth}.",
        "  --from mobilenet_v2:imagenet fetches them; --from also takes a file (.pth, .safetensors) or a run of yours.",
    ]


def _describe_duration(prepared: Prepared) -> str:
    """About how long a training of a counted length will take, where the speed of its steps was measured."""
    lengths, resolution = prepared.training.plan.lengths, prepared.parts["resolution"]
    if lengths.timed or prepared.seconds_per_image is None:
        return ""
    images = lengths.total_steps * lengths.batch
    gain = SPEED_SHARE * speed_gain(resolution, prepared.data.preprocess.size)  # type: ignore[arg-type]
    return f", about {format_duration(images * prepared.seconds_per_image / gain)}"


def _describe_data(prepared: Prepared) -> list[str]:
    data = prepared.data
    counts = ", ".join(f"{len(data.rows(name)):,} {name}" for name in SPLITS)
    kind = data.task.name
    many = f"{len(data.classes)} {kind}" if len(data.classes) != 1 else f"1 {kind.removesuffix('s')}"
    lines = [f"{data.name}: {many}, {counts} images", f"  {kind}, in order: {list_some(list(data.classes), 10)}"]
    if prepared.index.split_source and (prepared.index.splits != UNASSIGNED).any():
        lines.append(f"  splits: by {prepared.index.split_source}")
    return lines + [f"  {note}" for note in data.notes]


def _describe_training(prepared: Prepared) -> list[str]:
    return [f"  {note}" for note in prepared.training.notes] + [f"Warning: {warning}" for warning in prepared.training.warnings]


def _count_parameters(prepared: Prepared) -> int:
    return sum(p.numel() for p in prepared.training.state.model.parameters())


def check_views(prepared: Prepared) -> None:
    """Refuse views that the model does not take.

    Raises:
        UsageError: it does not.
    """
    evaluator, model = prepared.training.evaluator, prepared.training.state.model
    Viewer(model, prepared.parts["views"], prepared.data.preprocess, evaluator.loss, evaluator.device).check()


def sketch_schedule(prepared: Prepared) -> str:
    """Draw the learning rate over the budget as text."""
    plan, lengths = prepared.training.plan, prepared.training.plan.lengths
    ts = [i / SCHEDULE_POINTS for i in range(SCHEDULE_POINTS + 1)]
    peak = float(prepared.training.state.optimizer.param_groups[0]["peak"])
    epochs = 1.0 if lengths.timed else lengths.total_steps / lengths.epoch_steps
    label = "share of the budget" if lengths.timed else "epochs"
    return sketch_curve([t * epochs for t in ts], [peak * plan.schedule(t) for t in ts], "learning rate", label)
