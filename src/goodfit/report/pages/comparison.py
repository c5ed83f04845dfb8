"""The page of a comparison: scores, paired differences, recipes and curves of several runs."""

from __future__ import annotations

from typing import Any

from goodfit.core import words
from goodfit.report.charts import Chart, Series, render_chart
from goodfit.report.frame import render_page
from goodfit.report.markup import (
    EMPTY,
    Column,
    Html,
    bullet_list,
    format_interval,
    format_large_count,
    format_number,
    format_percent,
    paragraph,
    section,
    table,
    tag,
)

STYLES = ("accent", "ink", "dashed", "faint", "edge")


def render_comparison(comparison: dict[str, Any]) -> str:
    """Render the comparison that `goodfit compare --json` prints as one HTML text."""
    rows = comparison["runs"]
    title = f"{words.count_of(len(rows), 'run')} compared"
    parts = (
        ("scores", "Scores", render_scores(comparison)),
        ("pairs", "Image by image", render_pairs(comparison)),
        ("recipes", "Recipes", render_recipes(comparison)),
        ("curves", "Curves", render_curves(rows)),
    )
    header = tag("header", tag("p.eyebrow", "Goodfit comparison"), tag("h1", title))
    return render_page(f"{title} · Goodfit comparison", header, parts, "Made from the folders of the runs.")


def render_scores(comparison: dict[str, Any]) -> Html:
    """Render the scores and costs of the runs, the groups that differ in their seed only, and the baselines."""
    columns = [Column("Run"), Column("Folder"), *(Column(t, "number") for t in (
        "Accuracy", "95 % interval", "Log loss", "Calibration error", "Time", "Parameters", "Multiply-adds"))]  # fmt: skip
    body = [
        [
            row["letter"],
            tag("code", row["path"]),
            format_percent(row["accuracy"]),
            format_interval(*row["interval"]),
            format_number(row["log_loss"]),
            format_percent(row["calibration_error"]),
            words.format_duration(row["seconds"]) if row["seconds"] is not None else "not measured",
            *(format_large_count(row[key]) if row[key] is not None else "not measured" for key in ("parameters", "multiply_adds")),
        ]
        for row in comparison["runs"]
    ]
    seeds = [
        f"{', '.join(group['runs'])} differ in their seed: mean {format_percent(group['accuracy'], 2)},"
        f" standard error {format_percent(group['standard_error'], 2)}."
        for group in comparison["groups"]
        if group["standard_error"] is not None
    ]
    baselines = [
        f"{row['name'].capitalize()}: {format_percent(row['accuracy'])} of {words.count_of(row['judged'], 'validation image')}."
        for row in comparison["baselines"].get("rows", [])
    ]
    run = comparison["baselines"].get("of")
    title = f"Baselines of {run}" if run else "Baselines"
    extra = tag("div", tag("h3", title), bullet_list(baselines)) if baselines else EMPTY
    return section("scores", "Scores and cost", table(columns, body), bullet_list(seeds), extra)


def render_pairs(comparison: dict[str, Any]) -> Html:
    """Render the differences between the first group of runs and each of the others, on the images that both were evaluated on."""
    columns = [
        Column("Difference"),
        *(Column(t, "number") for t in ("Points", "95 % interval", "Images", "Only the first right", "Only the second right", "p")),
    ]
    body = []
    for row in comparison["pairs"]:
        name = f"{', '.join(row['one'])} minus {', '.join(row['other'])}"
        if "problem" in row:
            body.append([name, row["problem"], "", "", "", "", ""])
            continue
        low, high = (f"{100 * x:+.2f}" for x in row["interval"])
        counts = [f"{row[key]:,}" if row[key] is not None else "" for key in ("only_one", "only_other")]
        p = format_number(row["p"], 2) if row["p"] is not None else ""
        body.append([name, f"{100 * row['difference']:+.2f}", f"{low} to {high}", f"{row['images']:,}", *counts, p])
    note = (
        "Differences in accuracy on the same validation images, with intervals by the paired bootstrap; p is by McNemar's exact test, where"
        " each side is a single run."
    )
    return section("pairs", "Image by image", paragraph(note), table(columns, body)) if body else EMPTY


def render_recipes(comparison: dict[str, Any]) -> Html:
    """Render the fields in which the recipes differ."""
    if len(comparison["runs"]) < 2:
        return EMPTY
    if not comparison["differences"]:
        return section("recipes", "Recipes", paragraph("The recipes are the same."))
    columns = [Column("Setting"), *(Column(row["letter"]) for row in comparison["runs"])]
    body = [[row["field"], *(tag("code", value) for value in row["values"])] for row in comparison["differences"]]
    return section("recipes", "Where the recipes differ", table(columns, body))


def render_curves(rows: list[dict[str, Any]]) -> Html:
    """Render the validation accuracy over the budget, with all runs in one chart."""
    rows = [row for row in rows if row["curve"]]
    series = [Series(row["letter"], [(t, y) for t, y in row["curve"]], STYLES[index % len(STYLES)]) for index, row in enumerate(rows)]
    chart = render_chart(Chart("Validation accuracy", tuple(series), x="share of the budget", unit="percent", height=320))
    return section("curves", "Curves", tag("div.charts.large", chart)) if chart else EMPTY
