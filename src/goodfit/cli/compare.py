"""goodfit compare: where runs differ, and whether the difference could be luck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError

CURVES = 8  # at most so many are drawn


def compare(
    *runs: str,
    html: Path | None = None,
    baselines: bool = False,
    json: bool = False,
) -> None:
    """Compare runs: their recipes where those differ, accuracy on the same validation images with paired intervals, curves, cost.

    The first run, with its copies of other seeds, is compared with each of the others. It needs neither the data nor a network.

    Parameters
    ----------
    runs
        Run folders; a folder of folds (of train --folds) counts as one, a folder of runs (of train --seeds) as all of them.
    html
        Also write the comparison as one HTML file.
    baselines
        Compute the nearest neighbor and the linear softmax for the first run if it has none yet; this needs its data.
    json
        Print the comparison as JSON on stdout.
    """
    if not runs:
        raise UsageError("Expected runs to compare, such as runs/a runs/b, received none.")
    import sys
    from json import dumps

    from goodfit.study.compare import comparison, entries

    found = entries(runs)
    if baselines:
        from goodfit.core.run import Run
        from goodfit.runs.baselines import ensure

        path = found[0].path
        ensure(Run(next(iter(sorted(path.glob("fold-*/")))) if (path / "folds.json").is_file() else path))
        found = entries(runs)
    result = comparison(found)
    if html:
        from goodfit.core.files import write
        from goodfit.report.pages.comparison import render_comparison

        write(html, render_comparison(result))
    if json:
        print(dumps(result))
        return
    print("\n".join(told(result)))
    if html:
        print(f"Comparison: {html}", file=sys.stderr)


def told(result: dict[str, Any]) -> list[str]:
    """The comparison as lines of text."""
    return [*scores(result), *recipes(result), *pairs(result), *baselines_said(result), *curves(result)]


def scores(result: dict[str, Any]) -> list[str]:
    """A line for each run, and one for each group of seeds."""
    from goodfit.core.words import duration, percent
    from goodfit.terminal.tables import format_table

    rows = []
    for row in result["runs"]:
        low, high = row["interval"]
        loss = "-" if row["log_loss"] is None else f"{row['log_loss']:.4f}"
        error = "-" if row["calibration_error"] is None else percent(row["calibration_error"])
        spent = "-" if row["seconds"] is None else duration(row["seconds"])
        size, work = ("-" if row[key] is None else f"{row[key]:,}" for key in ("parameters", "multiply_adds"))
        between = f"{percent(low)} to {percent(high)}"
        of_folds = f" ({len(row['folds'])} folds)" if row["folds"] else ""
        rows.append((row["letter"], percent(row["accuracy"]), between, loss, error, spent, size, work, f"{row['path']}{of_folds}"))
    header = ("", "accuracy", "95 % interval", "log loss", "calibr.", "seconds", "parameters", "mult-adds", "run")
    lines = [format_table(rows, "<><>>>>><", header)]
    for group in result["groups"]:
        if group["standard_error"] is not None:
            names = ", ".join(group["runs"])
            lines.append(
                f"{names} differ in their seed: mean {percent(group['accuracy'], 2)}, standard error {percent(group['standard_error'], 2)}."
            )
    return lines


def recipes(result: dict[str, Any]) -> list[str]:
    """The fields of the recipes that differ, each value with the runs that have it."""
    if len(result["runs"]) < 2:
        return []
    if not result["differences"]:
        return ["", "The recipes are the same."]
    lines = ["", "The recipes are the same but for"]
    for row in result["differences"]:
        with_value: dict[str, list[str]] = {}
        for run, value in zip(result["runs"], row["values"], strict=True):
            with_value.setdefault(value, []).append(run["letter"])
        lines.append(f"  {row['field']}")
        lines += [f"    {', '.join(names):<8} {value}" for value, names in with_value.items()]
    return lines


def pairs(result: dict[str, Any]) -> list[str]:
    """The first group against each of the others."""
    said = [f"  {sentence(row)}" for row in result["pairs"]]
    return ["", *said] if said else []


def sentence(row: dict[str, Any]) -> str:
    """A pair of groups as a sentence."""
    one, other = ("mean of " * (len(row[side]) > 1) + ", ".join(row[side]) for side in ("one", "other"))
    if "problem" in row:
        return f"{one} and {other} cannot be compared image by image: {row['problem']}."
    low, high = (100 * x for x in row["interval"])
    said = f"{one} less {other}: {100 * row['difference']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), {row['images']:,} images"
    if row["p"] is not None:
        said += f"; only {one} right about {row['only_one']:,}, only {other} about {row['only_other']:,}, McNemar's p = {row['p']:.2g}"
    return said + (": could be luck." if low <= 0 <= high else ".")


def baselines_said(result: dict[str, Any]) -> list[str]:
    """The baselines in one line."""
    from goodfit.core.words import percent

    found = result["baselines"]
    if not found:
        return []
    rows = [f"{row['name']} {percent(row['accuracy'])}" for row in found["rows"] if row["accuracy"] is not None]
    whose = f" of {found['of']}" if "of" in found else ""
    return ["", f"Baselines on the validation images{whose}: {', '.join(rows)}."]


def curves(result: dict[str, Any]) -> list[str]:
    """Validation accuracy over the budget, run by run."""
    from goodfit.terminal.sketch import sketch

    drawn = [row for row in result["runs"] if len(row["curve"]) > 1][:CURVES]
    lines = []
    for row in drawn:
        ts, accuracies = zip(*row["curve"], strict=True)
        lines += ["", sketch(ts, accuracies, f"{row['letter']}: validation accuracy", "share of the budget", width=48, height=4)]
    return lines
