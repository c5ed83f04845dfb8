"""What an ensemble is made of: its models, those left out too, and what each scored alone."""

from __future__ import annotations

from goodfit.core import words
from goodfit.report.markup import NOTHING, Column, Html, bar, paragraph, percent, section, significant, table, tag
from goodfit.report.record import Record, at, number, rows, texts

WAYS = {
    ("average", "all"): "The mean of the probabilities of",
    ("average", "greedy"): "The mean of the probabilities of a greedy choice among",
    ("soup", "uniform"): "A soup: one model with the mean of the weights of",
    ("soup", "greedy"): "A soup: one model with the mean of the weights of a greedy choice among",
}


def made_of(record: Record) -> str:
    """How it was made, of how many models: one sentence."""
    made = at(record.ensemble, "candidates")
    way = WAYS.get((str(at(record.ensemble, "kind")), str(at(record.ensemble, "select"))), "Made of")
    classes = texts(at(record.ensemble, "classes"))
    of = f", of {words.count_of(len(classes), 'class', 'classes')}" if classes else ""
    return f"{way} {words.count_of(len(rows(made)), 'model')}{of}." if rows(made) else ""


def ensemble(record: Record) -> Html:
    """The models with their weights and scores; nothing for a run."""
    found = rows(at(record.ensemble, "candidates"))
    if not found:
        return NOTHING
    judged = any(number(row, "accuracy") is not None for row in found)
    said = "The scores are by the validation images that all of them validated on" if judged else "No image was validated by all of them"
    columns = [Column("Model"), Column("", "wide"), *(Column(title, "number") for title in ("Accuracy", "Log loss", "Weight"))]
    body = [
        [
            tag("code", str(row.get("source", "unknown"))),
            bar(number(row, "accuracy")),
            percent(number(row, "accuracy"), 2),
            significant(number(row, "log_loss")),
            percent(weight) if (weight := number(row, "weight")) else "left out",
        ]
        for row in found
    ]
    command = at(record.about, "command")
    return section(
        "ensemble",
        "Models",
        paragraph(f"{said}; where the models lie is said as seen from this folder, which has copies of those it needs."),
        tag("pre", tag("code", str(command))) if command else None,
        table(columns, body),
    )
