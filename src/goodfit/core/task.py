"""Tasks: what a model answers (one of several classes, several labels, or numbers), and all that follows from it, in one place."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.batch import one_hot
from goodfit.core.class_scores import score_classes
from goodfit.core.contracts import Loss
from goodfit.core.figures import FIGURES, Figure, TaskName
from goodfit.core.label_scores import MIDDLE, fit_thresholds, mean_average_precision, score_labels
from goodfit.core.number_scores import fit_half_widths, score_numbers, summarize_errors

MIN_PROBABILITY = torch.finfo(torch.float32).tiny


@dataclasses.dataclass(frozen=True)
class Task(ABC):
    """What a model answers; `outputs` are the names of its K outputs.

    Targets are [B, K] in training. Answers are [N, K] as people read them, and the truth has their units: labels [N] int64 of classes, else
    [N, K]. A loss tells the logits from which answers come.
    """

    outputs: tuple[str, ...]

    name: ClassVar[TaskName]
    figure: ClassVar[Figure]  # by which its models are judged
    default_loss: ClassVar[str]
    hit_name: ClassVar[str]  # of what `hits` gives, in the log

    def with_loss(self, loss: Any) -> Any:
        """The loss, knowing the task that it serves."""
        return TaskLoss(loss, self)

    # ---- logits, answers, truth ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def to_answers(self, logits: Tensor) -> Tensor:
        """The answers [N, K] for logits [N, K]."""

    @abstractmethod
    def to_logits(self, answers: Tensor) -> Tensor:
        """Logits [N, K] that have such answers."""

    def to_truth(self, targets: Tensor) -> Tensor:
        """The truth for targets [N, K]."""
        return targets

    def to_targets(self, truth: Tensor) -> Tensor:
        """The targets [N, K] float32 for the truth."""
        return truth.float()

    @abstractmethod
    def losses(self, answers: Tensor, truth: Tensor) -> Tensor:
        """How wrong averaged answers are, [N], where no model's own loss tells it."""

    @abstractmethod
    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """How well each example [B] of a training batch is answered, 1 at best: its mean is logged at each step."""

    # ---- scores ------------------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def summarize(self, logits: Tensor, truth: Tensor) -> dict[str, float]:
        """The figure, and what else is logged at each evaluation."""

    def summarize_answers(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        """The figure and the mean loss, under the figure's `loss_key`, of averaged answers."""
        figure = self.summarize(self.to_logits(answers), truth)[self.figure.key]
        return {self.figure.key: figure, self.figure.loss_key: float(self.losses(answers, truth).double().mean())}

    @abstractmethod
    def score(self, logits: Tensor, truth: Tensor, loss: float, names: tuple[str, ...]) -> dict[str, Any]:
        """All scores of outputs with these names and mean loss, as scores.json has them."""

    def to_choices(self, answers: Tensor, truth: Tensor) -> tuple[Tensor, Tensor] | None:
        """Answers as probabilities [M, C] of choices and the right ones [M], by which calibration is measured; None where none are."""
        return None

    def fit(self, answers: Tensor, truth: Tensor) -> Self:
        """The task with what is fitted to the answers for validation images: the thresholds of labels, the intervals of numbers."""
        return self


@dataclasses.dataclass(frozen=True)
class TaskLoss:
    """A loss that serves another task than classes: `probabilities` are the answers of that task."""

    loss: Any
    task: Task

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses: Tensor = self.loss(logits, targets)
        return losses

    def probabilities(self, logits: Tensor) -> Tensor:
        """The answers [N, K] for logits [N, K]."""
        return self.task.to_answers(logits)


def task_of(loss: Any) -> Task:
    """The task that a loss serves; a loss alone tells classes."""
    return loss.task if isinstance(loss, TaskLoss) else CLASSES


def plain_loss(loss: Any) -> Any:
    """The loss itself, not knowing the task that it serves."""
    return loss.loss if isinstance(loss, TaskLoss) else loss


def to_probabilities(loss: Any, logits: Tensor) -> Tensor:
    """Turn scores [B, K] into answers [B, K] as their loss defines it; by softmax for a function of the user's own."""
    return loss.probabilities(logits) if isinstance(loss, (Loss, TaskLoss)) else logits.softmax(dim=1)


# ---- the tasks -------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Classes(Task):
    """One class an image: probabilities that sum to 1."""

    name = "classes"
    figure = FIGURES["classes"]
    default_loss = "softmax"
    hit_name = "accuracy"

    def with_loss(self, loss: Any) -> Any:
        return loss

    def to_answers(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)

    def to_logits(self, answers: Tensor) -> Tensor:
        return answers.clamp(min=MIN_PROBABILITY).log()

    def to_truth(self, targets: Tensor) -> Tensor:
        return targets.argmax(1)

    def to_targets(self, truth: Tensor) -> Tensor:
        return one_hot(truth, len(self.outputs))

    def losses(self, answers: Tensor, truth: Tensor) -> Tensor:
        return -self.to_logits(answers).gather(1, truth[:, None])[:, 0]

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits.argmax(1) == targets.argmax(1)

    def summarize(self, logits: Tensor, truth: Tensor) -> dict[str, float]:
        right = (logits.argmax(1) == truth).double()
        images = torch.bincount(truth)
        per_class = torch.bincount(truth, weights=right)[images > 0] / images[images > 0]
        return {"accuracy": float(right.mean()), "balanced_accuracy": float(per_class.mean())}

    def summarize_answers(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        right = answers.gather(1, truth[:, None]).clamp(min=MIN_PROBABILITY)
        return {"accuracy": float((answers.argmax(1) == truth).double().mean()), "log_loss": float(-right.log().mean())}

    def score(self, logits: Tensor, truth: Tensor, loss: float, names: tuple[str, ...]) -> dict[str, Any]:
        return score_classes(logits, truth, loss, names)

    def to_choices(self, answers: Tensor, truth: Tensor) -> tuple[Tensor, Tensor] | None:
        return answers, truth


@dataclasses.dataclass(frozen=True)
class Labels(Task):
    """Any number of labels an image: a probability for each, and the `thresholds` from which on one is given."""

    thresholds: tuple[float, ...] = ()

    name = "labels"
    figure = FIGURES["labels"]
    default_loss = "binary"
    hit_name = "exact_match"

    def to_answers(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def to_logits(self, answers: Tensor) -> Tensor:
        return answers.clamp(min=MIN_PROBABILITY).log() - (1 - answers).clamp(min=MIN_PROBABILITY).log()

    def losses(self, answers: Tensor, truth: Tensor) -> Tensor:
        return F.binary_cross_entropy(answers.double(), truth.double(), reduction="none").sum(1)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        return ((logits > 0) == (targets > MIDDLE)).all(1)

    def summarize(self, logits: Tensor, truth: Tensor) -> dict[str, float]:
        value = mean_average_precision(logits.double().numpy(), truth.numpy() > MIDDLE)
        return {self.figure.key: value, "exact_match": float(self.hits(logits, truth).double().mean())}

    def score(self, logits: Tensor, truth: Tensor, loss: float, names: tuple[str, ...]) -> dict[str, Any]:
        answers = self.to_answers(logits.double()).numpy()
        return score_labels(answers, truth.numpy() > MIDDLE, loss, names, self.thresholds or None)

    def to_choices(self, answers: Tensor, truth: Tensor) -> tuple[Tensor, Tensor] | None:
        """Each label of each image is a choice between no and yes."""
        yes = answers.flatten()
        return torch.stack([1 - yes, yes], dim=1), (truth > MIDDLE).long().flatten()

    def fit(self, answers: Tensor, truth: Tensor) -> Self:
        thresholds = fit_thresholds(answers.double().numpy(), truth.numpy() > MIDDLE)
        return dataclasses.replace(self, thresholds=tuple(thresholds.tolist()))

    def chosen(self, answers: Sequence[float]) -> tuple[str, ...]:
        """The labels given to an image with these answers [K]."""
        thresholds = self.thresholds or (MIDDLE,) * len(self.outputs)
        return tuple(name for name, x, least in zip(self.outputs, answers, thresholds, strict=True) if x >= least)


@dataclasses.dataclass(frozen=True)
class Numbers(Task):
    """One or more numbers an image. The network learns them less their `mean`, divided by their `std`, those of the training images.

    `half_widths` say how far from an answer the truth lies in nine of ten validation images.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    half_widths: tuple[float, ...] = ()

    name = "numbers"
    figure = FIGURES["numbers"]
    default_loss = "mse"
    hit_name = "r2"

    def to_answers(self, logits: Tensor) -> Tensor:
        mean, std = (torch.tensor(x, dtype=logits.dtype, device=logits.device) for x in (self.mean, self.std))
        return logits * std + mean

    def to_logits(self, answers: Tensor) -> Tensor:
        """Numbers [N, K] as the network learns them."""
        mean, std = (torch.tensor(x, dtype=answers.dtype, device=answers.device) for x in (self.mean, self.std))
        return (answers - mean) / std

    def to_truth(self, targets: Tensor) -> Tensor:
        return self.to_answers(targets.double())

    def to_targets(self, truth: Tensor) -> Tensor:
        return self.to_logits(truth).float()

    def losses(self, answers: Tensor, truth: Tensor) -> Tensor:
        return (self.to_logits(answers.double()) - self.to_logits(truth.double())).square().mean(1)

    def hits(self, logits: Tensor, targets: Tensor) -> Tensor:
        """1 less the squared error, whose mean is about R2, for the deviation of the numbers is 1."""
        return 1 - (logits - targets).square().mean(1)

    def summarize(self, logits: Tensor, truth: Tensor) -> dict[str, float]:
        errors = summarize_errors(self.to_answers(logits.double()).numpy(), truth.double().numpy(), np.ones((1, len(truth))))
        return {key: float(errors[key].mean()) for key in ("r2", "rmse", "mae")}

    def score(self, logits: Tensor, truth: Tensor, loss: float, names: tuple[str, ...]) -> dict[str, Any]:
        return score_numbers(self.to_answers(logits.double()).numpy(), truth.double().numpy(), loss, names)

    def fit(self, answers: Tensor, truth: Tensor) -> Self:
        return dataclasses.replace(self, half_widths=tuple(fit_half_widths(answers.double().numpy(), truth.double().numpy())))


CLASSES = Classes(())
TASKS: dict[str, type[Task]] = {task.name: task for task in (Classes, Labels, Numbers)}
