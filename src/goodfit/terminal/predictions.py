"""Predictions as text, CSV or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from goodfit.core.escapes import escape_name, format_csv


class Prediction(Protocol):
    """The prediction for one image, as `predict.prediction.Prediction` has it."""

    @property
    def name(self) -> str: ...
    @property
    def probability(self) -> float: ...
    @property
    def problem(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    def plain(self) -> dict[str, Any]: ...
    def describe(self) -> str: ...
    def rows(self) -> list[tuple[object, ...]]: ...


def format_predictions(predictions: Sequence[Prediction], reject_below: float = 0.0) -> list[str]:
    """Format one line for each image; with a probability to reject below, it says which predictions are rejected."""
    lines = []
    for p in predictions:
        answer = p.problem or p.describe()
        lines.append(f"{p.name}: {'rejected, ' if is_rejected(p, reject_below) else ''}{answer}")
    return lines


def format_predictions_csv(predictions: Sequence[Prediction], reject_below: float = 0.0) -> str:
    """Format CSV with a line for each class (label, number) of each image, or one for the problem with the image."""
    columns = predictions[0].columns
    table: list[list[object]] = [["name", *columns, "problem", *(["rejected"] if reject_below else [])]]
    for p in predictions:
        rejected = ["" if p.problem else str(is_rejected(p, reject_below)).lower()] if reject_below else []
        image = escape_name(p.name)
        rows = [[image, escape_name(str(name)), *values, "", *rejected] for name, *values in p.rows()]
        table += rows or [[image, *[""] * len(columns), p.problem, *rejected]]
    return format_csv(table)


def plain_predictions(predictions: Sequence[Prediction], reject_below: float = 0.0) -> list[dict[str, Any]]:
    """Predictions for JSON; with a probability to reject below, each says whether it is rejected."""
    return [p.plain() | ({"rejected": is_rejected(p, reject_below)} if reject_below else {}) for p in predictions]


def is_rejected(prediction: Prediction, reject_below: float) -> bool:
    """Whether the likeliest class of an image has a lower probability than that."""
    return not prediction.problem and prediction.probability < reject_below
