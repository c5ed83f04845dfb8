"""The page of a comparison: which run is best, scores, paired differences, curves and recipes of several runs."""

from __future__ import annotations

from typing import Any

from goodfit.core import words
from goodfit.core.figures import ACCURACY, Figure, figure_of
from goodfit.report.charts import Chart, Series, render_chart, run_style
from goodfit.report.frame import render_page
from goodfit.report.markup import (
    EMPTY,
    Column,
    Html,
    bar,
    bullet_list,
    format_figure,
    format_interval,
    format_large_count,
    format_number,
    format_percent,
    join,
    paragraph,
    section,
    table,
    tag,
)

PAIRS_NOTE = (
    "Differences on the same validation images, with intervals by the paired bootstrap; p is by McNemar's exact test, where"
    " each side is a single run. A difference whose interval holds 0 could be luck."
)
MANY_PAIRS_NOTE = " By chance alone one interval in twenty misses the truth, so a run is called best only where it leads every other one."


def render_comparison(comparison: dict[str, Any]) -> str:
    """Render the comparison that `goodfit compare --json` prints as one HTML text."""
    rows = comparison["runs"]
    title = f"{words.count_of(len(rows), 'run')} compared"
    parts = (
        ("scores", "Scores", render_scores(comparison)),
        ("pairs", "Image by image", render_pairs(comparison)),
        ("curves", "Curves", render_curves(rows, figure_of(comparison))),
        ("recipes", "Recipes", render_recipes(comparison)),
    )
    verdict = comparison["verdict"]["sentence"]
    header = tag("header", tag("p.eyebrow", "Goodfit comparison"), tag("h1", title), tag("p.verdict", verdict) if verdict else None)
    return render_page(f"{title} · Goodfit comparison", header, parts, "Made from the folders of the runs.")


def render_scores(comparison: dict[str, Any]) -> Html:
    """Render the scores and costs of the runs, the groups that differ in their seed only, and the baselines."""
    figure = figure_of(comparison)
    columns = [Column("Run"), Column("", "wide"), *(Column(t, "number") for t in (
        figure.heading, "95 % interval", "Log loss", "Calibration error", "Time", "Parameters", "Multiply-adds"))]  # fmt: skip
    body = [
        [
            render_name(row, place),
            bar(row[figure.key], *row["interval"]),
            format_figure(figure, row[figure.key]),
            format_interval(row["interval"][0], row["interval"][1], figure),
            format_number(row["log_loss"]),
            format_percent(row["calibration_error"]),
            words.format_duration(row["seconds"]) if row["seconds"] is not None else "not measured",
            *(format_large_count(row[key]) if row[key] is not None else "not measured" for key in ("parameters", "multiply_adds")),
        ]
        for place, row in enumerate(comparison["runs"])
    ]
    seeds = [
        f"{', '.join(group['runs'])} differ in their seed: mean {format_figure(figure, group[figure.key], 2)},"
        f" standard error {format_figure(figure, group['standard_error'], 2)}."
        for group in comparison["groups"]
        if group["standard_error"] is not None
    ]
    preposition = "of" if figure is ACCURACY else "on"
    baselines = [
        f"{row['name'].capitalize()}: {format_figure(figure, row.get(figure.key))} {preposition}"
        f" {words.count_of(row['judged'], 'validation image')}."
        for row in comparison["baselines"].get("rows", [])
    ]
    run = comparison["baselines"].get("of")
    title = f"Baselines of {run}" if run else "Baselines"
    extra = tag("div", tag("h3", title), bullet_list(baselines)) if baselines else EMPTY
    return section("scores", "Scores and cost", table(columns, body), bullet_list(seeds), extra)


def render_name(row: dict[str, Any], place: int) -> Html:
    """Render the short name of the run at a place, with the line that it has in the charts, and its folder."""
    line = tag(f"i.line.{run_style(place)}", attrs={"aria-hidden": "true"})
    return join([line, row["name"], tag("code.folder", row["path"]) if row["path"] != row["name"] else None])


def render_pairs(comparison: dict[str, Any]) -> Html:
    """Render the difference of each pair of runs, on the images that both were evaluated on."""
    figure = figure_of(comparison)
    columns = [
        Column("Difference"),
        *(
            Column(t, "number")
            for t in (
                "Points" if figure.is_share else figure.heading,
                "95 % interval",
                "Images",
                "Only the first right",
                "Only the second right",
                "p",
            )
        ),
    ]
    body = []
    for row in comparison["pairs"]:
        name = f"{', '.join(row['one'])} over {', '.join(row['other'])}"
        if "problem" in row:
            body.append([tag("span", name, tag("span.dim", f": {row['problem']}")), "", "", "", "", "", ""])
            continue
        ends = (row["difference"], *row["interval"])
        points, low, high = (figure.format_signed(x, 2) for x in ends)
        counts = [f"{row[key]:,}" if row[key] is not None else "" for key in ("only_one", "only_other")]
        p = format_number(row["p"], 2) if row["p"] is not None else ""
        is_clear = not row["interval"][0] <= 0 <= row["interval"][1]
        body.append([name, tag("strong", points) if is_clear else points, f"{low} to {high}", f"{row['images']:,}", *counts, p])
    note = PAIRS_NOTE + (MANY_PAIRS_NOTE if len(body) > 1 else "")
    return section("pairs", "Image by image", paragraph(note), table(columns, body)) if body else EMPTY


def render_recipes(comparison: dict[str, Any]) -> Html:
    """Render the fields in which the recipes differ."""
    if len(comparison["runs"]) < 2:
        return EMPTY
    if not comparison["differences"]:
        return section("recipes", "Recipes", paragraph("The recipes are the same."))
    columns = [Column("Setting"), *(Column(row["name"]) for row in comparison["runs"])]
    body = [[row["field"], *(tag("code", value) for value in row["values"])] for row in comparison["differences"]]
    return section("recipes", "Where the recipes differ", table(columns, body))


def render_curves(rows: list[dict[str, Any]], figure: Figure) -> Html:
    """Render the validation accuracy over the budget, with all runs in one chart."""
    series = [Series(row["name"], [(t, y) for t, y in row["curve"]], run_style(place)) for place, row in enumerate(rows) if row["curve"]]
    chart = render_chart(
        Chart(f"Validation {figure.name}", tuple(series), x="share of the budget", unit="percent" if figure.is_share else "", height=360)
    )
    return section("curves", "Curves", tag("div.charts.large", chart)) if chart else EMPTY
