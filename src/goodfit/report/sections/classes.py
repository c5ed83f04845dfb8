"""Classes: how well each is recognized, the weakest first."""

from __future__ import annotations

from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, Child, Column, Html, bar, details, format_percent, paragraph, section, table
from goodfit.report.record import Record, as_number, as_rows, get_number
from goodfit.report.sections.confusion import read_confusion

MAX_OPEN_ROWS = 40  # classes up to which all are shown without unfolding
WEAKEST_ROWS = 15  # classes shown otherwise


def render_classes(record: Record) -> Html:
    """Render a table of the accuracy of each class, its precision and F1, and the class it is most often taken for."""
    scores = as_rows(get(record.scores, record.split, "classes"))
    if not scores:
        return EMPTY
    mistakes = _frequent_mistakes(record)
    others = ("precision", "f1") if all("f1" in row for row in scores) else ()  # which runs of earlier versions have not
    counts = get(record.about, "data", "counts") if record.ensemble is None else None  # its models may have different splits
    lines: list[list[Child]] = []
    for row in sorted(scores, key=_accuracy):
        name, accuracy, images = str(row.get("name", "")), get_number(row, "accuracy"), get_number(row, "images")
        trained = counts.get(name) if isinstance(counts, dict) else None
        n = as_number(trained[0]) if isinstance(trained, list) and trained else None
        training_images = [f"{n:,.0f}" if n is not None else ""] if counts else []
        lines.append([
            name, bar(accuracy), format_percent(accuracy) if images != 0 else "no images",
            *("–" if (share := get_number(row, key)) is None else format_percent(share) for key in others),
            f"{images:,.0f}" if images is not None else "", *training_images, mistakes.get(name, ""),
        ])  # fmt: skip
    split = record.split
    columns = [
        Column("Class"), Column("", "wide"), Column("Recall" if others else "Accuracy", "number"),
        *(Column(key.capitalize(), "number") for key in others), Column(f"Images in {split}", "number"),
        *([Column("Training images", "number")] if counts else []), Column("Most often taken for"),
    ]  # fmt: skip
    intro = "The fewer images a class has, the less certain its accuracy: with 50 images it is easily 10 points off."
    if others:
        intro = (
            f"Recall is the accuracy of a class; precision is the share of the images named so that are of it; F1 is their mean. {intro}"
        )
    if len(lines) <= MAX_OPEN_ROWS:
        return section("classes", "Classes", paragraph(intro), table(columns, lines, f"Accuracy by class on {split}, weakest first"))
    return section(
        "classes",
        "Classes",
        paragraph(intro),
        table(columns, lines[:WEAKEST_ROWS], f"The {WEAKEST_ROWS} weakest of {len(lines)} classes on {split}"),
        details(f"All {len(lines)} classes", table(columns, lines)),
    )


def _accuracy(row: dict[str, object]) -> float:
    accuracy = get_number(row, "accuracy")
    return 2.0 if accuracy is None else accuracy


def _frequent_mistakes(record: Record) -> dict[str, str]:
    """Return for each class its most frequent wrong answer, with the number of times it was given."""
    names, matrix = read_confusion(get(record.scores, record.split))
    mistakes = {}
    for truth, line in enumerate(matrix):
        n, other = max(((n, -k) for k, n in enumerate(line) if k != truth), default=(0.0, 0))
        if n:
            mistakes[names[truth]] = f"{names[-other]} ({n:,.0f})"
    return mistakes
