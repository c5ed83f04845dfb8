"""Which classes are taken for which: a heat map while it can be read, the most confused pairs in any case."""

from __future__ import annotations

import math

from goodfit.report.markup import NOTHING, Child, Column, Html, joined, paragraph, percent, scrolling, section, table, tag
from goodfit.report.record import Record, at, finite, rows

MOST_CLASSES = 30  # beyond which a heat map is a carpet
STRONG = 0.25  # share of a row taken for another class that gets the full color, unless one is still larger
ROOMY = 16  # classes up to which the cells are wide
FEW_PAIRS, MANY_PAIRS = 8, 24

Matrix = list[list[float]]


def matrix_of(record: Record) -> tuple[list[str], Matrix]:
    """Class names and counts (rows the truth, columns what was predicted); nothing where they do not fit one another."""
    scores = at(record.scores, record.shown)
    names = [str(row.get("name", place)) for place, row in enumerate(rows(at(scores, "classes")))]
    found = at(scores, "confusion")
    if not names or not isinstance(found, list) or any(not isinstance(line, list) or len(line) != len(found) for line in found):
        return [], []
    matrix = [[finite(x) or 0.0 for x in line] for line in found]
    return (names, matrix) if len(matrix) == len(names) else ([], [])


def confusion(record: Record) -> Html:
    """The heat map and the most confused pairs."""
    names, matrix = matrix_of(record)
    total = sum(map(sum, matrix))
    if not total:
        return NOTHING
    right = sum(matrix[k][k] for k in range(len(names)))
    intro = f"On {record.shown}, {total - right:,.0f} of {total:,.0f} images were taken for another class."
    if len(names) <= MOST_CLASSES:
        how = " Each row is what an image is, each column what the model said; the stronger the color, the larger the share of the row."
        return section(
            "confusion", "Confusion", paragraph(intro, how), tag("div.side", heat_map(names, matrix), pairs(names, matrix, FEW_PAIRS))
        )
    return section("confusion", "Confusion", paragraph(intro), pairs(names, matrix, MANY_PAIRS))


def heat_map(names: list[str], matrix: Matrix) -> Html:
    """The matrix as a table; mistakes are colored by the root of their share of the row, so that rare ones are seen too."""
    most = max([STRONG, *(n / sum(line) for truth, line in enumerate(matrix) for k, n in enumerate(line) if n and k != truth)])
    upright = "span.upright" if max(map(len, names)) > 2 else "span"
    heads = joined(tag("th", tag(upright, name), attrs={"scope": "col"}) for name in names)
    body = []
    for truth, line in enumerate(matrix):
        total = sum(line)
        cells = [_cell((names[truth], names[predicted]), line[predicted], total, most) for predicted in range(len(names))]
        body.append(tag("tr", tag("th", names[truth], attrs={"scope": "row"}), *cells))
    corner = tag("td.corner", "is ↓  said →")
    inner = tag("table.heat.dense" if len(names) > ROOMY else "table.heat", tag("thead", tag("tr", corner, heads)), tag("tbody", *body))
    return scrolling(inner, "Confusion matrix")


def _cell(names: tuple[str, str], n: float, total: float, most: float) -> Html:
    """The cell for (truth, predicted): n of the row's total, in the color of its share beside the highest."""
    truth, predicted = names
    if truth == predicted:
        return tag("td.right", f"{n:,.0f}", attrs={"title": f"{truth}: {n:,.0f} of {total:,.0f} right"})
    if not n:
        return tag("td.none", tag("span", "0"))
    said = f"{truth} taken for {predicted}: {n:,.0f} of {total:,.0f}"
    heat = 0.12 + 0.88 * math.sqrt(n / total / most)
    return tag("td", f"{n:,.0f}", attrs={"title": said, "style": f"--heat:{heat:.2f}"})


def pairs(names: list[str], matrix: Matrix, most: int) -> Html:
    """The mistakes made most often."""
    wrong = [(n, truth, predicted) for truth, line in enumerate(matrix) for predicted, n in enumerate(line) if truth != predicted and n]
    wrong.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    body: list[list[Child]] = [
        [joined([names[truth], " taken for ", names[predicted]]), f"{n:,.0f}", percent(n / sum(matrix[truth]), 0)]
        for n, truth, predicted in wrong[:most]
    ]
    columns = [Column("Most confused"), Column("Images", "number"), Column("Of its class", "number")]
    return table(columns, body) if body else NOTHING
