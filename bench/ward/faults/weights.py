"""Faults of the first weights, and of the activations: dead and saturated units, weights that are equal, too small or too large."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from bench.ward.faults.fault import Fault
from bench.ward.fits import has_hidden_layers, has_no_norm, has_relu
from bench.ward.nets import Function, last_linear, replace_layers, weighted_layers
from bench.ward.patient import Patient

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def _change_weights(patient: Patient, change: Callable[[nn.Module], object]) -> Patient:
    def surgery(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            change(model)
        return model

    return patient.operate(surgery)


def lower_biases(patient: Patient, severity: int) -> Patient:
    """Start with biases so negative that most units never fire."""

    def change(model: nn.Module) -> None:
        for layer in [*weighted_layers(model)[:-1], *(x for x in model.modules() if isinstance(x, NORMS))]:
            if layer.bias is not None:
                layer.bias.fill_((-2.5, -4.0, -8.0)[severity])

    return _change_weights(patient, change)


def shift_activations(patient: Patient, severity: int) -> Patient:
    """Shift what comes into each ReLU below zero."""
    by = (-2.0, -3.0, -6.0)[severity]
    return patient.operate(lambda model: replace_layers(model, nn.ReLU, lambda layer: nn.Sequential(Function(lambda x: x + by), nn.ReLU())))


def saturate_activations(patient: Patient, severity: int) -> Patient:
    """Start with weights so large that bounded units sit at their ends."""
    patient = patient.but_net(act="sigmoid" if patient.seed % 2 and patient.net.act != "tanh" else "tanh")
    factor = (10.0, 20.0, 40.0)[severity]
    return _change_weights(patient, lambda model: [layer.weight.mul_(factor) for layer in weighted_layers(model)[:-1]])


def zero_weights(patient: Patient, severity: int) -> Patient:
    """Start with all weights the same."""
    value = (0.01, 0.001, 0.0)[severity]

    def change(model: nn.Module) -> None:
        for layer in weighted_layers(model):
            layer.weight.fill_(value)
            if layer.bias is not None:
                layer.bias.zero_()

    return _change_weights(patient, change)


def repeat_units(patient: Patient, severity: int) -> Patient:
    """Start with all units of a layer the same, coming in and going out: of the last hidden layer, of all but the first, or of all."""

    def change(model: nn.Module) -> None:
        layers = weighted_layers(model)
        for layer in layers[(-2, 1, 0)[severity] : -1]:
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
            if layer.bias is not None:
                layer.bias.zero_()
        for before, layer in pairwise(layers[(-2, 1, 0)[severity] :]):
            width = before.weight.shape[0]  # of the units whose outgoing weights become the same; 1 for a depthwise layer
            groups = layer.weight.shape[1] // width if layer.weight.shape[1] % width == 0 else 0
            if groups:
                parts = layer.weight.view(layer.weight.shape[0], width, groups, -1)
                parts.copy_(parts[:, :1].expand_as(parts))

    return _change_weights(patient, change)


def shrink_weights(patient: Patient, severity: int) -> Patient:
    """Start with weights far too small."""
    factor = (0.05, 0.02, 0.005)[severity]
    return _change_weights(patient, lambda model: [p.mul_(factor) for p in model.parameters()])


def grow_weights(patient: Patient, severity: int) -> Patient:
    """Start with weights far too large."""
    factor = (6.0, 10.0, 20.0)[severity]
    return _change_weights(patient, lambda model: [layer.weight.mul_(factor) for layer in weighted_layers(model)])


def grow_last_weights(patient: Patient, severity: int) -> Patient:
    """Start with the weights of the last layer far too large."""
    factor = (60.0, 150.0, 400.0)[severity]
    return _change_weights(patient, lambda model: last_linear(model).weight.mul_(factor))


FAULTS = (
    Fault("lower-biases", "dead_relu", lower_biases, has_relu),
    Fault("shift-activations", "dead_relu", shift_activations, has_relu),
    Fault("saturate-activations", "saturated", saturate_activations, has_no_norm),
    Fault("zero-weights", "constant_init", zero_weights, has_hidden_layers),
    Fault("repeat-units", "constant_init", repeat_units, has_hidden_layers),
    Fault("shrink-weights", "init_too_small", shrink_weights, has_no_norm),
    Fault("grow-weights", "init_too_large", grow_weights, has_no_norm),
    Fault("grow-last-weights", "init_too_large", grow_last_weights),
)
