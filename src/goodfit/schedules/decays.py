"""Schedules that only fall: at given places, exponentially, as one over t, as a power."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Self

from goodfit.core.errors import UsageError
from goodfit.core.parts import part_name
from goodfit.core.settings import NonNegative, Positive, Share
from goodfit.schedules.span import T_TOLERANCE, Landmarks, Span, SpannedSchedule, to_share


@dataclasses.dataclass(frozen=True)
class MultiStep(SpannedSchedule):
    """Multiplied by `factor` at each of the places `at`, counted from where it starts.

    Helps: published recipes that say at which epochs to divide by ten.
    Hurts: the places suit one net, data set and budget only.
    Cost: none.
    Source: He et al. 2015 (32,000 and 48,000 of 64,000 steps); CS231n, step decay.
    """

    at: tuple[Span, ...] = (0.5, 0.75)
    factor: Share = 0.1
    length: Span = 1.0

    def __call__(self, t: float) -> float:
        elapsed = min(t, self.share)
        return float(self.factor ** sum(to_share(place) <= elapsed + T_TOLERANCE for place in self.at))

    def within(self, stretch: float) -> Self:
        places = tuple(share for place in self.at if (share := to_share(place) / stretch) <= 1 + T_TOLERANCE)
        return dataclasses.replace(self, at=tuple(min(1.0, x) for x in places), length=min(1.0, self.share / stretch))

    def landmarks(self) -> Landmarks:
        edges = [0.0, *sorted({to_share(place) for place in self.at if 0 < to_share(place) <= self.share})]
        between = [(a + b) / 2 for a, b in pairwise(edges)]
        return tuple((t, self.factor ** sum(to_share(place) <= t for place in self.at)) for t in sorted([*edges, *between]))


class RateDecay(SpannedSchedule):
    """A schedule with a decay rate `k` per span `per`: the slides' t is counted in units of `per`."""

    k: float
    per: Span

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.per, float) and not self.per:
            raise UsageError(f'{part_name(self)}: expected per to be a length above 0, such as "1 epoch", received 0.')

    def decay_exponent(self, t: float) -> float:
        """k t, with t in units of `per`; it stays constant after the end of its length."""
        return self.k * min(t, self.share) / to_share(self.per)

    def within(self, stretch: float) -> Self:
        k = self.k * stretch / to_share(self.per)
        return dataclasses.replace(self, k=k, per=1.0, length=min(1.0, self.share / stretch))  # type: ignore[type-var]

    def landmarks(self) -> Landmarks:
        return tuple((t, self(t)) for t in (0.0, self.share))


@dataclasses.dataclass(frozen=True)
class Exponential(RateDecay):
    """Falls as e^(-k t), with t counted in `per`: exponential(0.1, per="1 epoch") is at 0.368 after ten epochs.

    Helps: a smooth fall by the same factor in every epoch.
    Hurts: most of the budget is spent at rates far below the peak; cosine stays high for longer.
    Cost: none.
    Source: CS231n, exponential decay: alpha = alpha0 e^(-kt).
    """

    k: NonNegative = 5.0
    per: Span = 1.0
    length: Span = 1.0

    def __call__(self, t: float) -> float:
        return math.exp(-self.decay_exponent(t))

    def landmarks(self) -> Landmarks:
        half = math.log(2) * to_share(self.per) / self.k if self.k else math.inf
        return ((0.0, 1.0), (half, 0.5)) if half < self.share else super().landmarks()


@dataclasses.dataclass(frozen=True)
class Inverse(RateDecay):
    """Falls as 1 / (1 + k t), with t counted in `per`: inverse(0.1, per="1 epoch") is at a half after ten epochs.

    Helps: it satisfies the conditions of stochastic approximation theory; trainings without a set end.
    Hurts: for nets it falls too early and then too slowly.
    Cost: none.
    Source: Robbins & Monro 1951; CS231n, 1/t decay: alpha = alpha0 / (1 + kt).
    """

    k: NonNegative = 9.0
    per: Span = 1.0
    length: Span = 1.0

    def __call__(self, t: float) -> float:
        return 1 / (1 + self.decay_exponent(t))

    def landmarks(self) -> Landmarks:
        half = to_share(self.per) / self.k if self.k else math.inf
        return ((0.0, 1.0), (half, 0.5)) if half < self.share else super().landmarks()


@dataclasses.dataclass(frozen=True)
class Polynomial(SpannedSchedule):
    """Falls from 1 to `floor` as (1 - t)^power: power 1 is a straight line.

    Helps: short trainings (a line to zero is hard to beat); segmentation recipes use power 0.9.
    Hurts: the end must be known, as for cosine.
    Cost: none.
    Source: Chen et al. 2016 (DeepLab's poly); Li et al. 2019 (budgeted training) for the line.
    """

    power: Positive = 1.0
    floor: Share = 0.0
    length: Span = 1.0

    def __call__(self, t: float) -> float:
        return self.floor + (1 - self.floor) * float((1 - self.elapsed(t)) ** self.power)

    def landmarks(self) -> Landmarks:
        if not self.share:
            return ((0.0, self.floor),)
        return ((0.0, 1.0), (self.share / 2, self.floor + (1 - self.floor) / 2**self.power), (self.share, self.floor))
