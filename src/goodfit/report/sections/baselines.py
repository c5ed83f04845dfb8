"""Baselines: how the most common class, the nearest training image and a linear softmax score on the same split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goodfit.core.figures import figure_of
from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, NBSP, Child, Column, Html, bar, format_figure, format_interval, paragraph, section, table
from goodfit.report.record import FolderReader, as_interval, as_rows, get_number, get_share

BASELINES_FILE = "baselines.json"
MAJORITY_LABEL = "Always answering the most common class"
LABELS = {
    "majority class": MAJORITY_LABEL, "nearest neighbor": "Nearest training image", "linear softmax": "Linear softmax on pixels",
    "label frequencies": "Always answering how frequent each label is", "mean": "Always answering the mean",
    "linear ridge": "Ridge regression on pixels",
}  # fmt: skip

BaselineScore = tuple[str, float, float | None, float | None]  # a label, the accuracy, and the ends of its interval


def read_baselines(content: object, images: float | None) -> list[BaselineScore]:
    """Read the scores in a baselines.json. The label of a baseline says so if it used fewer than the run's training `images`, or was
    evaluated on fewer validation images.
    """
    validation_images, figure = get_number(content, "images"), figure_of(content)
    read = get_share if figure.is_share else get_number
    return [
        (f"{name}{describe_limits(row, images, validation_images)}", accuracy, *as_interval(row.get("interval")))
        for row in as_rows(get(content, "rows"))
        if (name := LABELS.get(str(row.get("name")))) and (accuracy := read(row, figure.key)) is not None
    ]


def describe_limits(row: dict[str, Any], images: float | None, validation_images: float | None) -> str:
    """Say in parentheses how many images a baseline was limited to; empty if it used all."""
    trained, evaluated = get_number(row, "trained"), get_number(row, "judged")
    limits = [
        f"of {trained:,.0f} training images" if trained is not None and images is not None and trained < images else "",
        f"evaluated on {evaluated:,.0f} images"
        if evaluated is not None and validation_images is not None and evaluated < validation_images
        else "",
    ]
    clause = ", ".join(limit for limit in limits if limit)
    return f" ({clause})" if clause else ""


def find_baselines(files: FolderReader, runs: Sequence[str]) -> tuple[str, list[BaselineScore], float | None]:
    """Find the first of the `runs` within a folder that has baselines: its name, their scores, and how many validation images it has."""
    for name in runs:
        content = files.read_json(f"{name}/{BASELINES_FILE}")
        images = get_number(files.read_json(f"{name}/about.json"), "data", "splits", "train") if content else None
        if scores := read_baselines(content, images):
            return name, scores, get_number(content, "images")
    return "", [], None


def render_baselines(files: FolderReader, runs: Sequence[str], intro: str) -> Html:
    """Render the baselines of the first of the `runs` within a folder that has any; `intro` is a sentence with a field for its `name`."""
    name, scores, _ = find_baselines(files, runs)
    figure = figure_of(files.read_json(f"{name}/{BASELINES_FILE}") if name else None)
    body: list[list[Child]] = [
        [title, bar(value, low, high), format_figure(figure, value), format_interval(low, high, figure)]
        for title, value, low, high in scores
    ]
    columns = [Column("Baseline"), Column("", "wide"), Column(figure.heading, "number"), Column(f"95{NBSP}% interval", "number")]
    return section("baselines", "Baselines", paragraph(intro.format(name=name)), table(columns, body)) if body else EMPTY
