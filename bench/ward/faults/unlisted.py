"""Faults that the list of causes does not have, for which the doctor should say that it knows no cause."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.ward.faults.fault import UNLISTED, Fault
from bench.ward.fits import has_batch_norm, is_color
from bench.ward.loop import make_optimizer, share_right
from bench.ward.patient import Patient
from bench.ward.steps import change_step, evaluate_average


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

    def change(number: int, model: nn.Module) -> None:
        g = torch.Generator().manual_seed(number + 1)
        for parameter in model.parameters():
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=g)
                parameter.grad.add_(noise * factor * parameter.grad.norm() / parameter.numel() ** 0.5)

    return change_step(patient, change=change)


def repeat_first_batches(patient: Patient, severity: int) -> Patient:
    """See only the first batches of the split in every epoch."""
    count = (3, 2, 1)[severity]

    def order(labels: Tensor, batch: int, g: torch.Generator) -> list[Tensor]:
        return list(islice(torch.arange(len(labels)).split(batch), count))

    return patient.but(order=order)


def count_wrongly(patient: Patient, severity: int) -> Patient:
    """Count an image as right if its class is among the best two, three or four."""

    def is_right(scores: Tensor, labels: Tensor) -> Tensor:
        return (scores.topk(severity + 2, 1).indices == labels[:, None]).any(1)

    return patient.but(evaluate=lambda model, batches: share_right(model.eval(), batches, is_right))


def evaluate_old_weights(patient: Patient, severity: int) -> Patient:
    """Measure an average of the weights that lags far behind."""
    return evaluate_average(patient, (0.01, 0.005, 0.001)[severity])


def forget_weights(patient: Patient, severity: int) -> Patient:
    """Set a share of all weights to zero every few steps."""
    share = (0.1, 0.2, 0.4)[severity]

    def forget(number: int, model: nn.Module) -> None:
        if (number + 1) % 5 == 0:
            g = torch.Generator().manual_seed(number + 1)
            for parameter in model.parameters():
                parameter.mul_(torch.rand(parameter.shape, generator=g) >= share)

    return change_step(patient, after=forget)


def _adaptive(patient: Patient) -> bool:
    return patient.rule.is_adaptive


FAULTS = (
    Fault("stop-statistics", UNLISTED, stop_statistics, has_batch_norm, component="evaluation"),
    Fault("raise-epsilon", UNLISTED, raise_epsilon, _adaptive, component="optimization"),
    Fault("disturb-gradients", UNLISTED, disturb_gradients, component="loop"),
    Fault("repeat-first-batches", UNLISTED, repeat_first_batches, component="data"),
    Fault("count-wrongly", UNLISTED, count_wrongly, is_color, component="evaluation"),
    Fault("evaluate-old-weights", UNLISTED, evaluate_old_weights, component="evaluation"),
    Fault("forget-weights", UNLISTED, forget_weights, component="loop"),
)
