"""The page of a comparison: scores, differences, pairs and curves of several runs in one HTML file that opens offline."""

from __future__ import annotations

from typing import Any

from goodfit.core import words
from goodfit.report.figures import Chart, Series, draw
from goodfit.report.frame import framed
from goodfit.report.markup import NOTHING, Column, Html, listed, millions, paragraph, percent, section, significant, table, tag

STYLES = ("accent", "ink", "dashed", "faint", "edge")


def render(found: dict[str, Any]) -> str:
    """The comparison that `goodfit compare --json` prints, as one HTML text."""
    rows = found["runs"]
    title = f"{words.count_of(len(rows), 'run')} compared"
    parts = (
        ("scores", "Scores", scores(found)),
        ("pairs", "Image by image", pairs(found)),
        ("recipes", "Recipes", recipes(found)),
        ("curves", "Curves", curves(rows)),
    )
    header = tag("header", tag("p.eyebrow", "Goodfit comparison"), tag("h1", title))
    return framed(f"{title} · Goodfit comparison", header, parts, "Made from the folders of the runs.")


def scores(found: dict[str, Any]) -> Html:
    """Scores and cost, a row for each run; the groups of seeds; the baselines."""
    columns = [Column("Run"), Column("Folder"), *(Column(t, "number") for t in (
        "Accuracy", "95 % interval", "Log loss", "Calibration error", "Time", "Parameters", "Multiply-adds"))]  # fmt: skip
    body = [
        [
            row["letter"],
            tag("code", row["path"]),
            percent(row["accuracy"]),
            f"{percent(row['interval'][0])} to {percent(row['interval'][1])}",
            significant(row["log_loss"]),
            percent(row["calibration_error"]),
            words.format_duration(row["seconds"]) if row["seconds"] is not None else "not measured",
            *(millions(row[key]) if row[key] is not None else "not measured" for key in ("parameters", "multiply_adds")),
        ]
        for row in found["runs"]
    ]
    seeds = [
        f"{', '.join(group['runs'])} differ in their seed: mean {percent(group['accuracy'], 2)},"
        f" standard error {percent(group['standard_error'], 2)}."
        for group in found["groups"]
        if group["standard_error"] is not None
    ]
    base = [
        f"{row['name'].capitalize()}: {percent(row['accuracy'])} of {words.count_of(row['judged'], 'validation image')}."
        for row in found["baselines"].get("rows", [])
    ]
    extra = (
        tag("div", tag("h3", f"Baselines{f', of {whose}' if (whose := found['baselines'].get('of')) else ''}"), listed(base))
        if base
        else NOTHING
    )
    return section("scores", "Scores and cost", table(columns, body), listed(seeds), extra)


def pairs(found: dict[str, Any]) -> Html:
    """The first group against each of the others, on the images both judged."""
    columns = [
        Column("Less"),
        *(Column(t, "number") for t in ("Points", "95 % interval", "Images", "Only the first right", "Only the other", "p")),
    ]
    body = []
    for row in found["pairs"]:
        name = f"{', '.join(row['one'])} less {', '.join(row['other'])}"
        if "problem" in row:
            body.append([name, row["problem"], "", "", "", "", ""])
            continue
        low, high = (f"{100 * x:+.2f}" for x in row["interval"])
        tossed = [f"{row[key]:,}" if row[key] is not None else "" for key in ("only_one", "only_other")]
        p = significant(row["p"], 2) if row["p"] is not None else ""
        body.append([name, f"{100 * row['difference']:+.2f}", f"{low} to {high}", f"{row['images']:,}", *tossed, p])
    note = "Differences of accuracy on the same validation images: paired bootstrap, and McNemar's exact test where each side is one run."
    return section("pairs", "Image by image", paragraph(note), table(columns, body)) if body else NOTHING


def recipes(found: dict[str, Any]) -> Html:
    """The fields of the recipes that differ."""
    if len(found["runs"]) < 2:
        return NOTHING
    if not found["differences"]:
        return section("recipes", "Recipes", paragraph("The recipes are the same."))
    columns = [Column("Setting"), *(Column(row["letter"]) for row in found["runs"])]
    body = [[row["field"], *(tag("code", value) for value in row["values"])] for row in found["differences"]]
    return section("recipes", "Where the recipes differ", table(columns, body))


def curves(rows: list[dict[str, Any]]) -> Html:
    """Validation accuracy over the budget, all runs in one chart."""
    drawn = [row for row in rows if row["curve"]]
    series = [Series(row["letter"], [(t, y) for t, y in row["curve"]], STYLES[place % len(STYLES)]) for place, row in enumerate(drawn)]
    chart = draw(Chart("Validation accuracy", tuple(series), x="share of the budget", unit="percent", height=320))
    return section("curves", "Curves", tag("div.charts.large", chart)) if chart else NOTHING
