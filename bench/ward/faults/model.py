"""Faults of the network: missing parts, too little of it, gradients that die or grow, mixed images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.ward.faults.fault import Fault
from bench.ward.fits import has_batch_norm, has_hidden_layers, has_no_norm
from bench.ward.nets import ACTIVATIONS, Function, last_linear, replace_layers
from bench.ward.patient import Patient


def end_in_softmax(patient: Patient, severity: int) -> Patient:
    """Let the model give probabilities."""
    squash = (lambda x: x.softmax(1), lambda x: (2 * x).softmax(1), torch.sigmoid)[severity]
    return patient.operate(lambda model: nn.Sequential(model, Function(squash)))


def softmax_in_loss(patient: Patient, severity: int) -> Patient:
    """Hand probabilities to the cross-entropy."""
    loss, heat = patient.loss, (0.7, 1.0, 2.0)[severity]
    return patient.but(loss=lambda outputs, labels: loss((outputs / heat).softmax(1), labels))


def drop_activations(patient: Patient, severity: int) -> Patient:
    """Leave out what is not linear between the layers, all of it or only the later part."""
    if severity:
        return patient.but_net(act="none")

    def surgery(model: nn.Module) -> nn.Module:
        kind = type(ACTIVATIONS[patient.net.act]())
        first = next(layer for layer in model.modules() if isinstance(layer, kind))
        return replace_layers(model, kind, lambda layer: layer if layer is first and patient.net.depth > 9 else nn.Identity())

    return patient.operate(surgery)


def narrow(patient: Patient, severity: int) -> Patient:
    """Build the network with a few units."""
    if patient.net.family == "mlp":
        return patient.but_net(width=(4, 3, 2)[severity])
    return patient.but_net(width=(2, 1, 1)[severity], norm="none" if patient.net.norm == "group" else patient.net.norm)


def squeeze(patient: Patient, severity: int) -> Patient:
    """Pass all features through a layer of two or three units before the last."""
    width = (3, 2, 1)[severity]

    def surgery(model: nn.Module) -> nn.Module:
        last = last_linear(model)
        thin = nn.Sequential(nn.Linear(last.in_features, width), nn.Tanh(), nn.Linear(width, last.out_features))
        return replace_layers(model, nn.Linear, lambda layer: thin if layer is last else layer)

    return patient.operate(surgery)


def add_outputs(patient: Patient, severity: int) -> Patient:
    """Build the network with many more outputs than classes, which the loss spreads some of the target over."""
    outputs = (3000, 10000, 20000)[severity]
    smooth = patient.but_net(outputs=outputs)
    return smooth.but(loss=lambda scores, labels: functional.cross_entropy(scores, labels, label_smoothing=0.1))


def norm_few(patient: Patient, severity: int) -> Patient:
    """Train a network with batch norm on batches of a few images."""
    return patient.but(batch=(4, 3, 2)[severity])


def drop_too_much(patient: Patient, severity: int) -> Patient:
    """Drop nearly all features before the last layer in training."""
    return patient.but_net(dropout=(0.92, 0.96, 0.985)[severity])


def remove_shortcuts(patient: Patient, severity: int) -> Patient:
    """Leave out the shortcuts of a deep residual network."""
    return patient.but_net(skip=False, depth=patient.net.depth + (0, 2, 4)[severity])


def _scale_gradients(patient: Patient, factor: float) -> Patient:
    scale = Function(lambda x: factor * x + ((1 - factor) * x).detach())
    kind = type(ACTIVATIONS[patient.net.act]())
    return patient.operate(lambda model: replace_layers(model, kind, lambda layer: nn.Sequential(layer, scale)))


def squash_layers(patient: Patient, severity: int) -> Patient:
    """Use sigmoid units in a deep network without anything that keeps the gradient up."""
    return patient.but_net(act="sigmoid", norm="none", depth=max(patient.net.depth, (8, 12, 16)[severity]))


def damp_gradients(patient: Patient, severity: int) -> Patient:
    """Lose most of the gradient at every activation."""
    return _scale_gradients(patient, (0.1, 0.03, 0.01)[severity])


def amplify_gradients(patient: Patient, severity: int) -> Patient:
    """Multiply the gradient at every activation."""
    return _scale_gradients(patient, (8.0, 20.0, 60.0)[severity])


def amplify_layers(patient: Patient, severity: int) -> Patient:
    """Multiply what every activation gives in a network without norm."""
    kind, gain = type(ACTIVATIONS[patient.net.act]()), (4.0, 8.0, 16.0)[severity]

    def surgery(model: nn.Module) -> nn.Module:
        return replace_layers(model, kind, lambda layer: nn.Sequential(layer, Function(lambda x: gain * x)))

    return patient.operate(surgery)


def softmax_over_batch(patient: Patient, severity: int) -> Patient:
    """Take the softmax of the scores over the images of a batch in place of the classes, or over both."""

    def squash(x: Tensor) -> Tensor:  # [B, K]
        return x.flatten().softmax(0).view_as(x) if severity == 2 else (4, 1)[severity] * x.softmax(0)

    return patient.operate(lambda model: nn.Sequential(model, Function(squash)))


def reshape_wrongly(patient: Patient, severity: int) -> Patient:
    """Give an image the features of others: half those of its neighbor, those of a wrong reshape, or all those of another."""

    def mix(x: Tensor) -> Tensor:  # [B, D]
        if severity == 0:
            return (x + x.roll(1, 0)) / 2
        return x.t().reshape(x.shape) if severity == 1 else x.flip(0)

    def surgery(model: nn.Module) -> nn.Module:
        last = last_linear(model)
        return replace_layers(model, nn.Linear, lambda layer: nn.Sequential(Function(mix), layer) if layer is last else layer)

    return patient.operate(surgery)


def _hidden_not_digits(patient: Patient) -> bool:  # digits are nearly linear
    return has_hidden_layers(patient) and patient.shape[1] > 8


def _deep_residual(patient: Patient) -> bool:
    return patient.net.family == "resnet" and patient.net.depth > 3


def _mlp(patient: Patient) -> bool:
    return patient.net.family == "mlp"


def _without_norm_not_adaptive(patient: Patient) -> bool:
    return has_no_norm(patient) and not patient.rule.is_adaptive


def _not_adaptive(patient: Patient) -> bool:
    return has_hidden_layers(patient) and not patient.rule.is_adaptive


FAULTS = (
    Fault("end-in-softmax", "softmax_twice", end_in_softmax),
    Fault("softmax-in-loss", "softmax_twice", softmax_in_loss),
    Fault("drop-activations", "missing_nonlinearity", drop_activations, _hidden_not_digits),
    Fault("narrow", "capacity_too_small", narrow, has_hidden_layers),
    Fault("squeeze", "capacity_too_small", squeeze, has_hidden_layers),
    Fault("add-outputs", "wrong_outputs", add_outputs),
    Fault("norm-few", "batch_too_small_for_norm", norm_few, has_batch_norm),
    Fault("drop-too-much", "dropout_too_strong", drop_too_much, has_hidden_layers),
    Fault("remove-shortcuts", "missing_skip", remove_shortcuts, _deep_residual, accept=("vanishing_gradient",)),
    Fault("squash-layers", "vanishing_gradient", squash_layers, _mlp),
    Fault("damp-gradients", "vanishing_gradient", damp_gradients, _not_adaptive),
    Fault("amplify-gradients", "exploding_gradient", amplify_gradients, _not_adaptive),
    Fault("amplify-layers", "exploding_gradient", amplify_layers, _without_norm_not_adaptive),
    Fault("softmax-over-batch", "images_mixed", softmax_over_batch),
    Fault("reshape-wrongly", "images_mixed", reshape_wrongly, has_hidden_layers),
)
