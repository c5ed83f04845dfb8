"""Keeping the running average of the weights up to date, step by step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Average
from goodfit.training.state import Plan, State


def update_average(state: State, plan: Plan, before: float) -> bool:
    """Add the weights after a step that began at progress `before` to the running average, if one is due; returns whether it did."""
    average, after = plan.average, plan.t(state)
    if state.average is None or average is None:
        return False
    if isinstance(average, Average) and not average.is_due(state.averaged_at, after):  # a function of the user's own is always due
        return False
    keep = average(state.average_updates, before)
    blend_into(state.average, state.model, keep, plan.start if getattr(average, "keeps_start", False) else None)
    state.average_updates = state.average_updates + 1 if keep else 1
    state.averaged_at = after
    return True


@torch.no_grad()
def blend_into(average: nn.Module, model: nn.Module, keep: float, start: Mapping[str, Tensor] | None = None) -> None:
    """average = keep * average + (1 - keep) * model, for weights and batch statistics; counters are copied.

    With the weights `start` it is keep * start + (1 - keep) * model.
    """
    if start is not None:
        average.load_state_dict(start)
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [(a, m) for a, m in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [m for _, m in floats], 1 - keep)
    for a, m in pairs:
        if not a.is_floating_point():
            a.copy_(m)
