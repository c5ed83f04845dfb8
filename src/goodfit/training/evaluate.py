"""Evaluation: what the model says of images it is asked about, and how sure those figures are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Loss
from goodfit.core.device import autocast
from goodfit.training.gradient import heads

Z = 1.959963984540054  # two-sided 95 %


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answered: `ids` [N], `labels` [N], `logits` [N, K] and `losses` [N], in the order of the batches."""

    ids: Tensor
    labels: Tensor
    logits: Tensor
    losses: Tensor

    @property
    def accuracy(self) -> float:
        return float((self.logits.argmax(1) == self.labels).double().mean())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    precision: str = "fp32",
) -> Answers:
    """Ask the model, in evaluation mode, about uint8 or 0..1 images [B, C, h, w] of its size."""
    training = model.training
    model.eval()
    parts: list[tuple[Tensor, ...]] = []
    try:
        for batch in batches:
            there = batch.to(device, non_blocking=True)
            with autocast(device, precision):
                logits = heads(model(normalize(there.images)))[0].float()
            parts.append((batch.ids, batch.targets.argmax(1), logits.cpu(), loss(logits, there.targets).cpu()))
    finally:
        model.train(training)
    return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))


def scores(answers: Answers, classes: tuple[str, ...]) -> dict[str, Any]:
    """Top-1 and top-5 accuracy, loss, balanced accuracy, per class, confusion; with 95 % intervals (Wilson, stratified bootstrap)."""
    n, k = len(answers.labels), len(classes)
    labels = answers.labels.numpy()
    guesses = answers.logits.argmax(1).numpy()
    confusion = np.bincount(labels * k + guesses, minlength=k * k).reshape(k, k)
    images, right = confusion.sum(1), confusion.diagonal()
    seen = images > 0
    top = answers.logits.topk(min(5, k), dim=1).indices
    return {
        "accuracy": float(right.sum() / n),
        "interval": wilson(int(right.sum()), n),
        "top5": float((top == answers.labels[:, None]).any(1).double().mean()),
        "loss": float(answers.losses.double().mean()),
        "balanced_accuracy": float((right[seen] / images[seen]).mean()),
        "balanced_interval": balanced_interval(right[seen], images[seen]),
        "images": n,
        "classes": [
            {"name": name, "images": int(i), "accuracy": float(r / i) if i else None}
            for name, i, r in zip(classes, images, right, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): honest near 0 and 1, and for few images."""
    p, z2 = right / n, Z * Z / n
    center, half = (p + z2 / 2) / (1 + z2), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return max(0.0, center - half), min(1.0, center + half)


def balanced_interval(right: np.ndarray, images: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the mean per-class accuracy, by a bootstrap within each class.

    Resampling n images of which r are right draws a binomial count, so no image has to be touched. Each class is shrunk by half an
    observation on both sides (Jeffreys), or a class with few images, all right, would look certain.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    p = (right + 0.5) / (images + 1)
    means = (rng.binomial(images[None], p[None], size=(draws, len(images))) / images).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
