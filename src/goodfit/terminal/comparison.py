"""A comparison of runs as lines of text."""

from __future__ import annotations

from typing import Any

from goodfit.core.words import format_duration, format_percent
from goodfit.terminal.sketch import sketch_curve
from goodfit.terminal.tables import format_table

MAX_CURVES = 8


def format_comparison(comparison: dict[str, Any]) -> list[str]:
    """Format what `study.compare.compare_runs` returns: scores, recipes where they differ, pairs, baselines and curves."""
    return [
        *_format_scores(comparison),
        *_format_recipes(comparison),
        *_format_pairs(comparison),
        *_format_baselines(comparison),
        *_format_curves(comparison),
    ]


def _format_scores(comparison: dict[str, Any]) -> list[str]:
    """A line for each run, and one for each group of seeds."""
    rows = []
    for row in comparison["runs"]:
        low, high = map(format_percent, row["interval"])
        loss = "-" if row["log_loss"] is None else f"{row['log_loss']:.4f}"
        error = "-" if row["calibration_error"] is None else format_percent(row["calibration_error"])
        seconds = "-" if row["seconds"] is None else format_duration(row["seconds"])
        parameters, work = ("-" if row[key] is None else f"{row[key]:,}" for key in ("parameters", "multiply_adds"))
        folds = f" ({len(row['folds'])} folds)" if row["folds"] else ""
        numbers = (format_percent(row["accuracy"]), f"{low} to {high}", loss, error, seconds, parameters, work)
        rows.append((row["letter"], *numbers, f"{row['path']}{folds}"))
    header = ("", "accuracy", "95 % interval", "log loss", "calibr.", "time", "parameters", "mult-adds", "run")
    lines = format_table(rows, "<><>>>>><", header).split("\n")
    for group in comparison["groups"]:
        if group["standard_error"] is not None:
            mean, error = format_percent(group["accuracy"], 2), format_percent(group["standard_error"], 2)
            lines.append(f"{', '.join(group['runs'])} differ in their seed: mean {mean}, standard error {error}.")
    return lines


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
            with_value.setdefault(value, []).append(run["letter"])
        lines.append(f"  {row['field']}")
        lines += [f"    {', '.join(names):<8} {value}" for value, names in with_value.items()]
    return lines


def _format_pairs(comparison: dict[str, Any]) -> list[str]:
    """The first group against each of the others."""
    lines = [f"  {format_pair(row)}" for row in comparison["pairs"]]
    return ["", *lines] if lines else []


def format_pair(row: dict[str, Any]) -> str:
    """Format a pair of groups as a sentence."""
    one, other = ("mean of " * (len(row[side]) > 1) + ", ".join(row[side]) for side in ("one", "other"))
    if "problem" in row:
        return f"{one} and {other} cannot be compared image by image: {row['problem']}."
    low, high = (100 * x for x in row["interval"])
    difference = f"{100 * row['difference']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
    sentence = f"{one} less {other}: {difference}, {row['images']:,} images"
    if row["p"] is not None:
        sentence += f"; only {one} right about {row['only_one']:,}, only {other} about {row['only_other']:,}, McNemar's p = {row['p']:.2g}"
    return sentence + (": could be luck." if low <= 0 <= high else ".")


def _format_baselines(comparison: dict[str, Any]) -> list[str]:
    """The baselines in one line."""
    baselines = comparison["baselines"]
    if not baselines:
        return []
    rows = [f"{row['name']} {format_percent(row['accuracy'])}" for row in baselines["rows"] if row["accuracy"] is not None]
    of_run = f" of {baselines['of']}" if "of" in baselines else ""
    return ["", f"Baselines on the validation images{of_run}: {', '.join(rows)}."]


def _format_curves(comparison: dict[str, Any]) -> list[str]:
    """Validation accuracy over the budget, run by run."""
    lines = []
    for row in [row for row in comparison["runs"] if len(row["curve"]) > 1][:MAX_CURVES]:
        ts, accuracies = zip(*row["curve"], strict=True)
        sketch = sketch_curve(ts, accuracies, f"{row['letter']}: validation accuracy", "share of the budget", width=48, height=4)
        lines += ["", *sketch.split("\n")]
    return lines
