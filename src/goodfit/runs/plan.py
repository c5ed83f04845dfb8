"""The plan of a training in words: what was found, chosen and will be done, before it begins."""

from __future__ import annotations

from goodfit.core.parameters import has_parameters
from goodfit.core.parts import spell
from goodfit.core.reporter import Reporter
from goodfit.core.words import list_some
from goodfit.data.index import SPLITS, UNASSIGNED
from goodfit.predict.views import Viewer
from goodfit.recipe.prepare import Prepared
from goodfit.terminal.sketch import sketch_curve

SCHEDULE_POINTS = 1000  # of a learning rate that is drawn


def report_plan(prepared: Prepared, reporter: Reporter, whole: bool) -> None:
    """Report the plan: `whole` with every choice, else in a few lines."""
    reporter.say(*(describe_plan if whole else summarize_plan)(prepared))
    if not whole and prepared.choices:
        reporter.say("  What was chosen, and why: --verbose, or the report.")


def summarize_plan(prepared: Prepared) -> list[str]:
    """Describe in a few lines what will be trained: the data with its notes, the network, the training, its length, what is expected, and
    what is assumed of a source.
    """
    recipe, parts, training = prepared.recipe, prepared.parts, prepared.training
    steps = {seat: spell(parts[seat]) for seat in ("augment", "optimizer", "schedule")}
    height, width = prepared.data.preprocess.size
    lines = [
        *_describe_data(prepared),
        f"  network: {spell(parts['model'])}, {_count_parameters(prepared):,} parameters, images of {width} x {height} pixels",
    ]
    if has_parameters(training.state.model):
        expected = f"; expected accuracy {prepared.forecast}" if prepared.forecast else ""
        lines.append(f"  training: {', '.join(text for text in steps.values() if text != 'none')}")
        lines.append(f"  length: {recipe.budget} in steps of {round(training.plan.lengths.batch, 1):g} images{expected}")
    assumed = [f"  {choice.field} = {choice.value}  ({choice.rule})" for choice in prepared.choices if "assumed" in choice.rule]
    return [*lines, *assumed, *_describe_training(prepared)]


def describe_plan(prepared: Prepared) -> list[str]:
    """Describe the data, each choice with its rule and evidence, and the size of the network, in lines of text."""
    recipe, model = prepared.recipe, prepared.training.state.model
    lines = _describe_data(prepared)
    before = ""
    for choice in prepared.choices:
        if choice.field == "budget" and not has_parameters(model):
            continue  # no steps are made
        evidence = f": {choice.evidence}" if choice.evidence != before else ""  # one measurement may decide several fields
        before = choice.evidence
        lines.append(f"  {choice.field} = {choice.value}  ({choice.rule}{evidence})")
    length = f"; {recipe.budget} in steps of {round(prepared.training.plan.lengths.batch, 1):g}" if has_parameters(model) else ""
    lines.append(f"  {recipe.model}: {_count_parameters(prepared):,} parameters{length}")
    return [*lines, *_describe_training(prepared)]


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
