"""Confusion: a heat map of which classes are taken for which, while it can be read, and the most frequent mistakes."""

from __future__ import annotations

import math

from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, Child, Column, Html, format_percent, join, paragraph, scroll_box, section, table, tag
from goodfit.report.record import Record, as_number, as_rows

MAX_CLASSES_IN_HEAT_MAP = 30
FULL_COLOR_SHARE = 0.25  # share of a row taken for another class that gets the full color, unless another is larger
MAX_CLASSES_WITH_WIDE_CELLS = 16
MISTAKES_BESIDE_HEAT_MAP, MISTAKES_ALONE = 8, 24

Matrix = list[list[float]]


def read_confusion(scores: object) -> tuple[list[str], Matrix]:
    """Read the class names and the counts (rows are true classes, columns predicted ones); both are empty if they do not fit each other."""
    names = [str(row.get("name", index)) for index, row in enumerate(as_rows(get(scores, "classes")))]
    counts = get(scores, "confusion")
    if not names or not isinstance(counts, list) or any(not isinstance(line, list) or len(line) != len(counts) for line in counts):
        return [], []
    matrix = [[as_number(x) or 0.0 for x in line] for line in counts]
    return (names, matrix) if len(matrix) == len(names) else ([], [])


def render_confusion(record: Record) -> Html:
    """Render the confusion of the split whose mistakes are shown."""
    return render_confusion_of(get(record.scores, record.split), f"On {record.split}")


def render_confusion_of(scores: object, where: str) -> Html:
    """Render the heat map and the most frequent mistakes in scores; `where` says of which images, as in "On validation"."""
    names, matrix = read_confusion(scores)
    total = sum(map(sum, matrix))
    if not total:
        return EMPTY
    right = sum(matrix[k][k] for k in range(len(names)))
    intro = f"{where}, {total - right:,.0f} of {total:,.0f} images were taken for another class."
    if len(names) <= MAX_CLASSES_IN_HEAT_MAP:
        how = " Rows are true classes, columns predicted ones; the stronger the color, the larger the share of the row."
        return section(
            "confusion",
            "Confusion",
            paragraph(intro, how),
            tag("div.side", render_heat_map(names, matrix), render_mistakes(names, matrix, MISTAKES_BESIDE_HEAT_MAP)),
        )
    return section("confusion", "Confusion", paragraph(intro), render_mistakes(names, matrix, MISTAKES_ALONE))


def render_heat_map(names: list[str], matrix: Matrix) -> Html:
    """Render the matrix as a table; mistakes are colored by the root of their share of the row, so that rare ones are visible too."""
    largest = max([FULL_COLOR_SHARE, *(n / sum(line) for truth, line in enumerate(matrix) for k, n in enumerate(line) if n and k != truth)])
    upright = "span.upright" if max(map(len, names)) > 2 else "span"
    heads = join(tag("th", tag(upright, name), attrs={"scope": "col"}) for name in names)
    body = []
    for truth, line in enumerate(matrix):
        total = sum(line)
        cells = [_render_cell((names[truth], names[predicted]), line[predicted], total, largest) for predicted in range(len(names))]
        body.append(tag("tr", tag("th", names[truth], attrs={"scope": "row"}), *cells))
    corner = tag("td.corner", "true ↓  predicted →")
    inner = tag(
        "table.heat.dense" if len(names) > MAX_CLASSES_WITH_WIDE_CELLS else "table.heat",
        tag("thead", tag("tr", corner, heads)),
        tag("tbody", *body),
    )
    return scroll_box(inner, "Confusion matrix")


def _render_cell(names: tuple[str, str], n: float, total: float, largest: float) -> Html:
    """Render the cell for (truth, predicted): n of the row's total, colored by its share relative to the largest share."""
    truth, predicted = names
    if truth == predicted:
        return tag("td.right", f"{n:,.0f}", attrs={"title": f"{truth}: {n:,.0f} of {total:,.0f} right"})
    if not n:
        return tag("td.none", tag("span", "0"))
    title = f"{truth} taken for {predicted}: {n:,.0f} of {total:,.0f}"
    heat = 0.12 + 0.88 * math.sqrt(n / total / largest)
    return tag("td", f"{n:,.0f}", attrs={"title": title, "style": f"--heat:{heat:.2f}"})


def render_mistakes(names: list[str], matrix: Matrix, limit: int) -> Html:
    """Render the `limit` most frequent mistakes."""
    wrong = [(n, truth, predicted) for truth, line in enumerate(matrix) for predicted, n in enumerate(line) if truth != predicted and n]
    wrong.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    body: list[list[Child]] = [
        [join([names[truth], " taken for ", names[predicted]]), f"{n:,.0f}", format_percent(n / sum(matrix[truth]), 0)]
        for n, truth, predicted in wrong[:limit]
    ]
    columns = [Column("Most confused"), Column("Images", "number"), Column("Share of its class", "number")]
    return table(columns, body) if body else EMPTY
