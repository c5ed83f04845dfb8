"""Passive signals of a training: what a callback sees of losses, accuracies, activations, gradients, weights, inputs and labels."""

from __future__ import annotations

import dataclasses
import math
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

CHECKS = 10  # how often layers are looked at over a training, as if those were its epochs
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.ELU)


@dataclasses.dataclass
class Check:
    """What one look at the training shows.

    Attributes:
        loss, accuracy: of training batches since the last look.
        validation: accuracy as the user measures it.
        gradients: mean absolute gradient of each weighted layer; its norm in `norms`.
        zeros: share of all gradient entries that are exactly zero.
        dead: share of activations at or below zero, by activation layer.
        extreme: share of what goes into tanh and sigmoid that is 5 or more in size, by layer.
        sizes: mean absolute activation, by activation layer.
        variances: of the weights, by weighted layer.
        updates: learning rate times gradient norm over weight norm, by weighted layer.
        moved: whether each weighted layer has changed since the start.
    """

    loss: float
    accuracy: float
    validation: float
    gradients: list[float]
    norms: list[float]
    zeros: float
    dead: list[float]
    extreme: list[float]
    sizes: list[float]
    variances: list[float]
    updates: list[float]
    moved: list[bool]


@dataclasses.dataclass
class Signals:
    """All that was seen of a training; `error` is what stopped it."""

    classes: int
    steps: int
    lr: float = 0.0
    optimizer: str = ""
    input_low: float = 0.0
    input_high: float = 0.0
    input_std: float = 0.0
    label_entropy: float = 0.0
    largest_class: float = 0.0
    dropout: float = 0.0
    has_activation: bool = True
    probabilities: bool = False
    losses: list[float] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def best(self) -> float:
        """The best training accuracy of a look."""
        return max((check.accuracy for check in self.checks), default=0.0)


class _Watch:
    """Hooks that remember what the layers of a model last gave."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: Tensor | None = None
        self.after: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        model.register_forward_hook(self._see_model)
        for layer in model.modules():
            if isinstance(layer, ACTIVATIONS):
                layer.register_forward_hook(self._see_layer)

    def _see_model(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.outputs = output.detach()

    def _see_layer(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.after[layer] = inputs[0].detach(), output.detach()


def record_signals(case: dict[str, Any], seed: int) -> Signals:
    """Train a case as its user would, and record what can be seen without any trial."""
    signals = Signals(case["classes"], case["steps"])
    try:
        _record(case, seed, signals)
    except (RuntimeError, IndexError, ValueError) as error:
        signals.error = f"{type(error).__name__}: {error}"[:200]
    return signals


def _record(case: dict[str, Any], seed: int, signals: Signals) -> None:
    torch.manual_seed(seed)
    model = case["model"]()
    optimizer = case["optimizer"](model)
    schedule = case["schedule"] and case["schedule"](optimizer)
    watch, start = _Watch(model), [layer.weight.detach().clone() for layer in _weighted(model)]
    signals.lr, signals.optimizer = optimizer.param_groups[0]["lr"], type(optimizer).__name__
    signals.dropout = max((layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)), default=0.0)
    signals.has_activation = any(isinstance(layer, ACTIVATIONS) for layer in model.modules()) or len(start) == 1
    every, right, seen, done = max(1, case["steps"] // CHECKS), 0, 0, 0
    for epoch in count():
        for images, labels in case["train"](epoch):
            model.train()
            signals.losses.append(float(case["step"](model, optimizer, case["loss"], images, labels).detach()))
            if watch.outputs is not None and len(watch.outputs) == len(labels):
                right, seen = right + int((watch.outputs.argmax(1) == labels).sum()), seen + len(labels)
            if not done:
                _see_data(signals, images, labels, watch)
            done += 1
            if done % every == 0 or done == case["steps"]:
                accuracy = right / max(1, seen)
                loss = sum(signals.losses[-every:]) / len(signals.losses[-every:])
                check = _look(model, optimizer, watch, start)
                validation = float(case["evaluate"](model, case["validation"]()))
                signals.checks.append(dataclasses.replace(check, loss=loss, accuracy=accuracy, validation=validation))
                right = seen = 0
            if schedule and case["schedule_every"] == "step":
                schedule.step()
            if done >= case["steps"]:
                return
        if schedule and case["schedule_every"] == "epoch":
            schedule.step()


def _weighted(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def _see_data(signals: Signals, images: Tensor, labels: Tensor, watch: _Watch) -> None:
    signals.input_low, signals.input_high, signals.input_std = float(images.min()), float(images.max()), float(images.std())
    shares = torch.bincount(labels.clamp(min=0)).float() / len(labels)
    signals.label_entropy = float(-(shares * shares.clamp(min=1e-9).log()).sum()) / math.log(signals.classes)
    signals.largest_class = float(shares.max())
    if watch.outputs is not None:
        signals.probabilities = bool((watch.outputs >= 0).all() and (watch.outputs.sum(1) - 1).abs().max() < 1e-3)


def _look(model: nn.Module, optimizer: torch.optim.Optimizer, watch: _Watch, start: list[Tensor]) -> Check:
    layers, lr = _weighted(model), optimizer.param_groups[0]["lr"]
    grads = [layer.weight.grad if layer.weight.grad is not None else torch.zeros_like(layer.weight) for layer in layers]
    pairs = list(watch.after.items())
    bounded = [before for layer, (before, _) in pairs if isinstance(layer, (nn.Tanh, nn.Sigmoid))]
    weights = [layer.weight.detach() for layer in layers]
    return Check(
        loss=0.0,
        accuracy=0.0,
        validation=0.0,
        gradients=[float(grad.abs().mean()) for grad in grads],
        norms=[float(grad.norm()) for grad in grads],
        zeros=float(sum(int((grad == 0).sum()) for grad in grads) / sum(grad.numel() for grad in grads)),
        dead=[float((after <= 0).float().mean()) for _, (_, after) in pairs],
        extreme=[float((before.abs() >= 5).float().mean()) for before in bounded],
        sizes=[float(after.abs().mean()) for _, (_, after) in pairs],
        variances=[float(weight.var()) for weight in weights],
        updates=[
            lr * float(grad.norm()) / max(1e-12, float(layer.weight.detach().norm())) for grad, layer in zip(grads, layers, strict=True)
        ],
        moved=[not torch.equal(weight, first) for weight, first in zip(weights, start, strict=True)],
    )
