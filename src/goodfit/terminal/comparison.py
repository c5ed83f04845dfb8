"""A comparison of runs as lines of text."""

from __future__ import annotations

from typing import Any

from goodfit.core.figures import figure_of
from goodfit.core.words import format_duration, format_percent
from goodfit.terminal.sketch import sketch_curve
from goodfit.terminal.tables import format_table

MAX_CURVES = 8


def format_comparison(comparison: dict[str, Any]) -> list[str]:
    """Format what `study.compare.compare_runs` returns: which run is best, scores, pairs, recipes where they differ, baselines, curves."""
    verdict = comparison["verdict"]["sentence"]
    return [
        *([verdict, ""] if verdict else []),
        *_format_scores(comparison),
        *_format_pairs(comparison),
        *_format_recipes(comparison),
        *_format_baselines(comparison),
        *_format_curves(comparison),
    ]


def _format_scores(comparison: dict[str, Any]) -> list[str]:
    """A line for each run, and one for each group of seeds."""
    rows, figure = [], figure_of(comparison)
    for row in comparison["runs"]:
        low, high = map(figure.format, row["interval"])
        loss = "-" if row["log_loss"] is None else f"{row['log_loss']:.4f}"
        error = "-" if row["calibration_error"] is None else format_percent(row["calibration_error"])
        seconds = "-" if row["seconds"] is None else format_duration(row["seconds"])
        parameters, work = ("-" if row[key] is None else f"{row[key]:,}" for key in ("parameters", "multiply_adds"))
        folds = f" ({len(row['folds'])} folds)" if row["folds"] else ""
        numbers = (figure.format(row[figure.key]), f"{low} to {high}", loss, error, seconds, parameters, work)
        rows.append((row["name"], *numbers, f"{row['path']}{folds}"))
    header = ("", figure.title, "95 % interval", "log loss", "calibr.", "time", "parameters", "mult-adds", "folder")
    lines = format_table(rows, "<><>>>>><", header).split("\n")
    for group in comparison["groups"]:
        if group["standard_error"] is not None:
            mean, error = figure.format(group[figure.key], 2), figure.format(group["standard_error"], 2)
            lines.append(f"{', '.join(group['runs'])} differ in their seed: mean {mean}, standard error {error}.")
    return lines


def _format_pairs(comparison: dict[str, Any]) -> list[str]:
    """A line for each pair that can be compared, and a sentence for each that cannot."""
    rows, problems, figure = [], [], figure_of(comparison)
    for pair in comparison["pairs"]:
        one, other = ("mean of " * (len(pair[side]) > 1) + ", ".join(pair[side]) for side in ("one", "other"))
        if "problem" in pair:
            problems.append(f"{one} and {other} cannot be compared image by image: {pair['problem']}.")
            continue
        only_one, only_other, p = (
            ("", "", "") if pair["p"] is None else (f"{pair['only_one']:,}", f"{pair['only_other']:,}", f"{pair['p']:.2g}")
        )
        ends = (pair["difference"], *pair["interval"])
        points, low, high = (figure.format_signed(x, 2) for x in ends)
        note = "could be luck" if pair["interval"][0] <= 0 <= pair["interval"][1] else ""
        rows.append((f"{one} over {other}", points, f"{low} to {high}", f"{pair['images']:,}", only_one, only_other, p, note))
    header = (
        "image by image",
        "points" if figure.is_share else figure.title,
        "95 % interval",
        "images",
        "only 1st right",
        "only 2nd right",
        "McNemar's p",
        "",
    )
    table = format_table(rows, "<><>>>><", header).split("\n") if rows else []
    return ["", *table, *problems] if table or problems else []


def _format_recipes(comparison: dict[str, Any]) -> list[str]:
    """The fields of the recipes that differ, each value with the runs that have it."""
    if len(comparison["runs"]) < 2:
        return []
    if not comparison["differences"]:
        return ["", "The recipes are the same."]
    lines = ["", "The recipes are the same except for"]
    for row in comparison["differences"]:
        with_value: dict[str, list[str]] = {}
        for run, value in zip(comparison["runs"], row["values"], strict=True):
            with_value.setdefault(value, []).append(run["name"])
        lines.append(f"  {row['field']}")
        lines += format_table([(", ".join(names), value) for value, names in with_value.items()], "<<", indent="    ").split("\n")
    return lines


def _format_baselines(comparison: dict[str, Any]) -> list[str]:
    """The baselines in one line."""
    baselines = comparison["baselines"]
    if not baselines:
        return []
    figure = figure_of(baselines)
    rows = [f"{row['name']} {figure.format(row[figure.key])}" for row in baselines["rows"] if row.get(figure.key) is not None]
    of_run = f" of {baselines['of']}" if "of" in baselines else ""
    return ["", f"Baselines on the validation images{of_run}: {', '.join(rows)}."]


def _format_curves(comparison: dict[str, Any]) -> list[str]:
    """Validation accuracy over the budget, run by run, all on the same axes."""
    rows = [row for row in comparison["runs"] if len(row["curve"]) > 1]
    columns = list(zip(*(point for row in rows for point in row["curve"]), strict=True))  # all x, all y
    within = list(zip(*((min(column), max(column)) for column in columns), strict=True))  # two opposite corners
    lines = []
    for row in rows[:MAX_CURVES]:
        ts, values = zip(*row["curve"], strict=True)
        title = f"validation {figure_of(comparison).name} of {row['name']}"
        lines += ["", *sketch_curve(ts, values, title, "share of the budget", 48, 5, within=within).split("\n")]
    if len(rows) > MAX_CURVES:
        lines += ["", f"The curves of the other {len(rows) - MAX_CURVES} are on the page that --html writes."]
    return lines
