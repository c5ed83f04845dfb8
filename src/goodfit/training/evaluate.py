"""Evaluation: the outputs of a model for images it is not trained on, and scores with their intervals."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import fold
from goodfit.core.contracts import Loss
from goodfit.core.device import autocast, seed_noise
from goodfit.core.task import CLASSES, Task, task_of
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.losses.scores import split_outputs
from goodfit.training.noise import evaluating

MAX_EVAL_IMAGES, MAX_EVAL_PIXELS = 256, 256 * 64 * 64  # of one batch that is evaluated


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a model: `ids` [N], `labels` [N], `logits` [N, K] and `losses` [N], in the order of the batches.

    The labels are the truth of the `task`, of another one than classes [N, K]. It took so many `seconds`, reading included.
    """

    ids: Tensor
    labels: Tensor
    logits: Tensor
    losses: Tensor
    seconds: float = 0.0
    task: Task = CLASSES

    @property
    def accuracy(self) -> float:
        """The accuracy; of another task its figure."""
        return self.task.summarize(self.logits, self.labels)[self.task.figure.key]

    def summarize(self) -> dict[str, float]:
        """The loss, the figure of the task and what else is logged of it."""
        return {"loss": float(self.losses.double().mean()), **self.task.summarize(self.logits, self.labels)}


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
    began, task = time.perf_counter(), task_of(loss)
    columns: list[tuple[Tensor, ...]] = []
    with evaluating(model, noisy=seed is not None):
        for index, batch in enumerate(batches):
            on_device = batch.to(device, non_blocking=True)
            if seed is not None:
                seed_noise(fold(seed, index) >> 1, device)
            with autocast(device, precision):
                logits = split_outputs(model(normalize(on_device.images)))[0].float()
            columns.append((batch.ids, task.to_truth(batch.targets), logits.cpu(), loss(logits, on_device.targets).cpu()))
    ids, labels, outputs, losses = (torch.cat(column) for column in zip(*columns, strict=True))
    return Outputs(ids, labels, outputs, losses, time.perf_counter() - began, task)


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


def join_outputs(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several parts as one, in their order; they took as long as the slowest."""
    if len(parts) == 1:
        return parts[0]
    ids, labels, logits, losses = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "labels", "logits", "losses"))
    return Outputs(ids, labels, logits, losses, max(part.seconds for part in parts), parts[0].task)


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

    `run_pass(i)` gives the outputs of pass i. Each row has "passes", and the figure and mean loss of the task, "accuracy" and "log_loss".
    """
    seen: list[Outputs] = []

    def pass_probabilities(index: int) -> Tensor:
        seen[:] = [run_pass(index)]
        return probabilities(seen[0].logits)

    means = running_means(map(pass_probabilities, range(passes)), passes)
    return [{"passes": n, **seen[0].task.summarize_answers(mean, seen[0].labels)} for n, mean in means]


def compute_scores(outputs: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """The scores of the outputs for these classes, labels or numbers, as scores.json has them."""
    return outputs.task.score(outputs.logits, outputs.labels, float(outputs.losses.double().mean()), classes)
