"""Keeping the running average of the weights up to date, step by step."""

from __future__ import annotations

import torch
from torch import nn

from goodfit.core.contracts import Average
from goodfit.training.rules.average import Swa
from goodfit.training.state import State


def update_average(state: State, average: Average | None, before: float, after: float) -> bool:
    """Add the weights after a step from progress `before` to `after` to the running average, if there is one; returns whether it did."""
    if state.average is None or average is None:
        return False
    keep = average(state.average_updates, before)
    if isinstance(average, Swa):
        keep = average(state.average_updates, after)
        if 0 < average.points_reached(state.averaged_at) == average.points_reached(after):
            return False
        state.averaged_at = after
    blend_into(state.average, state.model, keep)
    state.average_updates = state.average_updates + 1 if keep else 1
    return True


@torch.no_grad()
def blend_into(average: nn.Module, model: nn.Module, keep: float) -> None:
    """average = keep * average + (1 - keep) * model, for weights and batch statistics; counters are copied."""
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [(a, m) for a, m in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [m for _, m in floats], 1 - keep)
    for a, m in pairs:
        if not a.is_floating_point():
            a.copy_(m)
