"""Cyclic schedules: triangles, and cosines with warm restarts."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from goodfit.core.errors import UsageError
from goodfit.core.settings import Range, Share
from goodfit.schedules.span import T_TOLERANCE, Landmarks, Span, SpannedSchedule, to_share

MAX_CYCLES = 100_000  # each has its place in a list
MAX_LOG_GROWTH = 300.0  # of the last cycle's length by the first one's, which has to be a number


def check_period(name: str, period: Span) -> None:
    """Refuse a period by which a schedule has too many cycles; a length in epochs or steps is checked when it is bound.

    Raises:
        UsageError: it is that short.
    """
    if isinstance(period, float) and 0 < period < 1 / MAX_CYCLES:
        raise UsageError(f"{name}: expected period to be 1/{MAX_CYCLES:,} of the budget or more, received {period:g}.")


@dataclasses.dataclass(frozen=True)
class Cyclic(SpannedSchedule):
    """Triangles: rises from `floor` to 1 over the share `up` of each `period`, and falls back over the rest.

    Every cycle's height above the floor is `shrink` times that of the one before.

    Helps: high rates lift training off saddle points and plateaus; the low points are snapshots to average (swa).
    Hurts: the last cycle should end with the budget, or training stops at a high rate.
    Cost: none.
    Source: Smith 2015 (triangular; shrink 0.5 is triangular2); CS231n, cyclic learning rates.
    """

    period: Span = 0.2
    floor: Share = 0.05
    up: Share = 0.5
    shrink: Share = 1.0
    length: Span = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.period, float) and not self.period:
            raise UsageError('cyclic: expected period to be a length above 0, such as "5 epochs", received 0.')
        check_period("cyclic", self.period)

    def __call__(self, t: float) -> float:
        cycles = min(t, self.share) / to_share(self.period)
        n = math.floor(cycles + T_TOLERANCE)
        place = max(0.0, cycles - n)
        height = place / self.up if place < self.up else (1 - place) / (1 - self.up) if self.up < 1 else 1.0
        return self.floor + (1 - self.floor) * float(self.shrink**n) * (height if place > T_TOLERANCE or self.up == 0 else 0.0)

    def cycle_ends(self) -> tuple[float, ...]:
        period = to_share(self.period)
        return tuple(min(1.0, (n + 1) * period) for n in range(math.floor(self.share / period + T_TOLERANCE)))

    def landmarks(self) -> Landmarks:
        period, points = to_share(self.period), []
        for n, end in enumerate(self.cycle_ends()):
            top = self.floor + (1 - self.floor) * self.shrink**n
            if 0 < self.up < 1:
                points += [(end - period, self.floor), (end - period + self.up * period, top)]
                points += [(end - period * (1 - self.up) / 2, (self.floor + top) / 2)]
        return tuple(sorted(points)) or ((0.0, self(0.0)),)


@dataclasses.dataclass(frozen=True)
class Sgdr(SpannedSchedule):
    """Cosines with warm restarts: eta = floor + (1 - floor) (1 + cos(pi T / Ti)) / 2, T the time since the restart, Ti the cycle's length.

    Each cycle is `growth` times as long as the one before. The first is `period` long; with 0, it is as long as it takes for `cycles` of
    them to fill the length. A cycle cut off by the end of the budget stops halfway, at a high rate.

    Helps: a good model at the end of every cycle, to stop at or to average; restarts leave poor regions.
    Hurts: one long cosine is usually a little better at the end of a known budget.
    Cost: none.
    Source: Loshchilov & Hutter 2016; CS231n, SGDR (a slide dates it 2018).
    """

    cycles: Annotated[int, Range(1, MAX_CYCLES)] = 3
    growth: Annotated[float, Range(low=1)] = 2.0
    floor: Share = 0.0
    period: Span = 0.0
    length: Span = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_period("sgdr", self.period)
        if self.growth > 1 and (self.cycles - 1) * math.log(self.growth) > MAX_LOG_GROWTH:
            raise UsageError(f"sgdr: expected fewer cycles or less growth, received {self.cycles:,} cycles that grow by {self.growth:g}.")

    def cycle_bounds(self) -> list[float]:
        """The t at which each cycle starts, and at which the last would end."""
        first = to_share(self.period) or self.share / sum(self.growth**n for n in range(self.cycles))
        bounds = [0.0]
        while bounds[-1] < self.share - T_TOLERANCE:
            bounds.append(bounds[-1] + first * self.growth ** (len(bounds) - 1))
        return bounds

    def __call__(self, t: float) -> float:
        bounds, elapsed = self.cycle_bounds(), min(t, self.share)
        if len(bounds) == 1 or (elapsed >= self.share - T_TOLERANCE and abs(bounds[-1] - self.share) <= T_TOLERANCE):
            return self.floor  # its length is over, and with it its last cycle
        n = max(i for i, start in enumerate(bounds) if start <= elapsed + T_TOLERANCE)
        x = min(1.0, max(0.0, (elapsed - bounds[n]) / (bounds[n + 1] - bounds[n])))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * x)) / 2

    def cycle_ends(self) -> tuple[float, ...]:
        return tuple(min(1.0, end) for end in self.cycle_bounds()[1:] if end <= self.share + T_TOLERANCE)

    def landmarks(self) -> Landmarks:
        if not self.share:
            return ((0.0, self.floor),)
        points, start = [(0.0, 1.0)], 0.0
        for end in self.cycle_ends():
            points += [((start + end) / 2, (1 + self.floor) / 2), (end, self.floor if abs(end - self.share) <= T_TOLERANCE else 1.0)]
            start = end
        return tuple(points)
