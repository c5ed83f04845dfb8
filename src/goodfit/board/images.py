"""The validation images of a run by its predictions: the worst, the most doubtful, and those of one class taken for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import UsageError
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions

Order = Literal["worst", "doubtful", "name"]
ORDERS: tuple[str, ...] = get_args(Order)
MAX_PAGE = 60  # images
MIN_PROBABILITY = 1e-12


def find_images(
    folder: Path, order: str = "worst", truth: str = "", predicted: str = "", text: str = "", start: int = 0, count: int = 24
) -> dict[str, Any]:
    """A page of a run's validation images: "total", "classes", and "images", each with its name, truth, answer and probabilities.

    "worst" has the wrong answers by their loss, "doubtful" all by how near the two likeliest classes are, "name" all by name. They are of
    one true class, or answered by one class, and have `text` in their name, where those are given.

    Raises:
        UsageError: the run has no predictions for classes, or the order is none.
        DamagedFile: they do not read.
    """
    if order not in ORDERS:
        raise UsageError(f"Expected the order to be one of {', '.join(ORDERS)}, received another.")
    predictions = Predictions.read(folder / PREDICTIONS_FILE)
    if predictions is None or predictions.task != "classes":
        raise UsageError("Expected a run of classes that has kept its predictions, which goodfit evaluate writes: this one has none.")
    classes, probabilities, labels = predictions.classes, predictions.probabilities, predictions.labels
    chosen = np.ones(len(labels), bool)
    for name, values in ((truth, labels), (predicted, predictions.predicted)):
        if name:
            chosen &= values == (classes.index(name) if name in classes else -1)
    if text:
        chosen &= np.char.find(np.char.lower(predictions.names), text.lower()) >= 0
    if order == "worst":
        chosen &= ~predictions.correct
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(_rank(predictions, rows, order), kind="stable")]
    shown = rows[max(0, start) : max(0, start) + min(max(1, count), MAX_PAGE)]
    return {
        "total": len(rows),
        "classes": list(classes),
        "images": [
            {
                "name": str(predictions.names[row]),
                "truth": classes[int(labels[row])], "predicted": classes[int(probabilities[row].argmax())],
                "probability": float(probabilities[row].max()), "truth_probability": float(probabilities[row, labels[row]]),
            }
            for row in shown
        ],
    }  # fmt: skip


def _rank(predictions: Predictions, rows: NDArray[np.int64], order: str) -> NDArray[Any]:
    """What rows are sorted by, the least first."""
    probabilities = predictions.probabilities[rows]
    if order == "worst":
        of_labels: NDArray[Any] = probabilities[np.arange(len(rows)), predictions.labels[rows]]
        return of_labels
    if order == "name" or probabilities.shape[1] < 2:
        return predictions.names[rows]
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]
