"""Predictions as text or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from goodfit.core.escapes import escape_name, format_csv
from goodfit.core.words import format_percent


class Prediction(Protocol):
    """The prediction for one image, as `predict.predictor.Prediction` has it."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def probabilities(self) -> tuple[float, ...]: ...
    @property
    def problem(self) -> str: ...


def format_predictions(predictions: Sequence[Prediction], reject_below: float = 0.0) -> list[str]:
    """Format one line for each image; with a probability to reject below, it says which predictions are rejected."""
    lines = []
    for p in predictions:
        answer = p.problem or ", ".join(f"{name} {format_percent(x)}" for name, x in zip(p.classes, p.probabilities, strict=True))
        lines.append(f"{p.name}: {'rejected, ' if is_rejected(p, reject_below) else ''}{answer}")
    return lines


def format_predictions_csv(predictions: Sequence[Prediction], reject_below: float = 0.0) -> str:
    """Format CSV with a line for each class of each image, or one for the problem with the image."""
    table: list[list[object]] = [["name", "class", "probability", "problem", *(["rejected"] if reject_below else [])]]
    for p in predictions:
        rejected = ["" if p.problem else str(is_rejected(p, reject_below)).lower()] if reject_below else []
        image = escape_name(p.name)
        rows = [[image, escape_name(name), x, "", *rejected] for name, x in zip(p.classes, p.probabilities, strict=True)]
        table += rows or [[image, "", "", p.problem, *rejected]]
    return format_csv(table)


def is_rejected(prediction: Prediction, reject_below: float) -> bool:
    """Whether the likeliest class of an image has a lower probability than that."""
    return not prediction.problem and prediction.probabilities[0] < reject_below
