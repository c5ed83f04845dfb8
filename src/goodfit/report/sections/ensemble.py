"""Models of an ensemble, including those left out, and how each scores alone."""

from __future__ import annotations

from goodfit.core import words
from goodfit.core.run_files import get
from goodfit.report.markup import EMPTY, Column, Html, bar, format_figure, format_number, format_percent, paragraph, section, table, tag
from goodfit.report.record import Record, as_rows, as_texts, get_number

METHODS = {
    ("average", "all"): "The mean of the probabilities of",
    ("average", "greedy"): "The mean of the probabilities of a greedy choice among",
    ("soup", "uniform"): "A soup: one model with the mean of the weights of",
    ("soup", "greedy"): "A soup: one model with the mean of the weights of a greedy choice among",
}


def describe_outputs(record: Record, count: int) -> str:
    """How many classes, labels or numbers a model answers, as a clause."""
    one = {"labels": "label", "numbers": "number"}.get(str(record.recipe.get("task")))
    return f"with {words.count_of(count, one)} each" if one else f"of {words.count_of(count, 'class', 'classes')}"


def describe_ensemble(record: Record) -> str:
    """Describe in one sentence how an ensemble was made, and of how many models."""
    models = len(as_rows(get(record.ensemble, "candidates")))
    method = METHODS.get((str(get(record.ensemble, "kind")), str(get(record.ensemble, "select"))), "Made of")
    method = method if record.figure.is_share else method.replace("probabilities", "answers")
    classes = as_texts(get(record.ensemble, "classes"))
    of = f", {describe_outputs(record, len(classes))}" if classes else ""
    return f"{method} {words.count_of(models, 'model')}{of}." if models else ""


def render_ensemble(record: Record) -> Html:
    """Render the models with their weights and scores; empty for a run."""
    candidates = as_rows(get(record.ensemble, "candidates"))
    if not candidates:
        return EMPTY
    figure = record.figure
    scored = any(get_number(row, figure.key) is not None for row in candidates)
    common = "The scores are on the validation images that all models share" if scored else "The models share no validation image"
    loss = figure.loss_key
    titles = (figure.heading, loss.replace("_", " ").capitalize(), "Weight")
    columns = [Column("Model"), Column("", "wide"), *(Column(title, "number") for title in titles)]
    body = [
        [
            tag("code", str(row.get("source", "unknown"))),
            bar(get_number(row, figure.key)),
            format_figure(figure, get_number(row, figure.key), 2),
            format_number(get_number(row, loss)),
            format_percent(weight) if (weight := get_number(row, "weight")) else "left out",
        ]
        for row in candidates
    ]
    command = get(record.about, "command")
    return section(
        "ensemble",
        "Models",
        paragraph(f"{common}. Paths are relative to this folder, which holds copies of the models it needs."),
        tag("pre", tag("code", str(command))) if command else None,
        table(columns, body),
    )
