"""Curves of training: loss, accuracy, learning rate, gradient norm and update ratio over the steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from goodfit.core.run_files import get
from goodfit.report.charts import Chart, Points, Series, read_points, render_chart, smooth
from goodfit.report.markup import EMPTY, Column, Html, bullet_list, details, format_figure, format_number, paragraph, section, table, tag
from goodfit.report.record import Record, as_number, get_number

MIN_POINTS_FOR_RUNNING_MEAN = 60
MAX_EVALUATION_ROWS = 60
INTRO = (
    "Training accuracy is measured on augmented images, with dropout and the like switched on, while the model is still changing, "
    "so it may lie below validation. Clean training is measured as validation is: on unaugmented training images, in evaluation mode. "
    "The distance between clean training and validation is the overfitting. Drag across a chart to zoom, double-click to zoom out."
)


def render_curves(record: Record) -> Html:
    """Render all charts, the evaluations as a table, and the events as a list."""
    if not record.train and not record.evaluations:
        return section("curves", "Curves", paragraph("No training step was logged."))
    large = [build_score_chart(record, "loss"), build_score_chart(record, record.figure.key)]
    small = [build_learning_rate_chart(record), build_gradient_norm_chart(record), build_update_ratio_chart(record)]
    return section(
        "curves",
        "Curves",
        paragraph(INTRO),
        tag("div.charts.large", *(render_chart(chart) for chart in large)),
        tag("div.charts.small", *(render_chart(chart) for chart in small)),
        _render_events(record),
        _render_evaluations(record),
        _render_layers(record),
    )


def build_score_chart(record: Record, score: str) -> Chart:
    """Build the chart of `loss` or `accuracy` (or another figure) on training batches, on clean training images and on validation."""
    train = read_points(record.train, score)
    raw = [Series("train", train, "ink")]
    if len(train) > MIN_POINTS_FOR_RUNNING_MEAN:
        raw = [Series("train, as logged", train, "faint"), Series("train, running mean", smooth(train), "ink")]
    series = (
        *raw,
        Series("clean train", read_points(record.evaluations, "clean_train", score), "dashed"),
        Series("validation", read_points(record.evaluations, "validation", score), "accent"),
    )
    kept = get_number(record.scores, "kept")
    marks = ((kept, "kept"),) if kept is not None else ()
    spiky = score == "loss" and _needs_log_axis([y for s in series for _, y in s.points], 30)
    figure = record.figure
    title, unit = ("Loss", "") if score == "loss" else (figure.label, "percent" if figure.is_share else "")
    return Chart(title, series, unit=unit, log=spiky, marks=marks, steps_per_epoch=record.steps_per_epoch, height=280)


def build_learning_rate_chart(record: Record) -> Chart:
    """Build the chart of the learning rate."""
    series = Series("learning rate", read_points(record.train, "lr"), "ink")
    return Chart("Learning rate", (series,), steps_per_epoch=record.steps_per_epoch, height=180)


def build_gradient_norm_chart(record: Record) -> Chart:
    """Build the chart of the norm of the whole gradient, on a logarithmic axis if it has peaks."""
    points = read_points(record.train, "grad_norm")
    raw = [Series("gradient norm", points, "ink")]
    if len(points) > MIN_POINTS_FOR_RUNNING_MEAN:
        raw = [Series("gradient norm", points, "faint"), Series("running mean", smooth(points), "ink")]
    caption = "Before clipping." if record.recipe.get("clip") else ""
    return Chart(
        "Gradient norm",
        tuple(raw),
        caption,
        log=_needs_log_axis([y for _, y in points], 20),
        steps_per_epoch=record.steps_per_epoch,
        height=180,
    )


def build_update_ratio_chart(record: Record) -> Chart:
    """Build the chart of the size of a step relative to the weights: the lowest, median and highest ratio of the layers."""
    low: Points = []
    middle: Points = []
    high: Points = []
    for line in record.train:
        step, ratios = get_number(line, "step"), _update_ratios(line)
        if step is not None and ratios:
            low.append((step, min(ratios.values())))
            middle.append((step, statistics.median(ratios.values())))
            high.append((step, max(ratios.values())))
    if len(middle) > MIN_POINTS_FOR_RUNNING_MEAN:
        low, middle, high = smooth(low), smooth(middle), smooth(high)
    series = (Series("highest layer", high, "edge"), Series("lowest layer", low, "edge"), Series("median", middle, "accent"))
    caption = "Norm of the step over norm of the weights, per layer; about 0.001 is a common rule of thumb."
    return Chart("Update to weight ratio", series, caption, log=True, steps_per_epoch=record.steps_per_epoch, height=180)


def _update_ratios(line: dict[str, object]) -> dict[str, float]:
    ratios = get(line, "update_ratio")
    return {str(name): y for name, x in ratios.items() if (y := as_number(x)) is not None} if isinstance(ratios, dict) else {}


def _needs_log_axis(values: Sequence[float | None], times: float) -> bool:
    """Tell whether the highest value is more than `times` the median, so that a linear axis would hide the rest."""
    positive = [value for value in values if value is not None and value > 0]
    return bool(positive) and max(positive) > times * statistics.median(positive)


def _render_events(record: Record) -> Html:
    lines = [f"{record.describe_step(event.get('step'))}: {event.get('text', '')}" for event in record.events]
    return tag("div", tag("h3", "Events"), bullet_list([line[:1].upper() + line[1:] for line in lines])) if lines else EMPTY


def _render_evaluations(record: Record) -> Html:
    """Render the evaluations as a table, for reading and copying what the charts show."""
    lines = record.evaluations
    if not lines:
        return EMPTY
    every, kept = -(-len(lines) // MAX_EVALUATION_ROWS), get_number(record.scores, "kept")
    is_kept = [kept is not None and get_number(line, "step") == kept for line in lines]
    selected = [index for index in range(len(lines)) if (len(lines) - 1 - index) % every == 0 or is_kept[index]]
    columns = [Column("After")] + [
        Column(f"{split} {score}", "number") for split in ("Validation", "Clean train") for score in ("loss", record.figure.title)
    ]
    body = [
        [
            f"{record.describe_step(lines[index].get('step'))}{' (kept)' if is_kept[index] else ''}",
            *(
                text
                for split in ("validation", "clean_train")
                for text in (
                    format_number(get_number(lines[index], split, "loss")),
                    format_figure(record.figure, get_number(lines[index], split, record.figure.key)),
                )
            ),
        ]
        for index in selected
    ]
    thinned = f" (one in {every} of {len(lines)})" if every > 1 else ""
    return details(f"The evaluations as a table{thinned}", table(columns, body))


def _render_layers(record: Record) -> Html:
    """Render the update ratio by layer, over the last tenth of training."""
    last = [ratios for line in record.train if (ratios := _update_ratios(line))]
    last = last[-max(1, len(last) // 10) :]
    if not last:
        return EMPTY
    layers = {name: statistics.median(values) for name in last[-1] if (values := [ratios[name] for ratios in last if name in ratios])}
    body = [[name, format_number(value)] for name, value in layers.items()]
    return details(
        "Update ratio by layer, over the last tenth", table([Column("Layer"), Column("Step over weights, median", "number")], body)
    )
