"""Running averages of the weights: the judged model is smoother than the last step's."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from goodfit.core.contracts import Average
from goodfit.core.settings import Share


@dataclasses.dataclass(frozen=True)
class None_(Average):  # noqa: N801  spelled `none`
    """Keeps no average: the last weights are the model.

    Helps: schedules that end near zero, where the last weights are already quiet.
    Hurts: constant learning rates, whose last step is as noisy as the others.
    Cost: nothing.
    Source: -
    """

    def __call__(self, updates: int, t: float) -> float:
        return 0.0


@dataclasses.dataclass(frozen=True)
class Ema(Average):
    """Exponential moving average of the weights, with a warmup in which it keeps less of the past.

    Helps: noisy or constant learning rates; evaluation in the middle of a run.
    Hurts: short runs with a decay near 1, where the average lags behind.
    Cost: one more copy of the weights, and one pass over them a step.
    Source: lecture "keep a moving average of the parameters"; warmup as in TensorFlow's ExponentialMovingAverage.
    """

    decay: Share = 0.999

    def __call__(self, updates: int, t: float) -> float:
        return min(self.decay, (1 + updates) / (10 + updates))


@dataclasses.dataclass(frozen=True)
class Polyak(Average):
    """The plain mean of all weights from `start` (a share of the budget) on.

    Helps: the end of a run with a large or constant learning rate.
    Hurts: when it starts before the loss has settled.
    Cost: one more copy of the weights, and one pass over them a step.
    Source: Polyak & Juditsky 1992; lecture "Polyak averaging".
    """

    start: Share = 0.5

    def __call__(self, updates: int, t: float) -> float:
        return 0.0 if t < self.start else updates / (updates + 1)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """average = keep * average + (1 - keep) * model, for weights and batch statistics; counters are copied."""
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [(a, m) for a, m in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [m for _, m in floats], 1 - keep)
    for a, m in pairs:
        if not a.is_floating_point():
            a.copy_(m)
