"""How well each class is recognized, the weakest first."""

from __future__ import annotations

from goodfit.report.markup import NOTHING, Child, Column, Html, bar, folded, paragraph, percent, section, table
from goodfit.report.record import Record, at, finite, number, rows
from goodfit.report.sections.confusion import matrix_of

MOST_OPEN = 40  # classes shown at once
WEAKEST = 15


def classes(record: Record) -> Html:
    """A table with each class's accuracy, and what it is most often taken for."""
    found = rows(at(record.scores, record.shown, "classes"))
    if not found:
        return NOTHING
    taken = _taken_for(record)
    counts = at(record.about, "data", "counts") if record.ensemble is None else None  # its models may have other splits
    lines: list[list[Child]] = []
    for row in sorted(found, key=_accuracy):
        name, accuracy, images = str(row.get("name", "")), number(row, "accuracy"), number(row, "images")
        trained = counts.get(name) if isinstance(counts, dict) else None
        on = finite(trained[0]) if isinstance(trained, list) and trained else None
        to_train = [f"{on:,.0f}" if on is not None else ""] if counts else []
        lines.append([
            name, bar(accuracy), percent(accuracy) if images != 0 else "no images",
            f"{images:,.0f}" if images is not None else "", *to_train, taken.get(name, ""),
        ])  # fmt: skip
    shown = record.shown
    columns = [
        Column("Class"), Column("", "wide"), Column("Accuracy", "number"), Column(f"Images in {shown}", "number"),
        *([Column("Images to train on", "number")] if counts else []), Column("Most often taken for"),
    ]  # fmt: skip
    intro = "The fewer images a class has, the less its figure means: with 50 images it is easily 10 points off."
    if len(lines) <= MOST_OPEN:
        return section("classes", "Classes", paragraph(intro), table(columns, lines, f"Accuracy by class on {shown}, weakest first"))
    return section(
        "classes",
        "Classes",
        paragraph(intro),
        table(columns, lines[:WEAKEST], f"The {WEAKEST} weakest of {len(lines)} classes on {shown}"),
        folded(f"All {len(lines)} classes", table(columns, lines)),
    )


def _accuracy(row: dict[str, object]) -> float:
    accuracy = number(row, "accuracy")
    return 2.0 if accuracy is None else accuracy


def _taken_for(record: Record) -> dict[str, str]:
    """For each class the wrong answer it gets most often, with the number of times."""
    names, matrix = matrix_of(record)
    said = {}
    for truth, line in enumerate(matrix):
        n, other = max(((n, -k) for k, n in enumerate(line) if k != truth), default=(0.0, 0))
        if n:
            said[names[truth]] = f"{names[-other]} ({n:,.0f})"
    return said
