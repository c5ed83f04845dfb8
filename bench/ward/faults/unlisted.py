"""Faults that the list of causes does not have, for which the doctor should say that it knows no cause."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.ward.faults.fault import UNLISTED, Fault
from bench.ward.faults.loop import change_step
from bench.ward.loop import Loss, Step, make_optimizer, measure_accuracy
from bench.ward.patient import Batches, Patient


def stop_statistics(patient: Patient, severity: int) -> Patient:
    """Let batch norm hardly ever update what it uses in evaluation."""
    momentum = (3e-3, 1e-3, 0.0)[severity]

    def surgery(model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.momentum = momentum
        return model

    return patient.operate(surgery)


def raise_epsilon(patient: Patient, severity: int) -> Patient:
    """Divide by so large an epsilon that an adaptive optimizer hardly moves."""
    epsilon = (1.0, 10.0, 100.0)[severity]

    def optimizer(model: nn.Module) -> Optimizer:
        made = make_optimizer(patient.rule, model.parameters())
        for group in made.param_groups:
            group["eps"] = epsilon
        return made

    return patient.but(optimizer=optimizer)


def disturb_gradients(patient: Patient, severity: int) -> Patient:
    """Add noise far larger than the gradient."""
    factor = (10.0, 25.0, 60.0)[severity]
    counts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def change(model: nn.Module, _: Optimizer) -> None:
        number = counts[model] = counts.get(model, 0) + 1
        g = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=g)
                parameter.grad.add_(noise * factor * parameter.grad.norm() / parameter.numel() ** 0.5)

    return change_step(patient, None, change)


def repeat_first_batches(patient: Patient, severity: int) -> Patient:
    """See only the first batches of the split in every epoch."""
    count = (3, 2, 1)[severity]

    def order(labels: Tensor, batch: int, g: torch.Generator) -> list[Tensor]:
        return list(islice(torch.arange(len(labels)).split(batch), count))

    return patient.but(order=order)


def count_wrongly(patient: Patient, severity: int) -> Patient:
    """Count an image as right if its class is among the best two, three or four."""

    def evaluate(model: nn.Module, batches: Batches) -> float:
        def tops() -> Iterator[tuple[Tensor, Tensor]]:
            yield from batches

        model.eval()
        right, count = 0, 0
        with torch.no_grad():
            for images, labels in tops():
                best = model(images).topk(severity + 2, 1).indices
                right += int((best == labels[:, None]).any(1).sum())
                count += len(labels)
        return right / max(1, count)

    return patient.but(evaluate=evaluate)


def evaluate_old_weights(patient: Patient, severity: int) -> Patient:
    """Measure an average of the weights that lags far behind."""
    decay = (0.99, 0.995, 0.999)[severity]
    averages: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()
    before = patient.step

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        average = averages.setdefault(model, [p.detach().clone() for p in model.parameters()])
        value = before(model, optimizer, loss, images, labels)
        with torch.no_grad():
            for mean, parameter in zip(average, model.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
        return value

    def evaluate(model: nn.Module, batches: Batches) -> float:
        held = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for parameter, mean in zip(model.parameters(), averages.get(model, held), strict=True):
                parameter.copy_(mean)
            accuracy = measure_accuracy(model, batches)
            for parameter, value in zip(model.parameters(), held, strict=True):
                parameter.copy_(value)
        return accuracy

    return patient.but(step=step, evaluate=evaluate)


def forget_weights(patient: Patient, severity: int) -> Patient:
    """Set a share of all weights to zero every few steps."""
    share = (0.1, 0.2, 0.4)[severity]
    counts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
    before: Step = patient.step

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        value = before(model, optimizer, loss, images, labels)
        number = counts[model] = counts.get(model, 0) + 1
        if number % 5 == 0:
            g = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(torch.rand(parameter.shape, generator=g) >= share)
        return value

    return patient.but(step=step)


def _is_color(patient: Patient) -> bool:
    return patient.is_color


def _adaptive(patient: Patient) -> bool:
    return patient.rule.is_adaptive


def _batch_norm(patient: Patient) -> bool:
    return patient.net.norm == "batch"


FAULTS = (
    Fault("stop-statistics", UNLISTED, stop_statistics, _batch_norm, component="evaluation"),
    Fault("raise-epsilon", UNLISTED, raise_epsilon, _adaptive, component="optimization"),
    Fault("disturb-gradients", UNLISTED, disturb_gradients, component="loop"),
    Fault("repeat-first-batches", UNLISTED, repeat_first_batches, component="data"),
    Fault("count-wrongly", UNLISTED, count_wrongly, _is_color, component="evaluation"),
    Fault("evaluate-old-weights", UNLISTED, evaluate_old_weights, component="evaluation"),
    Fault("forget-weights", UNLISTED, forget_weights, component="loop"),
)
