"""The page of folds: what each came to, what they come to together, and how well their answers are calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goodfit.core import words
from goodfit.report.frame import framed, link
from goodfit.report.markup import NOTHING, Child, Column, Html, bar, paragraph, percent, points, section, table, tag
from goodfit.report.reading import interval
from goodfit.report.record import Files, at, finite, items, number
from goodfit.report.sections.baselines import baselines
from goodfit.report.sections.calibration import calibrated
from goodfit.report.sections.headline import large, result, titled
from goodfit.report.sections.recipe import said

KEPT = "Each fold has a model of its own, so there is no one temperature to store."
ONE = "Those of {name} alone: every fold has validation images of its own."


def render(folder: Path) -> str:
    """The page of a folder of folds, of one that is still going too."""
    files = Files(folder)
    found = files.json("folds.json")
    name = titled(at(found, "asked", "data") or files.name)
    state = str(at(found, "state") or "")
    n = number(found, "folds")
    many = words.count_of(int(n), "fold") if n else "Folds"
    header = tag(
        "header",
        tag("p.eyebrow", "Goodfit cross-validation report", tag("span.state", state) if state and state != "finished" else None),
        tag("h1", name),
        tag("p.subtitle", f"{many}: each image was judged by the one model that was not trained on it."),
        result(figure(found), findings(found)),
    )
    parts = (
        ("folds", "Folds", folds(files)),
        ("baselines", "Baselines", baselines(files, ["fold-1"], ONE)),
        ("calibration", "Calibration", calibrated(at(found, "out_of_fold", "calibration"), "all images", KEPT)),
        ("recipe", "Recipe", recipe(found)),
    )
    return framed(f"{name} · {files.name} · Goodfit cross-validation report", header, parts, files.source("folder of the folds"))


def figure(found: dict[str, Any]) -> Html:
    """The mean of the folds in large type, with their spread."""
    mean, spread = number(found, "accuracy"), number(found, "deviation")
    if mean is None:
        return tag("div.figure", tag("p.big", "–"), tag("p", "not all folds are trained yet"))
    more = tag("p.dim", f"± {points(spread)} standard deviation") if spread is not None else None
    return tag("div.figure", large(mean), tag("p", tag("strong", "validation accuracy"), ", mean of the folds"), more)


def findings(found: dict[str, Any]) -> list[str]:
    """What the folds say, in sentences."""
    whole = at(found, "out_of_fold")
    right, images, error = number(whole, "accuracy"), number(whole, "images"), number(found, "standard_error")
    low, high = interval(at(whole, "interval"))
    sentences = []
    if right is not None:
        of = f"all {words.count_of(int(images), 'image')}" if images else "all images"
        between = f" (95 % interval {percent(low)} to {percent(high)})" if low is not None else ""
        sentences.append(f"Of {of} together, {percent(right)} were recognized{between}.")
    if error is not None:
        rough = "a rough one, for the folds share most of the images they train on"
        sentences.append(f"The standard error of the mean is {points(error)}: {rough}.")
    if right is not None:
        sentences.append("The test images had no part in this.")
    return sentences


def folds(files: Files) -> Html:
    """A row for each fold that was begun."""
    body: list[list[Child]] = []
    for path in sorted(files.folder.glob("fold-*/recipe.toml"), key=lambda path: (len(path.parent.name), path)):
        name = path.parent.name
        about, scores = files.json(f"{name}/about.json"), at(files.json(f"{name}/scores.json"), "validation")
        accuracy, images = number(scores, "accuracy"), number(scores, "images")
        low, high = interval(at(scores, "interval"))
        seconds = sum(x for _, value in items(at(about, "seconds")) if (x := finite(value)) is not None)
        body.append([
            link(files.folder, name),
            bar(accuracy, low, high),
            percent(accuracy) if accuracy is not None else str(at(about, "state") or ""),
            f"{percent(low)} to {percent(high)}" if low is not None else "",
            f"{images:,.0f}" if images is not None else "",
            words.format_duration(seconds) if seconds else "",
        ])  # fmt: skip
    columns = [Column("Fold"), Column("", "wide")] + [Column(title, "number") for title in ("Accuracy", "95 % interval", "Images", "Time")]
    return section("folds", "Folds", table(columns, body)) if body else NOTHING


def recipe(found: dict[str, Any]) -> Html:
    """What was asked for."""
    body = [[key, tag("code", said(value))] for key, value in items(at(found, "asked"))]
    intro = "As it was asked for; what auto chose is in the report of each fold."
    return section("recipe", "Recipe", paragraph(intro), table([Column("Setting"), Column("Value")], body)) if body else NOTHING
