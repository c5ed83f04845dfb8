"""A lesson and a computational graph as lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from goodfit.core.words import format_beside, format_significant
from goodfit.terminal.sketch import sketch_curve
from goodfit.terminal.tables import format_table

GRAPH_HEADER = ("node", "operation", "value", "gradient", "role", "local gradient", "passes on")
UNDRAWN_STYLES = ("faint", "edge", "guide", "whisker")  # of lines that only accompany others
SKETCH_WIDTH, SKETCH_HEIGHT = 56, 8  # characters
MAX_SKETCHES = 5  # of one chart


def format_lesson(lesson: Mapping[str, Any]) -> list[str]:
    """Format what `goodfit lab lessons NAME --json` prints: the slide, numbers, tables, sketches of the pictures, and where it errs."""
    lines = [lesson["title"], f"{lesson['source']}: {lesson['slide']}"]
    if lesson["numbers"]:
        lines += ["", *format_numbers(lesson["numbers"])]
    for table in lesson["tables"]:
        rows = [[_cell(x) for x in row] for row in table["rows"]]
        align = "".join("<" if all(isinstance(row[k], str) for row in table["rows"]) else ">" for k in range(len(table["header"])))
        lines += ["", table["title"], *format_table(rows, align, table["header"], indent="  ").split("\n")]
    for chart in lesson["charts"]:
        lines += ["", *sketch_chart(chart)]
    if lesson["erratum"]:
        lines += ["", f"Erratum: {lesson['erratum']}"]
    return lines


def format_numbers(numbers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format named numbers beside those that a slide prints, and what each shows."""
    columns = [("", "<"), ("computed", ">"), ("slide", ">"), ("", "<")]
    rows = [(row["name"], format_beside(row["value"], row["printed"]), row["printed"], row["note"]) for row in numbers]
    kept = [k for k in range(4) if k < 2 or any(row[k] for row in rows)]
    align, header = "".join(columns[k][1] for k in kept), [columns[k][0] for k in kept]
    return format_table([[row[k] for k in kept] for row in rows], align, header, indent="  ").split("\n")


def format_graph(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Format the nodes of a computational graph as a table: what each computes, the gradient it gets, and what it passes to which input."""
    rows = []
    for node in nodes:
        shares = zip(node["inputs"], node["passed"], strict=True)
        passes = ", ".join(f"{format_significant(x)} to {name}" for name, x in shares if x is not None)
        local = ", ".join(format_significant(x) for x in node["local"] if x is not None)
        role = f"{node['role']}" if node["received"] is not None else ""
        rows.append(
            (
                node["name"],
                _describe_operation(node),
                format_significant(node["value"]),
                format_significant(node["received"]),
                role,
                local,
                passes,
            )
        )
    return format_table(rows, "<<>><<<", GRAPH_HEADER)


def _describe_operation(node: Mapping[str, Any]) -> str:
    """The operation of a node, with the shape of its result if that is more than a single number, of which the table has the norm."""
    shape = "x".join(map(str, node["shape"]))
    return f"{node['operation']} [{shape}]" if math.prod(node["shape"]) != 1 else str(node["operation"])


def sketch_chart(chart: Mapping[str, Any]) -> list[str]:
    """Draw each series of a chart below the others, on the same axes, with the lines that accompany them left out."""
    drawn = [s for s in chart["series"] if s["style"] not in UNDRAWN_STYLES or s["radii"]]
    scale = math.log10 if chart["log"] else float
    curves = []
    for series in drawn:
        points = [(x, scale(y)) for x, y in series["points"] if y is not None and not (chart["log"] and y <= 0)]
        if points:
            curves.append((series["label"], points, bool(series["radii"])))
    within = [point for _, points, _ in curves for point in points]
    y_name = f"log10 of {chart['y'] or 'y'}" if chart["log"] else chart["y"]
    lines = [chart["title"], *([chart["caption"]] if chart["caption"] else [])]
    for label, points, is_dots in curves[:MAX_SKETCHES]:
        spaced = [point for x, y in points for point in ((x, y), (x, math.nan))] if is_dots else points  # dots are not joined
        xs, ys = [x for x, _ in spaced], [y for _, y in spaced]
        title = f"{label} ({y_name})" if y_name not in ("", label) else label
        sketch = sketch_curve(xs, ys, title, chart["x"], SKETCH_WIDTH, SKETCH_HEIGHT, chart["log_x"], within)
        lines += [f"  {line}" for line in sketch.split("\n")]
    return [*lines, *([f"  And {len(curves) - MAX_SKETCHES} more on the page that --html writes."] if len(curves) > MAX_SKETCHES else [])]


def _cell(x: str | float | None) -> str:
    return x if isinstance(x, str) else format_significant(x)
