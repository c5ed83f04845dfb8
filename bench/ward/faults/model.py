"""Faults of the network: dead and saturated units, initial weights, missing parts, too little of it, gradients that die or grow, mixed images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nets import ACTIVATIONS, last_linear, replace_layers, weighted_layers, wrap
from ..patient import Patient
from .fault import Fault

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


class Offset(nn.Module):
    """Adds a constant to what comes in."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def shift_activations(patient: Patient, severity: int) -> Patient:
    """Shift what comes into each ReLU below zero."""
    by = (-2.0, -3.0, -6.0)[severity]
    return patient.operate(lambda model: replace_layers(model, nn.ReLU, lambda layer: nn.Sequential(Offset(by), nn.ReLU())))


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


def repeat_rows(patient: Patient, severity: int) -> Patient:
    """Start with every unit of a hidden layer the same as its first, in one, two or all hidden layers."""

    def change(model: nn.Module) -> None:
        for layer in weighted_layers(model)[:-1][: (1, 2, None)[severity]]:
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
            if layer.bias is not None:
                layer.bias.zero_()

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


def end_in_softmax(patient: Patient, severity: int) -> Patient:
    """Let the model give probabilities."""
    squash = (lambda x: x.softmax(1), lambda x: (2 * x).softmax(1), torch.sigmoid)[severity]
    return patient.operate(lambda model: wrap(model, after=squash))


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
    outputs = (1000, 4000, 10000)[severity]
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


class Damped(nn.Module):
    """Passes values on as they are, and gradients times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + ((1 - self.factor) * x).detach()


def _scale_gradients(patient: Patient, factor: float) -> Patient:
    kind = type(ACTIVATIONS[patient.net.act]())
    return patient.operate(lambda model: replace_layers(model, kind, lambda layer: nn.Sequential(layer, Damped(factor))))


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
        return replace_layers(model, kind, lambda layer: nn.Sequential(layer, Gain(gain)))

    return patient.operate(surgery)


class Gain(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return self.by * x


def softmax_over_batch(patient: Patient, severity: int) -> Patient:
    """Weight features by a softmax over the batch in place of the features."""

    def after(x: Tensor) -> Tensor:
        weights = x.softmax(0) * len(x)
        return x * weights if severity < 2 else weights

    return patient.operate(lambda model: wrap(model, after=after))


def reshape_wrongly(patient: Patient, severity: int) -> Patient:
    """Bring the axes of the features into another order by a reshape, which mixes the images of a batch."""

    def surgery(model: nn.Module) -> nn.Module:
        last = last_linear(model)
        return replace_layers(model, nn.Linear, lambda layer: nn.Sequential(Mixed(severity), layer) if layer is last else layer)

    return patient.operate(surgery)


class Mixed(nn.Module):
    """Reads features [B, D] as if the first axis were the second."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // (4, 2, 1)[self.kind]
        return torch.cat([x[:, :half].t().reshape(len(x), half), x[:, half:]], 1)


def _relu(patient: Patient) -> bool:
    return patient.net.act == "relu" and patient.net.family != "linear"


def _hidden(patient: Patient) -> bool:
    return patient.net.family != "linear"


def _without_norm(patient: Patient) -> bool:
    return patient.net.family != "linear" and patient.net.norm == "none"


def _hidden_relu_without_norm(patient: Patient) -> bool:
    return _relu(patient) and _without_norm(patient)


def _batch_norm(patient: Patient) -> bool:
    return patient.net.norm == "batch"


def _deep_residual(patient: Patient) -> bool:
    return patient.net.family == "resnet" and patient.net.depth > 3


def _mlp(patient: Patient) -> bool:
    return patient.net.family == "mlp"


def _without_norm_not_adaptive(patient: Patient) -> bool:
    return _without_norm(patient) and not patient.rule.is_adaptive


def _not_adaptive(patient: Patient) -> bool:
    return _hidden(patient) and not patient.rule.is_adaptive


def _not_pretrained(patient: Patient) -> bool:
    return patient.surgery is Patient.surgery


FAULTS = (
    Fault("lower-biases", "dead_relu", lower_biases, _relu),
    Fault("shift-activations", "dead_relu", shift_activations, _relu),
    Fault("saturate-activations", "saturated", saturate_activations, _without_norm),
    Fault("zero-weights", "constant_init", zero_weights, _hidden),
    Fault("repeat-rows", "constant_init", repeat_rows, _hidden),
    Fault("shrink-weights", "init_too_small", shrink_weights, _without_norm),
    Fault("grow-weights", "init_too_large", grow_weights, _without_norm),
    Fault("grow-last-weights", "init_too_large", grow_last_weights),
    Fault("end-in-softmax", "softmax_twice", end_in_softmax),
    Fault("softmax-in-loss", "softmax_twice", softmax_in_loss),
    Fault("drop-activations", "missing_nonlinearity", drop_activations, _hidden),
    Fault("narrow", "capacity_too_small", narrow, _hidden),
    Fault("squeeze", "capacity_too_small", squeeze, _hidden),
    Fault("add-outputs", "wrong_outputs", add_outputs),
    Fault("norm-few", "batch_too_small_for_norm", norm_few, _batch_norm),
    Fault("drop-too-much", "dropout_too_strong", drop_too_much, _hidden),
    Fault("remove-shortcuts", "missing_skip", remove_shortcuts, _deep_residual, accept=("vanishing_gradient",)),
    Fault("squash-layers", "vanishing_gradient", squash_layers, _mlp),
    Fault("damp-gradients", "vanishing_gradient", damp_gradients, _not_adaptive),
    Fault("amplify-gradients", "exploding_gradient", amplify_gradients, _not_adaptive),
    Fault("amplify-layers", "exploding_gradient", amplify_layers, _without_norm_not_adaptive),
    Fault("softmax-over-batch", "images_mixed", softmax_over_batch),
    Fault("reshape-wrongly", "images_mixed", reshape_wrongly, _hidden),
)
