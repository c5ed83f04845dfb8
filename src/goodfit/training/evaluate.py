"""Evaluation: what the model says of images it is asked about, and how sure those figures are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import fold
from goodfit.core.contracts import Loss
from goodfit.core.device import autocast, seed_noise
from goodfit.core.interval import wilson_interval
from goodfit.training.heads import heads
from goodfit.training.noise import evaluating
from goodfit.training.running import running_means


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
    seed: int | None = None,
) -> Answers:
    """Ask the model, in evaluation mode, about uint8 or 0..1 images [B, C, h, w] of its size.

    With a `seed` its noise layers stay at work, and draw the same for the same seed and batches.
    """
    parts: list[tuple[Tensor, ...]] = []
    with evaluating(model, noisy=seed is not None):
        for place, batch in enumerate(batches):
            there = batch.to(device, non_blocking=True)
            if seed is not None:
                seed_noise(fold(seed, place) >> 1, device)
            with autocast(device, precision):
                logits = heads(model(normalize(there.images)))[0].float()
            parts.append((batch.ids, batch.targets.argmax(1), logits.cpu(), loss(logits, there.targets).cpu()))
    return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))


def mean_of_passes(ask: Callable[[int], Answers], passes: int, probabilities: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
    """What the mean of the probabilities over the first 1, 2, 4, ... and all `passes` answers of the same images comes to.

    `ask(i)` gives the answers of pass i, with the noise layers at work. Each row has "passes",
    "accuracy" and "log_loss", the mean of -log of the probability of the right class.
    """
    labels: list[Tensor] = []

    def asked(place: int) -> Tensor:
        answers = ask(place)
        labels[:] = [answers.labels]
        return probabilities(answers.logits)

    return [{"passes": n, **judged(mean, labels[0])} for n, mean in running_means(map(asked, range(passes)), passes)]


def judged(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and log loss of probabilities [N, K]."""
    right = probabilities.gather(1, labels[:, None]).clamp(min=torch.finfo(torch.float32).tiny)
    return {"accuracy": float((probabilities.argmax(1) == labels).double().mean()), "log_loss": float(-right.log().mean())}


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
        "interval": wilson_interval(int(right.sum()), n),
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
