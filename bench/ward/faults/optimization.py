"""Faults of the optimization: rates, schedules, momentum, decay, clipping, frozen parameters, too short, too much regularization."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bench.ward.faults.fault import Fault
from bench.ward.fits import has_batch_norm, has_hidden_layers
from bench.ward.loop import Loss, Schedule, make_optimizer
from bench.ward.nets import last_linear, weighted_layers
from bench.ward.patient import Patient
from bench.ward.steps import clip_gradients
from bench.ward.transforms import Warp, chain, erase, jitter, keep


def _scale_lr(patient: Patient, factor: float) -> Patient:
    return patient.but(rule=patient.rule.but(lr=patient.rule.lr * factor))


def raise_lr(patient: Patient, severity: int) -> Patient:
    """Multiply the learning rate."""
    return _scale_lr(patient, (15.0, 40.0, 100.0)[severity])


def lower_lr(patient: Patient, severity: int) -> Patient:
    """Divide the learning rate."""
    return _scale_lr(patient, (1 / 30, 1 / 100, 1 / 500)[severity])


def keep_lr(patient: Patient, severity: int) -> Patient:
    """Never lower a high learning rate."""
    return _scale_lr(patient, (2.5, 4.0, 6.0)[severity]).but(schedule=Schedule("constant"))


def decay_early(patient: Patient, severity: int) -> Patient:
    """Let the schedule end long before the training."""
    name = patient.schedule.name if patient.schedule.name in ("cosine", "step") else "cosine"
    return patient.but(schedule=Schedule(name, "step", (0.12, 0.07, 0.04)[severity]))


def decay_by_step(patient: Patient, severity: int) -> Patient:
    """Lower the rate after every step by what was meant for an epoch."""
    return patient.but(schedule=Schedule("falling", "step", (0.93, 0.88, 0.8)[severity]))


def skip_warmup(patient: Patient, severity: int) -> Patient:
    """Start at a peak rate that needs a warm-up, or a little above it."""
    return _scale_lr(patient, (1.5, 2.0, 2.5)[severity]).but(schedule=Schedule("cosine"))


def raise_momentum(patient: Patient, severity: int) -> Patient:
    """Use a momentum, or beta1, near 1."""
    return patient.but(rule=patient.rule.but(momentum=(0.99, 0.995, 0.999)[severity]))


def decay_weights(patient: Patient, severity: int) -> Patient:
    """Let weights shrink away."""
    strength = {"adamw": (20.0, 60.0, 150.0), "adam": (0.1, 0.5, 2.0), "rmsprop": (0.1, 0.5, 2.0)}.get(patient.rule.name, (0.1, 0.2, 0.5))
    return patient.but(rule=patient.rule.but(weight_decay=strength[severity]))


def clip_tightly(patient: Patient, severity: int) -> Patient:
    """Clip the norm of the gradient to nearly nothing."""
    return clip_gradients(patient, (1e-2, 1e-3, 1e-4)[severity])


def freeze_layers(patient: Patient, severity: int) -> Patient:
    """Switch gradients off for all layers but the last one or two."""

    def surgery(model: nn.Module) -> nn.Module:
        layers = weighted_layers(model)
        learning = {id(p) for layer in layers[-(2, 1, 1)[severity] :] for p in layer.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in learning)
        return model

    return patient.operate(surgery)


def forget_parameters(patient: Patient, severity: int) -> Patient:
    """Give the optimizer only some of the parameters."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        layers, last = weighted_layers(model), last_linear(model)
        chosen = (
            [p for layer in layers for p in layer.parameters() if layer is not layers[0] and layer is not last],
            list(last.parameters()),
            [layer.bias for layer in layers if layer.bias is not None],
        )[severity]
        return make_optimizer(patient.rule, chosen or list(last.parameters()))

    return patient.but(optimizer=optimizer)


def _shorten(patient: Patient, share: float) -> Patient:
    return patient.but(steps=max(8, round(patient.steps * share)))


def train_too_short(patient: Patient, severity: int) -> Patient:
    """Plan a tenth of the training, or less."""
    return _shorten(patient, (0.12, 0.08, 0.05)[severity])


def stop_early(patient: Patient, severity: int) -> Patient:
    """Stop learning as soon as the loss of a batch did not fall for a few steps."""
    patience = (3, 2, 1)[severity]
    waits: WeakKeyDictionary[nn.Module, list[float]] = WeakKeyDictionary()
    before = patient.step

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        best, count = waits.setdefault(model, [float("inf"), 0])
        if count >= patience:
            with torch.no_grad():
                return loss(model(images), labels)
        value = before(model, optimizer, loss, images, labels)
        waits[model] = [min(best, float(value)), 0 if float(value) < best else count + 1]
        return value

    return patient.but(step=step)


def regularize_too_much(patient: Patient, severity: int) -> Patient:
    """Add decay, dropout and augmentation, each of which alone one might bear."""
    decay = {"adamw": (4.0, 8.0, 15.0), "adam": (0.02, 0.04, 0.1), "rmsprop": (0.02, 0.04, 0.1)}.get(patient.rule.name, (0.02, 0.04, 0.08))
    change = chain(Warp(shift=0.25, scale=0.5, rotate=40), jitter(0.6), erase(0.25))
    patient = patient.but_net(dropout=(0.6, 0.7, 0.8)[severity]).but(augment=change)
    return patient.but(rule=patient.rule.but(weight_decay=decay[severity]))


def drop_regularization(patient: Patient, severity: int) -> Patient:
    """Train on few images without the augmentation and decay that went with them, and for longer."""
    rule = patient.rule.but(weight_decay=0.0, momentum=patient.rule.momentum)
    return patient.but(augment=keep, rule=rule, steps=round(patient.steps * (1.0, 1.3, 1.6)[severity]))


def _warms_up(patient: Patient) -> bool:
    return patient.schedule.name == "warmup" and not patient.rule.is_adaptive and not has_batch_norm(patient)


def _decays(patient: Patient) -> bool:
    return patient.schedule.name != "constant" and has_hidden_layers(patient)


def _has_momentum(patient: Patient) -> bool:
    return patient.rule.name != "rmsprop"


def _feels_clipping(patient: Patient) -> bool:
    return not patient.rule.is_adaptive


def _is_small_and_augmented(patient: Patient) -> bool:
    return patient.augment is not keep and patient.is_color and len(patient.splits.train) < 60 * patient.splits.classes


FAULTS = (
    Fault("raise-lr", "lr_too_high", raise_lr),
    Fault("lower-lr", "lr_too_low", lower_lr),
    Fault("keep-lr", "no_decay", keep_lr, _decays, accept=("lr_too_high",)),
    Fault("decay-early", "decay_too_early", decay_early),
    Fault("decay-by-step", "decay_too_early", decay_by_step),
    Fault("skip-warmup", "no_warmup", skip_warmup, _warms_up, accept=("lr_too_high",)),
    Fault("raise-momentum", "momentum_too_high", raise_momentum, _has_momentum),
    Fault("decay-weights", "weight_decay_too_strong", decay_weights),
    Fault("clip-tightly", "clip_too_tight", clip_tightly, _feels_clipping),
    Fault("freeze-layers", "frozen_by_mistake", freeze_layers, has_hidden_layers),
    Fault("forget-parameters", "frozen_by_mistake", forget_parameters, has_hidden_layers),
    Fault("train-too-short", "trained_too_short", train_too_short),
    Fault("stop-early", "stopped_too_early", stop_early),
    Fault("regularize-too-much", "regularized_too_much", regularize_too_much, has_hidden_layers),
    Fault("drop-regularization", "overfitting", drop_regularization, _is_small_and_augmented),
)
