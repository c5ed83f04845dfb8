"""How training went: loss, accuracy, learning rate, gradient norm and update ratio over the steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from goodfit.report.figures import Chart, Points, Series, draw, points_of, smoothed
from goodfit.report.markup import NOTHING, Column, Html, folded, listed, paragraph, percent, section, significant, table, tag
from goodfit.report.record import Record, at, finite, number

NOISY = 60  # train points above which the running mean is drawn over them
MOST_LINES = 60  # evaluations in the table
WHY = (
    "Training accuracy is measured on augmented images, with dropout and the like switched on, while the model is still changing, "
    "so it may lie below validation. Clean training is measured as validation is: on unaugmented training images, in evaluation mode. "
    "The distance between clean training and validation is the overfitting. Drag across a chart to zoom, double-click to see all again."
)


def curves(record: Record) -> Html:
    """All the charts, with the evaluations as a table and the events as a list."""
    if not record.train and not record.evaluations:
        return section("curves", "Curves", paragraph("No training step was logged."))
    large = [over_training(record, "loss"), over_training(record, "accuracy")]
    small = [rate(record), gradient(record), update_ratio(record)]
    return section(
        "curves",
        "Curves",
        paragraph(WHY),
        tag("noscript", paragraph("The charts are drawn by JavaScript, which is switched off; the table below holds the evaluations.")),
        tag("div.charts.large", *(draw(chart) for chart in large)),
        tag("div.charts.small", *(draw(chart) for chart in small)),
        _events(record),
        _evaluations(record),
        _layers(record),
    )


def over_training(record: Record, what: str) -> Chart:
    """Loss or accuracy: on training batches, on clean training images and on validation."""
    train = points_of(record.train, what)
    raw = [Series("train", train, "ink")]
    if len(train) > NOISY:
        raw = [Series("train, as logged", train, "faint"), Series("train, running mean", smoothed(train), "ink")]
    series = (
        *raw,
        Series("clean train", points_of(record.evaluations, "clean_train", what), "dashed"),
        Series("validation", points_of(record.evaluations, "validation", what), "accent"),
    )
    best = number(record.scores, "best", "step")
    marks = ((best, "best"),) if best is not None else ()
    spiky = what == "loss" and _spans([y for s in series for _, y in s.points], 30)
    unit, title = ("percent", "Accuracy") if what == "accuracy" else ("", "Loss")
    return Chart(title, series, unit=unit, log=spiky, marks=marks, per_epoch=record.steps_per_epoch, height=280)


def rate(record: Record) -> Chart:
    series = Series("learning rate", points_of(record.train, "lr"), "ink")
    return Chart("Learning rate", (series,), per_epoch=record.steps_per_epoch, height=180)


def gradient(record: Record) -> Chart:
    """The norm of the whole gradient, on a logarithmic axis when it spans much."""
    points = points_of(record.train, "grad_norm")
    raw = [Series("gradient norm", points, "ink")]
    if len(points) > NOISY:
        raw = [Series("gradient norm", points, "faint"), Series("running mean", smoothed(points), "ink")]
    caption = "Before clipping." if record.recipe.get("clip") else ""
    return Chart("Gradient norm", tuple(raw), caption, log=_spans([y for _, y in points], 20), per_epoch=record.steps_per_epoch, height=180)


def update_ratio(record: Record) -> Chart:
    """How large a step is beside the weights it changes: the layers' lowest, median and highest ratio."""
    low: Points = []
    middle: Points = []
    high: Points = []
    for line in record.train:
        step, ratios = number(line, "step"), _ratios(line)
        if step is not None and ratios:
            low.append((step, min(ratios.values())))
            middle.append((step, statistics.median(ratios.values())))
            high.append((step, max(ratios.values())))
    if len(middle) > NOISY:
        low, middle, high = smoothed(low), smoothed(middle), smoothed(high)
    series = (Series("highest layer", high, "edge"), Series("lowest layer", low, "edge"), Series("median", middle, "accent"))
    caption = "Size of a step over size of the weights, per layer; near 0.001 is a common rule of thumb."
    return Chart("Update to weight ratio", series, caption, log=True, per_epoch=record.steps_per_epoch, height=180)


def _ratios(line: dict[str, object]) -> dict[str, float]:
    ratios = at(line, "update_ratio")
    return {str(name): y for name, x in ratios.items() if (y := finite(x)) is not None} if isinstance(ratios, dict) else {}


def _spans(values: Sequence[float | None], times: float) -> bool:
    """Whether the highest value is that many times the median, so that a straight axis would hide the rest."""
    known = [value for value in values if value is not None and value > 0]
    return bool(known) and max(known) > times * statistics.median(known)


def _events(record: Record) -> Html:
    lines = [f"{record.when(event.get('step'))}: {event.get('text', '')}" for event in record.events]
    return tag("div", tag("h3", "Events"), listed([line[:1].upper() + line[1:] for line in lines])) if lines else NOTHING


def _evaluations(record: Record) -> Html:
    """The evaluations as a table: what the charts show, for reading and copying."""
    lines = record.evaluations
    if not lines:
        return NOTHING
    every = -(-len(lines) // MOST_LINES)
    kept = [line for place, line in enumerate(lines) if (len(lines) - 1 - place) % every == 0]
    columns = [Column("After")] + [
        Column(f"{split} {what}", "number") for split in ("Validation", "Clean train") for what in ("loss", "accuracy")
    ]
    body = [
        [
            record.when(line.get("step")),
            *(
                text
                for split in ("validation", "clean_train")
                for text in (significant(number(line, split, "loss")), percent(number(line, split, "accuracy")))
            ),
        ]
        for line in kept
    ]
    thinned = f" (every {every} of {len(lines)})" if every > 1 else ""
    return folded(f"The evaluations as a table{thinned}", table(columns, body))


def _layers(record: Record) -> Html:
    """The update ratio by layer, over the last tenth of training."""
    last = [ratios for line in record.train if (ratios := _ratios(line))]
    last = last[-max(1, len(last) // 10) :]
    if not last:
        return NOTHING
    layers = {name: statistics.median(known) for name in last[-1] if (known := [ratios[name] for ratios in last if name in ratios])}
    body = [[name, significant(value)] for name, value in layers.items()]
    return folded(
        "Update ratio by layer, over the last tenth", table([Column("Layer"), Column("Step over weights, median", "number")], body)
    )
