"""How a patient is trained: optimizers and schedules by name, the step, the evaluation, the order of the batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[nn.Module, Optimizer, Loss, Tensor, Tensor], Tensor]
Evaluate = Callable[[nn.Module, Iterable[tuple[Tensor, Tensor]]], float]
Order = Callable[[Tensor, int, torch.Generator], list[Tensor]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """An optimizer: sgd, nesterov, adam, adamw or rmsprop; `momentum` is beta1 of Adam."""

    name: str
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0

    @property
    def is_adaptive(self) -> bool:
        return self.name in ("adam", "adamw", "rmsprop")

    def but(self, **changes: Any) -> Rule:
        """This rule with other settings."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A schedule.

    It is constant, cosine, step (a tenth at 60 and 85 %), warmup (a tenth of the way up, then cosine), restarts (three cosines) or falling.

    Attributes:
        name: which.
        every: "step" or "epoch".
        share: of the planned training after which it is at its end; of falling, the factor of each call.
    """

    name: str
    every: str = "step"
    share: float = 1.0


def make_optimizer(rule: Rule, parameters: Iterable[Tensor]) -> Optimizer:
    """Make the optimizer of a rule."""
    if rule.name in ("sgd", "nesterov"):
        nesterov = rule.name == "nesterov"
        return torch.optim.SGD(parameters, rule.lr, rule.momentum, weight_decay=rule.weight_decay, nesterov=nesterov)
    if rule.name == "rmsprop":
        return torch.optim.RMSprop(parameters, rule.lr, weight_decay=rule.weight_decay)
    kind = torch.optim.Adam if rule.name == "adam" else torch.optim.AdamW
    return kind(parameters, rule.lr, (rule.momentum, 0.999), weight_decay=rule.weight_decay)


def lr_factor(name: str, t: float) -> float:
    """The learning rate as a share of its peak, at the share `t` of the training."""
    t = min(t, 1.0)
    if name == "step":
        return 1.0 if t < 0.6 else 0.1 if t < 0.85 else 0.01
    if name == "warmup":
        return (t + 0.002) / 0.102 if t < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (t - 0.1) / 0.9)
    if name == "restarts":
        return 0.5 + 0.5 * math.cos(math.pi * (3 * t % 1 if t < 1 else 1.0))
    return 0.5 + 0.5 * math.cos(math.pi * t) if name == "cosine" else 1.0


def make_schedule(schedule: Schedule, optimizer: Optimizer, calls: int) -> LambdaLR | None:
    """Make the schedule that is at its end after `calls`, or None for a constant rate."""
    if schedule.name == "constant":
        return None
    if schedule.name == "falling":
        return LambdaLR(optimizer, lambda count: schedule.share**count)
    last = max(1, round(schedule.share * calls))
    return LambdaLR(optimizer, lambda count: lr_factor(schedule.name, count / last))


def shuffle(labels: Tensor, batch: int, g: torch.Generator) -> list[Tensor]:
    """All rows in random order, in whole batches."""
    order = torch.randperm(len(labels), generator=g)
    return [rows for rows in order.split(batch) if len(rows) == batch or len(order) < batch]


def take_step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
    """One plain training step; returns the loss."""
    optimizer.zero_grad()
    value = loss(model(images), labels)
    value.backward()
    optimizer.step()
    return value.detach()


def measure_accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The share of images whose highest score is that of their label, in evaluation mode."""
    return share_right(model.eval(), batches)


def share_right(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    is_right: Callable[[Tensor, Tensor], Tensor] = lambda scores, labels: scores.argmax(1) == labels,
) -> float:
    """The share of images that are right by their scores [B, K] and labels [B], in the mode that the model is in."""
    right, count = 0, 0
    with torch.no_grad():
        for images, labels in batches:
            right += int(is_right(model(images), labels).sum())
            count += len(labels)
    return right / max(1, count)


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of scores [B, K]."""
    return functional.cross_entropy(outputs, labels)
