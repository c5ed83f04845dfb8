"""The page of a cross-validation: the score of each fold and of all together, their mistakes and the calibration of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goodfit.core import words
from goodfit.core.figures import ACCURACY, figure_of
from goodfit.core.run_files import get
from goodfit.report.failures import OTHER_TRAINING, compare_with_baselines
from goodfit.report.frame import link_to_run, render_page
from goodfit.report.markup import (
    EMPTY,
    Child,
    Column,
    Html,
    bar,
    format_distance,
    format_figure,
    format_interval,
    format_percent,
    section,
    table,
    tag,
)
from goodfit.report.record import FolderReader, as_interval, as_items, as_number, get_number
from goodfit.report.sections.baselines import find_baselines, render_baselines
from goodfit.report.sections.calibration import render_calibration_scores
from goodfit.report.sections.confusion import render_confusion_of
from goodfit.report.sections.headline import format_title, render_large, result_box
from goodfit.report.sections.outputs import render_outputs_of
from goodfit.report.sections.recipe import render_asked
from goodfit.report.sections.worst import render_worst_of_folds

NO_TEMPERATURE = "Each fold has its own model, so there is no single temperature to store."
RECIPE_INTRO = "As it was given; the report of each fold says what auto chose."
BASELINES_INTRO = "Those of {name} only: every fold has its own validation images."


def render_folds(folder: Path) -> str:
    """Render the page of a folder of folds, finished or not, as one HTML text."""
    files = FolderReader(folder)
    summary = files.read_json("folds.json")
    name = format_title(get(summary, "asked", "data") or files.name)
    state = str(get(summary, "state") or "")
    n = get_number(summary, "folds")
    folds = words.count_of(int(n), "fold") if n else "Folds"
    header = tag(
        "header",
        tag("p.eyebrow", "Goodfit cross-validation report", tag("span.state", state) if state and state != "finished" else None),
        tag("h1", name),
        tag("p.subtitle", f"{folds}: each image was classified by the one model that was not trained on it."),
        result_box(render_figure(summary), [*describe_low_result(summary, files), *interpret_folds(summary)]),
    )
    names = [path.parent.name for path in find_folds(files)]
    parts = (
        ("folds", "Folds", render_table(files)),
        ("confusion", "Confusion", render_confusion_of(get(summary, "out_of_fold"), "Over all folds")),
        ("outputs", "Outputs", render_outputs_of(get(summary, "out_of_fold"), "all images")),
        ("baselines", "Baselines", render_baselines(files, ["fold-1"], BASELINES_INTRO)),
        ("calibration", "Calibration", render_calibration_scores(get(summary, "out_of_fold", "calibration"), "all images", NO_TEMPERATURE)),
        ("worst", "Worst errors", render_worst_of_folds(files, names)),
        ("recipe", "Recipe", render_asked(get(summary, "asked"), RECIPE_INTRO)),
    )
    return render_page(
        f"{name} · {files.name} · Goodfit cross-validation report", header, parts, files.describe_source("folder of the folds")
    )


def render_figure(summary: dict[str, Any]) -> Html:
    """Render the mean accuracy of the folds in large type, with their standard deviation."""
    figure = figure_of(summary)
    mean, spread = get_number(summary, figure.key), get_number(summary, "deviation")
    if mean is None:
        return tag("div.figure", tag("p.big", "–"), tag("p", "not all folds are trained yet"))
    deviation = tag("p.dim", f"± {format_distance(figure, spread)} standard deviation") if spread is not None else None
    return tag(
        "div.figure", render_large(figure, mean), tag("p", tag("strong", f"validation {figure.name}"), ", mean of the folds"), deviation
    )


def describe_low_result(summary: dict[str, Any], files: FolderReader) -> list[str]:
    """Say that all folds together are below a baseline, of the first fold's validation images."""
    overall = get(summary, "out_of_fold")
    _, baselines, _ = find_baselines(files, ["fold-1"])
    figure = figure_of(summary)
    low = compare_with_baselines(get_number(overall, figure.key), as_interval(get(overall, "interval")), baselines, figure)
    return [f"{low} {OTHER_TRAINING}"] if low else []


def interpret_folds(summary: dict[str, Any]) -> list[str]:
    """Interpret the folds in sentences."""
    overall = get(summary, "out_of_fold")
    figure = figure_of(summary)
    accuracy, images, error = get_number(overall, figure.key), get_number(overall, "images"), get_number(summary, "standard_error")
    low, high = as_interval(get(overall, "interval"))
    sentences = []
    if accuracy is not None:
        total = f"all {words.count_of(int(images), 'image')}" if images else "all images"
        interval = f" (95 % interval {format_interval(low, high, figure)})" if low is not None else ""
        share = f"Of {total} together, {format_percent(accuracy)} were recognized{interval}."
        sentences.append(
            share if figure is ACCURACY else f"The {figure.name} of {total} together is {format_figure(figure, accuracy)}{interval}."
        )
    if error is not None:
        caveat = "a rough estimate, because the folds share most of their training images"
        sentences.append(f"The standard error of the mean is {format_distance(figure, error)}: {caveat}.")
    if accuracy is not None:
        sentences.append("The test images were not used.")
    return sentences


def find_folds(files: FolderReader) -> list[Path]:
    """The recipes of the folds that were started, in order."""
    return sorted(files.folder.glob("fold-*/recipe.toml"), key=lambda path: (len(path.parent.name), path))


def render_table(files: FolderReader) -> Html:
    """Render a table with a row for each fold that was started."""
    body: list[list[Child]] = []
    figure = figure_of(get(files.read_json("folds.json"), "asked"))
    for path in find_folds(files):
        name = path.parent.name
        about, scores = files.read_json(f"{name}/about.json"), get(files.read_json(f"{name}/scores.json"), "validation")
        accuracy, images = get_number(scores, figure.key), get_number(scores, "images")
        low, high = as_interval(get(scores, "interval"))
        seconds = sum(x for _, value in as_items(get(about, "seconds")) if (x := as_number(value)) is not None)
        body.append([
            link_to_run(files.folder, name),
            bar(accuracy, low, high),
            format_figure(figure, accuracy) if accuracy is not None else str(get(about, "state") or ""),
            format_interval(low, high, figure),
            f"{images:,.0f}" if images is not None else "",
            words.format_duration(seconds) if seconds else "",
        ])  # fmt: skip
    columns = [Column("Fold"), Column("", "wide")] + [
        Column(title, "number") for title in (figure.heading, "95 % interval", "Images", "Time")
    ]
    return section("folds", "Folds", table(columns, body)) if body else EMPTY
