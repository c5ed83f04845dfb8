"""What the values of a search did: which of them matter, and the accuracy over each."""

from __future__ import annotations

import statistics
from typing import Any

from goodfit.core import words
from goodfit.report.markup import NOTHING, Column, Html, bar, paragraph, percent, section, table, tag
from goodfit.report.plot import Plot, Scale
from goodfit.report.record import at, items, number, share, texts
from goodfit.report.sections.trials import Trials, diverged, value_said

STYLES = ("faint", "ink", "accent")  # of the dots, by stage; the last stage has the last
RING = 8.0  # radius of the circle around the winner
PAD = 0.04  # share of an axis beyond its outermost values
MATTER = (
    "The share of the variance of the accuracies that each value explains, alone and with others (functional ANOVA over a random forest)."
    " With few trials it is a rough guess."
)
SCATTER = "Each dot is a trial; the other values differ from dot to dot, too. Point at one to see which it is."
LENGTHS = " Trials of a lower rung are shorter, so they score less for that alone."


def importance(results: dict[str, Any]) -> Html:
    """Bars of how much each value matters."""
    found = at(results, "importance")
    shares = {name: x for name, _ in items(found) if (x := share(found, name)) is not None}
    columns = [Column("Value"), Column("", "wide"), Column("Share of the variance", "number")]
    body = [[name, bar(x), percent(x, 0)] for name, x in sorted(shares.items(), key=lambda item: -item[1])]
    return section("importance", "Which values matter", paragraph(MATTER), table(columns, body)) if body else NOTHING


def scatters(trials: Trials, results: dict[str, Any]) -> Html:
    """The accuracy over each number, and a table for each choice."""
    warnings = texts(at(results, "warnings"))
    drawn = [scatter(trials, name, warnings) for name in trials.axes if not _choices(trials, name)]
    chosen = [choices(trials, name) for name in trials.axes if _choices(trials, name)]
    if not any(drawn) and not any(chosen):
        return NOTHING
    intro = SCATTER + (LENGTHS if "rung2" in trials.ranges else "")
    return section("values", "Accuracy over each value", paragraph(intro), tag("div.charts.large", *drawn), *chosen)


def _choices(trials: Trials, name: str) -> list[str]:
    return texts(at(trials.axes, name, "choices"))


def scatter(trials: Trials, name: str, warnings: list[str]) -> Html:
    """The accuracy over one number: stages told apart, their ranges drawn in, trials that diverged as crosses at the foot."""
    points = [(x, row) for row in reversed(trials.ranked) if (x := number(row, "values", name)) is not None]
    scores = [y for _, row in points if (y := share(row, "value")) is not None and not diverged(row)]
    if not scores:
        return NOTHING
    ranges = {stage: span for stage, own in trials.ranges.items() if (span := _span(own.get(name)))}
    ends = [*(x for x, _ in points), *(x for span in ranges.values() for x in span)]
    x_axis = _padded(name, min(ends), max(ends), at(trials.axes, name, "law") == "log" and min(ends) > 0)
    plot = Plot(x_axis, Scale("validation accuracy", max(0.0, min(scores) - PAD), min(1.0, max(scores) + PAD / 2), share=True))
    stages = [stage for stage in trials.ranges if any(row.get("stage") == stage for _, row in points)]
    styles = dict(zip(reversed(stages), reversed(STYLES), strict=False))
    key = [(styles.get(stage, STYLES[0]), stage) for stage in stages]
    for place, (stage, span) in enumerate(ranges.items()):
        if span not in list(ranges.values())[:place]:
            plot.band(*span, "wash" if place else "edge")
            key.append(("wash" if place else "edge", f"range of {stage}"))
    for x, row in points:
        told, y = f"{row.get('run')}: {name} {value_said(x)}", share(row, "value")
        if diverged(row):
            plot.cross(x, f"{told}, diverged")
        elif y is not None:
            plot.dot(x, y, f"{told}, {percent(y, 2)}", styles.get(str(row.get("stage")), STYLES[0]))
            if row.get("run") == trials.winner:
                plot.dot(x, y, f"{told}, {percent(y, 2)}, the winner", "ring", RING)
                key.append(("ring", "winner"))
    lost = sum(diverged(row) for _, row in points)
    crosses = f"{words.count_of(lost, 'trial')} diverged: × at the foot. " if lost else ""
    said = f"Accuracy over {name}: {words.count_of(len(points), 'trial')}, the best at {value_said(points[-1][0])}."
    return plot.figure(name, said, crosses + " ".join(text for text in warnings if text.startswith(f"The best {name} of ")), key)


def _span(axis: object) -> tuple[float, float] | None:
    low, high = number(axis, "low"), number(axis, "high")
    return (low, high) if low is not None and high is not None and low < high else None


def _padded(name: str, low: float, high: float, log: bool) -> Scale:
    if log:
        more = (high / low) ** PAD
        return Scale(name, low / more, high * more, log=True)
    more = PAD * (high - low) or 0.5
    return Scale(name, low - more, high + more)


def choices(trials: Trials, name: str) -> Html:
    """How the trials of each choice did."""
    body = []
    for choice in _choices(trials, name):
        own = [row for row in trials.ranked if str(at(row, "values", name)) == choice]
        scores = [y for row in own if (y := share(row, "value")) is not None]
        middle = statistics.median(scores) if scores else None
        body.append([tag("code", choice), bar(middle), percent(middle, 2), percent(max(scores, default=None), 2), f"{len(own):,}"])
    columns = [Column(name), Column("", "wide"), *(Column(title, "number") for title in ("Median accuracy", "Best", "Trials"))]
    return table(columns, body)
