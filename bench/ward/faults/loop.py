"""Faults of the loop: gradients that are kept, turned or lost, the wrong loss, an optimizer that forgets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bench.ward.faults.fault import Fault
from bench.ward.fits import is_color
from bench.ward.loop import make_optimizer
from bench.ward.nets import weighted_layers
from bench.ward.patient import Patient
from bench.ward.steps import change_step


def keep_gradients(patient: Patient, severity: int) -> Patient:
    """Add up gradients over steps, for ten, for thirty, or for ever."""
    every = (10, 30, 10**9)[severity]
    return change_step(patient, lambda number, optimizer: None if number % every else optimizer.zero_grad())


def go_uphill(patient: Patient, severity: int) -> Patient:
    """Turn the sign of the loss, of the update, or of the gradients of all layers but the last."""
    if severity == 0:

        def optimizer(model: nn.Module) -> Optimizer:
            made = make_optimizer(patient.rule, list(model.parameters()))
            for group in made.param_groups:
                group["maximize"] = True
            return made

        return patient.but(optimizer=optimizer)

    def turn(number: int, model: nn.Module) -> None:
        layers = weighted_layers(model)
        chosen = layers if severity == 2 or len(layers) == 1 else layers[:-1]
        for layer in chosen:
            for parameter in layer.parameters():
                if parameter.grad is not None:
                    parameter.grad.neg_()

    return change_step(patient, change=turn)


def round_weights(patient: Patient, severity: int) -> Patient:
    """Keep the weights in so few bits that small updates are lost."""
    bits = (4, 3, 2)[severity]  # of the mantissa

    def cut(x: Tensor) -> Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)

    def cut_all(number: int, model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.copy_(cut(parameter))

    return change_step(patient, after=cut_all)


def underflow(patient: Patient, severity: int) -> Patient:
    """Compute gradients in half precision after a division that sends most of them below its smallest number."""
    scale = (3e-6, 3e-7, 1e-7)[severity]

    def change(number: int, model: nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_((parameter.grad * scale).half().float() / scale)

    return change_step(patient, change=change)


def use_wrong_loss(patient: Patient, severity: int) -> Patient:
    """Use a loss for another task: absolute error of probabilities, squared error of the class number, likelihood without logarithm."""

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        if severity == 0:
            return functional.l1_loss(outputs.softmax(1), functional.one_hot(labels, outputs.shape[1]).float())
        if severity == 1:
            numbers = torch.arange(outputs.shape[1], dtype=outputs.dtype)
            return functional.mse_loss(outputs.softmax(1) @ numbers, labels.to(outputs.dtype))
        return functional.nll_loss(outputs, labels)

    return patient.but(loss=loss)


def lose_state(patient: Patient, severity: int) -> Patient:
    """Make the optimizer forget its state every few steps, and with it the way its rate had fallen."""
    every = (5, 2, 1)[severity]

    def zero(number: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        if number and number % every == 0:
            optimizer.state.clear()

    return change_step(patient, zero)


FAULTS = (
    Fault("keep-gradients", "gradients_not_zeroed", keep_gradients),
    Fault("go-uphill", "wrong_sign", go_uphill),
    Fault("round-weights", "low_precision", round_weights),
    Fault("underflow", "low_precision", underflow),
    Fault("use-wrong-loss", "wrong_loss", use_wrong_loss),
    Fault("lose-state", "optimizer_state_lost", lose_state, is_color),
)
