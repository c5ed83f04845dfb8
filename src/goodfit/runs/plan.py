"""The plan of a training in words: what was found, chosen and will be done, before it begins."""

from __future__ import annotations

from collections.abc import Iterable

from goodfit.core.parameters import has_parameters
from goodfit.core.parts import spell
from goodfit.core.reporter import Reporter
from goodfit.core.words import list_some
from goodfit.data.index import SPLITS, UNASSIGNED
from goodfit.predict.views import Viewer
from goodfit.recipe.chooser import Choice
from goodfit.recipe.prepare import Prepared
from goodfit.terminal.sketch import sketch_curve

SCHEDULE_POINTS = 1000  # of a learning rate that is drawn
GROUPS = {  # of the fields that are chosen, as they are reported
    "images": ("size", "channels", "mean", "std", "storage", "augment", "resolution", "views"),
    "network": ("model", "head_init", "trainable", "cached_views"),
    "length": ("budget", "evaluate_every"),
    "machine": ("device", "threads", "precision", "layout", "pieces"),
}
OTHER_GROUP = "steps"


def report_plan(prepared: Prepared, reporter: Reporter, whole: bool) -> None:
    """Report the plan: `whole` with every choice, else in a few lines."""
    reporter.say(*(describe_plan if whole else summarize_plan)(prepared))
    if not whole and prepared.choices:
        reporter.say("  What was chosen, and why: --verbose, or the report.")


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
        lines.append(f"  length: {recipe.budget}, {round(training.plan.lengths.batch, 1):g} images a step{expected}")
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


def _describe_data(prepared: Prepared) -> list[str]:
    data = prepared.data
    counts = ", ".join(f"{len(data.rows(name)):,} {name}" for name in SPLITS)
    lines = [f"{data.name}: {len(data.classes)} classes, {counts} images", f"  classes, in order: {list_some(list(data.classes), 10)}"]
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
