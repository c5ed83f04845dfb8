"""Outputs: how well each label is found, or each number is met, with the predicted values against the true ones."""

from __future__ import annotations

from typing import Any

from goodfit.core.run_files import get
from goodfit.report.charts import Chart, Points, Series, render_chart
from goodfit.report.markup import (
    EMPTY,
    Child,
    Column,
    Html,
    bar,
    format_number,
    format_percent,
    paragraph,
    section,
    table,
    tag,
)
from goodfit.report.record import Record, as_interval, as_number, as_rows, get_number, get_share

DOT_RADIUS = 2.5  # pixels
LABELS_INTRO = (
    "Average precision asks only for the order of the images and holds for every threshold; F1, precision and recall are by the threshold, "
    "that of the highest F1 on validation. On validation itself each half of the images is judged by thresholds fitted to the other half."
)
NUMBERS_INTRO = "R2 is the share of the variance that is explained; RMSE and MAE are in the units of the number, as is its deviation."


def render_outputs(record: Record) -> Html:
    """Render the labels or numbers on the split that is shown; empty for classes."""
    return render_outputs_of(get(record.scores, record.split), record.split)


def render_outputs_of(scores: object, split: str) -> Html:
    """Render the labels or numbers in scores; `split` says of which images they are."""
    return render_labels(as_rows(get(scores, "labels")), split) or render_numbers(scores, split)


def render_labels(rows: list[dict[str, Any]], split: str) -> Html:
    """Render a table of the labels, the weakest first; empty without any."""
    body: list[list[Child]] = [
        [
            str(row.get("name", "")),
            bar(value := get_share(row, "average_precision")),
            format_percent(value),
            *(format_percent(get_share(row, key)) for key in ("f1", "precision", "recall")),
            format_number(get_number(row, "threshold")),
            f"{get_number(row, 'images') or 0:,.0f}",
        ]
        for row in sorted(rows, key=lambda row: get_share(row, "average_precision") or 0.0)
    ]
    titles = ("Average precision", "F1", "Precision", "Recall", "Threshold", f"Images in {split}")
    columns = [Column("Label"), Column("", "wide"), *(Column(title, "number") for title in titles)]
    return section("outputs", "Labels", paragraph(LABELS_INTRO), table(columns, body, f"Labels on {split}")) if body else EMPTY


def render_numbers(scores: object, split: str) -> Html:
    """Render a table of the numbers and a chart of each, predicted against true; empty without any."""
    rows = as_rows(get(scores, "numbers"))
    body: list[list[Child]] = [
        [
            str(row.get("name", "")),
            *(_format_with_interval(row, key) for key in ("r2", "rmse", "mae")),
            format_number(get_number(row, "deviation")),
        ]
        for row in rows
    ]
    columns = [Column("Number"), *(Column(title, "number") for title in ("R2", "RMSE", "MAE", "Deviation"))]
    charts = [build_scatter_chart(row, split) for row in rows]
    coverage = describe_coverage(rows, get(scores, "calibration"))
    return (
        section(
            "outputs",
            "Numbers",
            paragraph(NUMBERS_INTRO),
            table(columns, body, f"Numbers on {split}, with 95 % intervals"),
            paragraph(coverage) if coverage else None,
            tag("div.charts.large", *(render_chart(chart) for chart in charts)),
        )
        if body
        else EMPTY
    )


def build_scatter_chart(row: dict[str, Any], split: str) -> Chart:
    """Build the chart of the predicted values of a number against the true ones, with the line of those that are met."""
    pairs = row.get("points")
    read = [(_number_at(pair, 0), _number_at(pair, 1)) for pair in (pairs if isinstance(pairs, list) else [])]
    points: Points = sorted((x, y) for x, y in read if x is not None and y is not None)
    name = str(row.get("name", ""))
    ends: Points = [(x, x) for x in (points[0][0], points[-1][0])] if points else []
    series = (Series("met", ends, "guide"), Series("predicted", points, "accent", (DOT_RADIUS,) * len(points)))
    return Chart(f"{name}: predicted against true, on {split}", series, x=f"true {name}", y=f"predicted {name}")


def describe_coverage(rows: list[dict[str, Any]], calibration: object) -> str:
    """Say how wide the interval around each predicted number is, and how often it holds the true one; empty where that is not known."""
    widths, shares = (values if isinstance(values := get(calibration, key), list) else [] for key in ("half_widths", "coverage"))
    parts = [
        f"{row.get('name')} ± {format_number(as_number(width))} ({format_percent(as_number(share))})"
        for row, width, share in zip(rows, widths, shares, strict=False)
    ]
    level = format_percent(get_share(calibration, "level"), 0)
    aim = f"The intervals that predict gives are to hold the true number for {level} of images"
    return f"{aim}; here they do so for: {', '.join(parts)}." if parts else ""


def _format_with_interval(row: dict[str, Any], key: str) -> str:
    low, high = as_interval(row.get(f"{key}_interval"))
    interval = f" ({format_number(low)} to {format_number(high)})" if low is not None else ""
    return f"{format_number(get_number(row, key))}{interval}"


def _number_at(pair: object, place: int) -> float | None:
    return as_number(pair[place]) if isinstance(pair, list) and len(pair) > place else None
