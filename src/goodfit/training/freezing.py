"""Freezing: which parameters are trained at which progress, and holding the others still."""

from __future__ import annotations

import dataclasses
from collections.abc import Container

import torch
from torch import nn

from goodfit.core.contracts import Trainable
from goodfit.core.errors import UsageError
from goodfit.core.parameters import is_norm
from goodfit.core.parts import Part, pipe_parts, spell
from goodfit.schedules.compose import part_starts
from goodfit.schedules.span import T_TOLERANCE
from goodfit.training.rules.trainable import Statistics


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training from progress `start` on: the names of the parameters that are trained and of the norms that stay fixed."""

    start: float
    trainable: frozenset[str]
    fixed: frozenset[str]


def freezing_phases(pipe: Part, model: nn.Module) -> tuple[Phase, ...]:
    """Which parameters are trained when; empty where all are trained throughout and no norm is fixed.

    Raises:
        UsageError: a part names a stage that does not exist, or something would never be trained.
    """
    phases = []
    for start, part in zip(part_starts(pipe), pipe_parts(pipe), strict=False):
        for offset, names in part.phases(model) if isinstance(part, Trainable) else [(0.0, part(model))]:  # type: ignore[operator]
            if not names:
                raise UsageError(f'"{spell(part)}" freezes every parameter, so nothing would be trained.')
            if start + offset > 1 - T_TOLERANCE:
                raise UsageError(
                    f'"{spell(pipe)}": expected every layer to begin to learn before the end of the budget, but {spell(part)} takes until'
                    f" {start + offset:g} of it: give it a shorter length."
                )
            fixed = fixed_norms(model, names, getattr(part, "statistics", "fixed"))
            phases.append(Phase(start + offset, frozenset(names), frozenset(fixed)))
    all_names = {name for name, _ in model.named_parameters()}
    return tuple(phases) if any(phase.trainable != all_names or phase.fixed for phase in phases) else ()


def fixed_norms(model: nn.Module, trainable: Container[str], statistics: Statistics) -> set[str]:
    """The norms whose running statistics stay fixed: none under "moving", all that have any under "all_fixed", else those that are frozen.

    A norm is frozen where its own parameters are, or, where it has none, all parameters beside it.
    """
    norms = set()
    for name, module in model.named_modules():
        if is_norm(module) and getattr(module, "running_mean", None) is not None:
            own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
            nearby = own or [other for other, _ in model.named_parameters() if other.startswith(name.rpartition(".")[0])]
            is_frozen = not any(parameter in trainable for parameter in nearby)
            if statistics == "all_fixed" or (statistics == "fixed" and is_frozen):
                norms.add(name)
    return norms


def phase_at(phases: tuple[Phase, ...], t: float) -> Phase | None:
    """The phase of progress t."""
    return next((phase for phase in reversed(phases) if phase.start <= t + T_TOLERANCE), None)


def set_trainable(model: nn.Module, phases: tuple[Phase, ...], t: float) -> None:
    """Enable gradients for the parameters trained at progress t; nothing moves the rest, neither decay nor momentum nor statistics."""
    phase = phase_at(phases, t)
    if phase is None:
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in phase.trainable)
    for name, module in model.named_modules():
        if is_norm(module):
            module.training = model.training and name not in phase.fixed


def disable_fused_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Turn off fused momentum, for groups in which some parameters were trained before and some were not.

    Torch's fused SGD expects momentum of all or of none of them and raises a TypeError; its other kernels accept both.
    """
    for group in optimizer.param_groups:
        if "momentum" in group and group.get("fused"):
            group["fused"] = False
