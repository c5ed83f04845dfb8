"""Baselines: what the most common class, the nearest training image and a linear softmax come to on the same split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goodfit.report.markup import NOTHING, THIN, Child, Column, Html, bar, paragraph, percent, section, table
from goodfit.report.reading import interval
from goodfit.report.record import Files, at, number, rows, share

FILE = "baselines.json"
MAJORITY = "Always answering the most common class"
NAMES = {"majority class": MAJORITY, "nearest neighbor": "Nearest training image", "linear softmax": "Linear softmax on pixels"}

Line = tuple[str, float, float | None, float | None]  # a name, its accuracy, and the ends of the interval


def lines(found: object, images: float | None) -> list[Line]:
    """The rows of a baselines.json; what one made of fewer training images than the run's, or of fewer validation images, says so."""
    asked = number(found, "images")
    return [
        (f"{name}{few(row, images, asked)}", accuracy, *interval(row.get("interval")))
        for row in rows(at(found, "rows"))
        if (name := NAMES.get(str(row.get("name")))) and (accuracy := share(row, "accuracy")) is not None
    ]


def few(row: dict[str, Any], images: float | None, asked: float | None) -> str:
    """What a baseline was cut down to, in brackets."""
    trained, judged = number(row, "trained"), number(row, "judged")
    cuts = [
        f"of {trained:,.0f} training images" if trained is not None and images is not None and trained < images else "",
        f"judged on {judged:,.0f} images" if judged is not None and asked is not None and judged < asked else "",
    ]
    said = ", ".join(cut for cut in cuts if cut)
    return f" ({said})" if said else ""


def baselines(files: Files, runs: Sequence[str], whose: str) -> Html:
    """Those of the first of some runs within a folder that has any; the sentence `whose` has a place for its `name`."""
    for name in runs:
        found = files.json(f"{name}/{FILE}")
        if known := lines(found, number(files.json(f"{name}/about.json"), "data", "splits", "train") if found else None):
            body: list[list[Child]] = [
                [title, bar(accuracy, low, high), percent(accuracy), f"{percent(low)} to {percent(high)}" if low is not None else ""]
                for title, accuracy, low, high in known
            ]
            columns = [Column("Baseline"), Column("", "wide"), Column("Accuracy", "number"), Column(f"95{THIN}% interval", "number")]
            return section("baselines", "Baselines", paragraph(whose.format(name=name)), table(columns, body))
    return NOTHING
