"""Running averages of the weights: the judged model is smoother than the last step's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Average
from goodfit.core.device import autocast
from goodfit.core.errors import UsageError
from goodfit.core.settings import Share
from goodfit.core.weights import is_norm
from goodfit.schedules.span import T_TOLERANCE, Span, SpanSettings, to_share
from goodfit.training.state import State


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


@dataclasses.dataclass(frozen=True)
class Swa(SpanSettings, Average):
    """The mean of the weights at the ends of the schedule's cycles, from `start` (a share of the budget) on.

    Under a schedule without cycles it takes the weights at every `every` of the budget instead.

    Helps: cyclic rates and sgdr: each low point is a model of its own, and their mean lies in a wider valley.
    Hurts: with few cycles, of which the early ones are still poor.
    Cost: one more copy of the weights.
    Source: Izmailov et al. 2018 (stochastic weight averaging); Huang et al. 2017 (snapshots).
    """

    start: Share = 0.3
    every: Span = 0.05
    _points: tuple[float, ...] = ()

    @property
    def length(self) -> float:  # type: ignore[override]
        return 1.0

    def at(self, ends: tuple[float, ...]) -> Swa:
        """The same, taking weights when training reaches these points, or every `every` where there are none."""
        every = to_share(self.every)
        if not ends and every < T_TOLERANCE:
            raise UsageError('swa: expected every to be a length above 0, such as "1 epoch", received 0.')
        points = ends or (*(n * every for n in range(1, math.ceil(1 / every - T_TOLERANCE))), 1.0)
        return dataclasses.replace(self, _points=tuple(point for point in points if point >= self.start - T_TOLERANCE))

    def __call__(self, updates: int, t: float) -> float:
        """When training is at one of its points: a plain mean."""
        return 0.0 if self.reached(t) <= 1 else updates / (updates + 1)

    def reached(self, t: float) -> int:
        """How many of its points lie at or before t."""
        return sum(point <= t + T_TOLERANCE for point in self._points)


def along(average: Average, ends: tuple[float, ...]) -> Average | None:
    """The average for a training whose schedule's cycles end at `ends`; None for none."""
    if isinstance(average, None_):
        return None
    return average.at(ends) if isinstance(average, Swa) else average


def advance(state: State, average: Average | None, before: float, after: float) -> bool:
    """Let the average, if there is one, take in the weights after a step from progress `before` to `after`; returns whether it did."""
    if state.average is None or average is None:
        return False
    keep = average(state.updates, before)
    if isinstance(average, Swa):
        keep = average(state.updates, after)
        if 0 < average.reached(state.averaged) == average.reached(after):
            return False
        state.averaged = after
    follow(state.average, state.model, keep)
    state.updates = state.updates + 1 if keep else 1
    return True


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """average = keep * average + (1 - keep) * model, for weights and batch statistics; counters are copied."""
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [(a, m) for a, m in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [m for _, m in floats], 1 - keep)
    for a, m in pairs:
        if not a.is_floating_point():
            a.copy_(m)


# ---- batch statistics ---------------------------------------------------------------------------------------------------------------

IMAGES = 1000  # training images that the statistics of averaged weights are taken from


def with_statistics(model: nn.Module, fixed: Container[str] = ()) -> list[nn.Module]:
    """The norms that keep running statistics, without those named in `fixed`."""
    found = ((name, m) for name, m in model.named_modules() if is_norm(m) and name not in fixed)
    return [m for _, m in found if getattr(m, "running_mean", None) is not None]


@torch.no_grad()
def take_statistics(model: nn.Module, images: Iterable[Tensor], fixed: Container[str] = (), precision: str = "fp32") -> None:
    """Give a model's batch norms the statistics of these batches [B, C, h, w], their plain mean; nothing else changes.

    Averaged weights give activations that no step has seen, so the running statistics of the steps, averaged too, do not belong to them
    (Izmailov et al. 2018). All else is in evaluation mode, as it will be when the model is judged.
    """
    norms: list[Any] = with_statistics(model, fixed)
    if not norms:
        return
    training, momenta = {m: m.training for m in model.modules()}, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the plain mean over the batches
        norm.train()
    try:
        for batch in images:
            with autocast(batch.device, precision):
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode
