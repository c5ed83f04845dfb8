"""Running averages of the weights; the averaged model is evaluated and kept in place of the last step's."""

from __future__ import annotations

import dataclasses
import math

from goodfit.core.contracts import Average
from goodfit.core.errors import UsageError
from goodfit.core.settings import Share
from goodfit.schedules.span import T_TOLERANCE, Span, SpanSettings, to_share


@dataclasses.dataclass(frozen=True)
class None_(Average):  # noqa: N801  spelled `none`
    """Keeps no average: the last weights are the model.

    Helps: schedules that end near zero, where the last steps hardly move the weights.
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
    Source: Izmailov et al. 2018 (stochastic weight averaging, after three quarters of the usual training); Huang et al. 2017 (snapshots).
    """

    start: Share = 0.75
    every: Span = 0.05
    _points: tuple[float, ...] = ()

    @property
    def length(self) -> float:  # type: ignore[override]
        return 1.0

    def with_points(self, ends: tuple[float, ...]) -> Swa:
        """The same average over the weights at these points of t, or at every `every` where there are none."""
        every = to_share(self.every)
        if not ends and every < T_TOLERANCE:
            raise UsageError('swa: expected every to be a length above 0, such as "1 epoch", received 0.')
        points = ends or (*(n * every for n in range(1, math.ceil(1 / every - T_TOLERANCE))), 1.0)
        return dataclasses.replace(self, _points=tuple(point for point in points if point >= self.start - T_TOLERANCE))

    def __call__(self, updates: int, t: float) -> float:
        """The last weights alone until a point has come, then a plain mean."""
        return 0.0 if self.points_reached(t) == 0 else updates / (updates + 1)

    def is_due(self, last: float, t: float) -> bool:
        """At each of its points; before the first at each step, so that until then the average is the model itself."""
        return not 0 < self.points_reached(last) == self.points_reached(t)

    def points_reached(self, t: float) -> int:
        """How many of its points have come by progress t."""
        return sum(point <= t + T_TOLERANCE for point in self._points)


@dataclasses.dataclass(frozen=True)
class Wise(Average):
    """The weights on the line from the pretrained ones to the current ones: (1 - alpha) times the start plus alpha times the current.

    Training itself goes on from the current weights. It needs pretrained weights (--from).

    Helps: fine-tuning: between start and end the model is often better than at either on images unlike those it is trained on, and hardly
        worse on the others.
    Hurts: with a head that starts at random, which it is mixed with; after long training at high rates, when the loss rises along the line.
    Cost: two more copies of the weights, and a pass over them a step.
    Source: Wortsman et al. 2022 (WiSE-FT, robust fine-tuning of zero-shot models).
    """

    keeps_start = True
    alpha: Share = 0.5

    def __call__(self, updates: int, t: float) -> float:
        return 1 - self.alpha


def bind_cycles(average: Average, ends: tuple[float, ...]) -> Average | None:
    """Adapt an average to a schedule whose cycles end at `ends`; returns None for the part `none`."""
    if isinstance(average, None_):
        return None
    return average.with_points(ends) if isinstance(average, Swa) else average
