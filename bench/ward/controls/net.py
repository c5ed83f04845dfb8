"""Healthy variations of the network and its optimization."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from bench.ward.controls.control import Control
from bench.ward.fits import has_batch_norm, has_hidden_layers, has_large_split, has_relu, is_pretrained
from bench.ward.loop import Schedule, make_optimizer
from bench.ward.nets import last_linear
from bench.ward.patient import Patient


def drop_half(patient: Patient) -> Patient:
    """Dropout of one half."""
    return patient.but_net(dropout=0.5)


def start_head_at_zero(patient: Patient) -> Patient:
    """The last layer starts at zero."""

    def surgery(model: nn.Module) -> nn.Module:
        for parameter in last_linear(model).parameters():
            nn.init.zeros_(parameter)
        return model

    return patient.operate(surgery)


def use_elu(patient: Patient) -> Patient:
    """ELU in place of ReLU."""
    return patient.but_net(act="elu")


def freeze_trunk(patient: Patient) -> Patient:
    """A pretrained trunk that is frozen on purpose."""

    def surgery(model: nn.Module) -> nn.Module:
        head = {id(p) for p in last_linear(model).parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in head)
        return model

    return patient.operate(surgery).but(rule=patient.rule.but(lr=2 * patient.rule.lr))


def tune_gently(patient: Patient) -> Patient:
    """A tiny rate for the pretrained trunk, and a large one for the new head."""

    def optimizer(model: nn.Module) -> Optimizer:
        head = list(last_linear(model).parameters())
        trunk = [p for p in model.parameters() if all(p is not h for h in head)]
        made = make_optimizer(patient.rule, head)
        made.add_param_group({"params": trunk, "lr": patient.rule.lr / 300})
        return made

    return patient.but(optimizer=optimizer)


def use_small_batches(patient: Patient) -> Patient:
    """Batches of 8."""
    factor = 8 / patient.batch
    lr = patient.rule.lr * (factor**0.5 if patient.rule.is_adaptive else factor)
    return patient.but(batch=8, rule=patient.rule.but(lr=lr), steps=round(patient.steps * min(3.0, factor**-0.5)))


def use_large_batches(patient: Patient) -> Patient:
    """Batches of 512, at a higher rate after a warm-up."""
    batch = min(512, len(patient.splits.train))
    lr = patient.rule.lr * (1.5 if patient.rule.is_adaptive else 2.0)
    return patient.but(batch=batch, rule=patient.rule.but(lr=lr), schedule=Schedule("warmup"), steps=round(0.6 * patient.steps))


def restart(patient: Patient) -> Patient:
    """Warm restarts of the rate."""
    return patient.but(schedule=Schedule("restarts"), steps=round(1.2 * patient.steps))


def warm_up(patient: Patient) -> Patient:
    """A warm-up from nearly zero."""
    return patient.but(schedule=Schedule("warmup"))


def leave_out_momentum(patient: Patient) -> Patient:
    """No momentum, at five times the rate."""
    return patient.but(rule=patient.rule.but(name="sgd", momentum=0.0, lr=5 * patient.rule.lr))


def _sgd(patient: Patient) -> bool:
    return not patient.rule.is_adaptive and not is_pretrained(patient)


def _relu(patient: Patient) -> bool:
    return has_relu(patient) and not is_pretrained(patient)


CONTROLS = (
    Control("drop-half", drop_half, has_hidden_layers),
    Control("start-head-at-zero", start_head_at_zero),
    Control("use-elu", use_elu, _relu),
    Control("freeze-trunk", freeze_trunk, is_pretrained),
    Control("tune-gently", tune_gently, is_pretrained),
    Control("use-small-batches", use_small_batches, lambda p: not has_batch_norm(p) and p.batch >= 32),
    Control("use-large-batches", use_large_batches, has_large_split),
    Control("restart", restart, lambda p: p.schedule.name != "restarts"),
    Control("warm-up", warm_up, lambda p: p.schedule.name != "warmup"),
    Control("leave-out-momentum", leave_out_momentum, _sgd),
)
