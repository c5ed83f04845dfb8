"""Evaluation: the outputs of a model for images it is not trained on, and scores with their intervals."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import fold
from goodfit.core.contracts import Loss
from goodfit.core.device import autocast, seed_noise
from goodfit.core.interval import wilson_interval
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.losses.scores import split_outputs
from goodfit.training.noise import evaluating

MAX_EVAL_IMAGES, MAX_EVAL_PIXELS = 256, 256 * 64 * 64  # of one batch that is evaluated


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a model: `ids` [N], `labels` [N], `logits` [N, K] and `losses` [N], in the order of the batches.

    It took so many `seconds`, reading included.
    """

    ids: Tensor
    labels: Tensor
    logits: Tensor
    losses: Tensor
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        return float((self.logits.argmax(1) == self.labels).double().mean())


@torch.no_grad()
def collect_outputs(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    precision: str = "fp32",
    seed: int | None = None,
) -> Outputs:
    """Run the model in evaluation mode on batches of uint8 or 0..1 images [B, C, h, w] of its size.

    With a `seed` its noise layers stay active, and draw the same noise for the same seed and batches.
    """
    began = time.perf_counter()
    columns: list[tuple[Tensor, ...]] = []
    with evaluating(model, noisy=seed is not None):
        for index, batch in enumerate(batches):
            on_device = batch.to(device, non_blocking=True)
            if seed is not None:
                seed_noise(fold(seed, index) >> 1, device)
            with autocast(device, precision):
                logits = split_outputs(model(normalize(on_device.images)))[0].float()
            columns.append((batch.ids, batch.targets.argmax(1), logits.cpu(), loss(logits, on_device.targets).cpu()))
    ids, labels, outputs, losses = (torch.cat(column) for column in zip(*columns, strict=True))
    return Outputs(ids, labels, outputs, losses, time.perf_counter() - began)


@dataclasses.dataclass(frozen=True)
class RowEvaluator:
    """Runs models on rows of a data set, through the preprocessing that predict uses."""

    dataset: Dataset
    loss: Any
    device: torch.device

    def __call__(
        self,
        model: nn.Module,
        rows: Tensor,
        precision: str = "fp32",
        seed: int | None = None,
        augment: Callable[[Batch], Batch] | None = None,
    ) -> Outputs:
        """The outputs for rows of the data; with a `seed`, those of one pass with the model's noise layers active.

        `augment` gives the images of the model's size for a batch of stored boxes, in place of their center crops.
        """
        data, pre = self.dataset, self.dataset.preprocess
        size = eval_batch_size(*pre.box)
        boxes = iterate_batches(data.pixels, data.labels, rows, len(data.classes), size)
        batches = (augment(b) if augment else b.but(images=pre.center_crop(b.images)) for b in boxes)
        return collect_outputs(model, batches, self.loss, pre.normalize, self.device, precision, seed)


def eval_batch_size(height: int, width: int) -> int:
    """How many images of this size are evaluated at once."""
    return max(1, min(MAX_EVAL_IMAGES, MAX_EVAL_PIXELS // (height * width)))


def running_means(answers: Iterable[Tensor], total: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (n, mean of the first n answers in float64) for n = 1, 2, 4, ... and `total`; each answer is computed when its turn comes."""
    added = torch.zeros((), dtype=torch.float64)
    for n, answer in enumerate(answers, 1):
        added = added + answer.double()
        if n == total or n & (n - 1) == 0:
            yield n, added / n


def score_noisy_passes(run_pass: Callable[[int], Outputs], passes: int, probabilities: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
    """Score the mean of the probabilities over the first 1, 2, 4, ... and all `passes` noisy passes over the same images.

    `run_pass(i)` gives the outputs of pass i. Each row has "passes", "accuracy" and "log_loss".
    """
    labels: list[Tensor] = []

    def pass_probabilities(index: int) -> Tensor:
        outputs = run_pass(index)
        labels[:] = [outputs.labels]
        return probabilities(outputs.logits)

    means = running_means(map(pass_probabilities, range(passes)), passes)
    return [{"passes": n, **accuracy_and_log_loss(mean, labels[0])} for n, mean in means]


def accuracy_and_log_loss(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and log loss of probabilities [N, K] for labels [N]."""
    right = probabilities.gather(1, labels[:, None]).clamp(min=torch.finfo(torch.float32).tiny)
    return {"accuracy": float((probabilities.argmax(1) == labels).double().mean()), "log_loss": float(-right.log().mean())}


def compute_scores(outputs: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """Top-1 and top-5 accuracy, loss, balanced accuracy, per class, confusion; with 95 % intervals (Wilson, stratified bootstrap)."""
    n, k = len(outputs.labels), len(classes)
    labels = outputs.labels.numpy()
    guesses = outputs.logits.argmax(1).numpy()
    confusion = np.bincount(labels * k + guesses, minlength=k * k).reshape(k, k)
    images, right = confusion.sum(1), confusion.diagonal()
    seen = images > 0
    top = outputs.logits.topk(min(5, k), dim=1).indices
    return {
        "accuracy": float(right.sum() / n),
        "interval": wilson_interval(int(right.sum()), n),
        "top5": float((top == outputs.labels[:, None]).any(1).double().mean()),
        "loss": float(outputs.losses.double().mean()),
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
    """Estimate the 95 % interval of the mean per-class accuracy by a bootstrap within each class.

    Resampling n images of which r are right draws a binomial count, so no image has to be touched. Each class is shrunk by half an
    observation on both sides (Jeffreys), or a class with few images, all right, would look certain.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    p = (right + 0.5) / (images + 1)
    means = (rng.binomial(images[None], p[None], size=(draws, len(images))) / images).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
