"""Steps that differ from the plain one in one thing, for faults and for controls."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.ward.loop import Loss, measure_accuracy
from bench.ward.patient import Batches, Patient

ChangeModel = Callable[[int, nn.Module], object]


def change_step(
    patient: Patient,
    zero: Callable[[int, Optimizer], object] = lambda number, optimizer: optimizer.zero_grad(),
    change: ChangeModel = lambda number, model: None,
    after: ChangeModel = lambda number, model: None,
) -> Patient:
    """A step with another way to `zero` gradients, and something to `change` between their computation and their use, or `after` it.

    Each is given the number of the step, from 0.
    """
    counts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        number = counts[model] = counts.get(model, -1) + 1
        zero(number, optimizer)
        value = loss(model(images), labels)
        value.backward()
        with torch.no_grad():
            change(number, model)
        optimizer.step()
        with torch.no_grad():
            after(number, model)
        return value.detach()

    return patient.but(step=step)


def clip_gradients(patient: Patient, norm: float) -> Patient:
    """Gradients are clipped to a norm."""
    return change_step(patient, change=lambda number, model: nn.utils.clip_grad_norm_(model.parameters(), norm))


def evaluate_average(patient: Patient, share: float) -> Patient:
    """What is evaluated is an average of the weights, into which each step goes with a share."""
    averages: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()
    before = patient.step

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        average = averages.setdefault(model, [p.detach().clone() for p in model.parameters()])
        value = before(model, optimizer, loss, images, labels)
        with torch.no_grad():
            for mean, parameter in zip(average, model.parameters(), strict=True):
                mean.lerp_(parameter, share)
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
