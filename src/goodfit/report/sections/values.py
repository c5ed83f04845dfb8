"""Values of a search: which of them matter, and the accuracy over each."""

from __future__ import annotations

import statistics
from typing import Any

from goodfit.core import words
from goodfit.core.run_files import get
from goodfit.report.charts import Chart, Series, render_chart
from goodfit.report.markup import EMPTY, Column, Html, bar, format_figure, format_percent, paragraph, section, table, tag
from goodfit.report.record import as_items, as_texts, get_number, get_share
from goodfit.report.sections.trials import Trials, format_drawn_value, has_diverged

STAGE_STYLES = ("faint", "ink", "accent")  # of the dots; the last stage has the last style
DOT_RADIUS, WINNER_RADIUS = 4.0, 8.0  # pixels
MARGIN = 0.04  # share of an axis beyond its outermost values
MIN_LOG_SPAN = 10.0  # ratio of the ends of an axis below which a logarithmic one would have too few numbers
IMPORTANCE_INTRO = (
    "The share of the variance of the accuracies that each value explains, alone and with others (functional ANOVA over a random forest)."
    " With few trials it is a rough guess."
)
VALUES_INTRO = "Each dot is a trial; the other values differ from dot to dot, too. Point at a dot to see which trial it is."
RUNGS_NOTE = " Trials of a lower rung are shorter, so they score less for that reason alone."

TrialPoint = tuple[float, dict[str, Any]]  # the value that a trial drew, and the trial's row in the results


def render_importance(results: dict[str, Any]) -> Html:
    """Render the importance of each value as bars."""
    importance = get(results, "importance")
    shares = {name: x for name, _ in as_items(importance) if (x := get_share(importance, name)) is not None}
    columns = [Column("Value"), Column("", "wide"), Column("Share of the variance", "number")]
    body = [[name, bar(x), format_percent(x, 0)] for name, x in sorted(shares.items(), key=lambda item: -item[1])]
    return section("importance", "Which values matter", paragraph(IMPORTANCE_INTRO), table(columns, body)) if body else EMPTY


def render_values(trials: Trials, results: dict[str, Any]) -> Html:
    """Render a chart of the accuracy over each numeric value, and a table for each choice."""
    warnings = as_texts(get(results, "warnings"))
    charts = [render_value_chart(trials, name, warnings) for name in trials.axes if not _read_choices(trials, name)]
    tables = [render_choices(trials, name) for name in trials.axes if _read_choices(trials, name)]
    if not any(charts) and not any(tables):
        return EMPTY
    intro = VALUES_INTRO + (RUNGS_NOTE if "rung2" in trials.ranges else "")
    return section(
        "values",
        f"{trials.figure.label} over each value",
        paragraph(intro),
        tag("div.charts.large", *charts),
        *tables,
    )


def render_value_chart(trials: Trials, name: str, warnings: list[str]) -> Html:
    """Render the accuracy over one value: dots in one style per stage, the stages' ranges, and crosses for trials that diverged."""
    points = [(x, row) for row in reversed(trials.ranked) if (x := get_number(row, "values", name)) is not None]
    scores = [y for _, row in points if (y := trials.value(row)) is not None and not has_diverged(row)]
    if not scores:
        return EMPTY
    ranges = {stage: ends for stage, axes in trials.ranges.items() if (ends := _read_range(axes.get(name)))}
    xs = [*(x for x, _ in points), *(x for ends in ranges.values() for x in ends)]
    log = get(trials.axes, name, "law") == "log" and min(xs) > 0 and max(xs) >= MIN_LOG_SPAN * min(xs)
    stages = [stage for stage in trials.ranges if any(row.get("stage") == stage for _, row in points)]
    styles = dict(zip(reversed(stages), reversed(STAGE_STYLES), strict=False))
    labels: dict[tuple[float, float], str] = {}
    for stage, ends in ranges.items():
        labels.setdefault(ends, f"range of {stage}")
    lost = [(x, row) for x, row in points if has_diverged(row)]
    floor = max(0.0, min(scores) - MARGIN) if trials.figure.is_share else min(scores) - MARGIN
    scored = [(x, row) for x, row in points if not has_diverged(row) and trials.value(row) is not None]
    series = [
        *(
            _build_dots(
                trials, stage, name, [point for point in scored if point[1].get("stage") == stage], styles.get(stage, STAGE_STYLES[0])
            )
            for stage in stages
        ),
        _build_dots(trials, "winner", name, [(x, row) for x, row in scored if row.get("run") == trials.winner], "ring", WINNER_RADIUS),
        _build_dots(trials, "diverged", name, lost, "cross", floor=floor),
    ]
    caption = [f"{words.count_of(len(lost), 'trial')} diverged: × at the bottom."] if lost else []
    count = words.count_of(len(points), "trial")
    return render_chart(
        Chart(
            name,
            tuple(series),
            " ".join([*caption, *(text for text in warnings if text.startswith(f"The best {name} of "))]),
            x=name,
            y=f"validation {trials.figure.name}",
            unit="percent" if trials.figure.is_share else "",
            log_x=log,
            ranges=tuple((*ends, label) for ends, label in labels.items()),
            x_range=_pad(min(xs), max(xs), log),
            summary=f"{trials.figure.label} over {name}: {count}, the best at {format_drawn_value(points[-1][0])}.",
        )
    )


def _build_dots(
    trials: Trials,
    label: str,
    name: str,
    points: list[TrialPoint],
    style: str,
    radius: float = DOT_RADIUS,
    floor: float | None = None,
) -> Series:
    """Build a series of dots with the accuracy of each trial, or at `floor`, where trials without a score are shown."""
    points = sorted(points, key=lambda point: point[0])
    ys = [floor if floor is not None else trials.value(row) for _, row in points]
    scores = ["diverged" if floor is not None else format_figure(trials.figure, y, 2) for y in ys]
    notes = [f"{row.get('run')}: {name} {format_drawn_value(x)}, {score}" for (x, row), score in zip(points, scores, strict=True)]
    return Series(label, [(x, y) for (x, _), y in zip(points, ys, strict=True)], style, (radius,) * len(points), tuple(notes))


def _read_choices(trials: Trials, name: str) -> list[str]:
    return as_texts(get(trials.axes, name, "choices"))


def _read_range(axis: object) -> tuple[float, float] | None:
    low, high = get_number(axis, "low"), get_number(axis, "high")
    return (low, high) if low is not None and high is not None and low < high else None


def _pad(low: float, high: float, log: bool) -> tuple[float, float]:
    """Widen a range by a margin at both ends."""
    if log:
        factor = (high / low) ** MARGIN
        return low / factor, high * factor
    margin = MARGIN * (high - low) or 0.5
    return low - margin, high + margin


def render_choices(trials: Trials, name: str) -> Html:
    """Render how the trials of each choice scored."""
    body = []
    for choice in _read_choices(trials, name):
        rows = [row for row in trials.ranked if str(get(row, "values", name)) == choice]
        scores = [y for row in rows if (y := trials.value(row)) is not None]
        median, best = statistics.median(scores) if scores else None, max(scores, default=None)
        body.append(
            [
                tag("code", choice),
                bar(median),
                format_figure(trials.figure, median, 2),
                format_figure(trials.figure, best, 2),
                f"{len(rows):,}",
            ]
        )
    columns = [
        Column(name),
        Column("", "wide"),
        *(Column(title, "number") for title in (f"Median {trials.figure.title}", "Best", "Trials")),
    ]
    return table(columns, body)
