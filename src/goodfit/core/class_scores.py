"""Scores of classes: accuracy, top five, balanced accuracy, precision, recall and F1 per class, confusion."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from goodfit.core.interval import wilson_interval


def score_classes(logits: Tensor, labels: Tensor, loss: float, classes: tuple[str, ...]) -> dict[str, Any]:
    """Score logits [N, K] for labels [N], with 95 % intervals (Wilson, stratified bootstrap).

    Of a class, "accuracy" and "recall" are the share of its images that are recognized, "precision" the share of the images named so that
    are of it, "f1" their harmonic mean; None where there is nothing to divide by. The "f1" of all is the mean of those of the classes that
    have images.
    """
    n, k = len(labels), len(classes)
    confusion = np.bincount(labels.numpy() * k + logits.argmax(1).numpy(), minlength=k * k).reshape(k, k)
    images, named, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    seen = images > 0
    top = logits.topk(min(5, k), dim=1).indices
    recalls, precisions, f1s = _divide(right, images), _divide(right, named), _divide(2 * right, images + named)
    return {
        "accuracy": float(right.sum() / n),
        "interval": wilson_interval(int(right.sum()), n),
        "top5": float((top == labels[:, None]).any(1).double().mean()),
        "loss": loss,
        "balanced_accuracy": float((right[seen] / images[seen]).mean()),
        "balanced_interval": balanced_interval(right[seen], images[seen]),
        "f1": float(np.mean([f1s[k] for k in np.flatnonzero(seen)])),
        "images": n,
        "classes": [
            {"name": name, "images": int(i), "accuracy": recall, "precision": precision, "recall": recall, "f1": f1}
            for name, i, precision, recall, f1 in zip(classes, images, precisions, recalls, f1s, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def _divide(numerators: np.ndarray, denominators: np.ndarray) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(numerators, denominators, strict=True)]


def balanced_interval(right: np.ndarray, images: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """Estimate the 95 % interval of the mean per-class accuracy by a bootstrap within each class.

    Resampling n images of which r are right draws a binomial count, so no image has to be touched. Each class is shrunk by half an
    observation on both sides (Jeffreys), or a class with few images, all right, would look certain.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    p = (right + 0.5) / (images + 1)
    means = (rng.binomial(images[None], p[None], size=(draws, len(images))) / images).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
