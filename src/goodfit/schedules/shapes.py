"""The basic schedules: constant, warm-up, steps, cosine and one cycle; each gives a factor of the peak learning rate."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from goodfit.core.settings import Share
from goodfit.schedules.span import T_TOLERANCE, Landmarks, Span, SpannedSchedule, to_share


@dataclasses.dataclass(frozen=True)
class Constant(SpannedSchedule):
    """The same factor throughout.

    Helps: as the control; as a low start before another schedule; with averaged weights.
    Hurts: the noise of the gradient keeps the loss from settling.
    Cost: none.
    Source: CS231n, learning rate.
    """

    length: Span = 1.0
    factor: Share = 1.0

    def __call__(self, t: float) -> float:
        return self.factor

    def landmarks(self) -> Landmarks:
        return ((0.0, self.factor), (1.0, self.factor))


@dataclasses.dataclass(frozen=True)
class Warmup(SpannedSchedule):
    """Rises linearly from `start` to 1 over `length`, before another schedule, as in warmup(0.05) | cosine.

    `rise` is gradual (linear), constant (`start` throughout, then 1 at once) or none (1 from the first step).

    Helps: large learning rates and batches, adaptive optimizers, fresh heads on pretrained nets.
    Hurts: very short trainings lose some of their steps; the jump at the end of a constant one can throw the loss back.
    Cost: none.
    Source: Goyal et al. 2017 (constant and gradual warm-up); CS231n, warm-up.
    """

    length: Span = 0.05
    start: Share = 0.0
    rise: Literal["gradual", "constant", "none"] = "gradual"

    def __call__(self, t: float) -> float:
        elapsed = self.elapsed(t)
        if self.rise == "gradual":
            return self.start + (1 - self.start) * elapsed
        return self.start if self.rise == "constant" and elapsed < 1 - T_TOLERANCE else 1.0

    def landmarks(self) -> Landmarks:
        if not self.share or self.rise == "none":
            return ((0.0, 1.0), (self.share, 1.0))
        middle = (self.start + 1) / 2 if self.rise == "gradual" else self.start
        return ((0.0, self.start), (self.share / 2, middle), (self.share, 1.0))


@dataclasses.dataclass(frozen=True)
class Step(SpannedSchedule):
    """Multiplied by `factor` after every span `every` of the budget.

    Helps: the classic for ResNets: a drop in loss at each step down.
    Hurts: when to step has to be known; cosine needs no such choice.
    Cost: none.
    Source: He et al. 2015; CS231n, step decay.
    """

    every: Span = 0.3
    factor: Share = 0.1
    length: Span = 1.0

    def __call__(self, t: float) -> float:
        elapsed, every = min(t, self.share), to_share(self.every)
        return self.factor ** math.floor(elapsed / every + T_TOLERANCE) if every else 1.0

    def landmarks(self) -> Landmarks:
        every = to_share(self.every)
        drops = math.floor(self.share / every + T_TOLERANCE) if every else 0
        at_drops = [(n * every, self.factor**n) for n in range(drops + 1)]
        before = [(n * every - every / 1000, self.factor ** (n - 1)) for n in range(1, drops + 1)]
        return tuple(sorted([*at_drops, *before]))


@dataclasses.dataclass(frozen=True)
class Cosine(SpannedSchedule):
    """Falls along half a cosine from 1 to `floor`.

    Helps: the safe choice for a fixed budget: it stays high for long, then anneals; nothing to tune.
    Hurts: the end must be known; longer training needs a new run.
    Cost: none.
    Source: Loshchilov & Hutter 2016.
    """

    floor: Share = 0.0
    length: Span = 1.0

    def __call__(self, t: float) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * self.elapsed(t))) / 2

    def landmarks(self) -> Landmarks:
        if not self.share:
            return ((0.0, self.floor),)
        return ((0.0, 1.0), (self.share / 2, (1 + self.floor) / 2), (self.share, self.floor))


@dataclasses.dataclass(frozen=True)
class OneCycle(SpannedSchedule):
    """Rises from `start` to 1 at `peak` (a share of its length), then falls to `floor`, linearly or along half cosines.

    Helps: short trainings at a high learning rate.
    Hurts: the peak rate has to be near the largest that trains.
    Cost: none.
    Source: Smith & Topin 2017.
    """

    peak: Share = 0.3
    start: Share = 0.04
    floor: Share = 0.0
    shape: Literal["linear", "cosine"] = "linear"
    length: Span = 1.0

    def __call__(self, t: float) -> float:
        elapsed = self.elapsed(t)
        if elapsed < self.peak:
            return self._between(self.start, 1.0, elapsed / self.peak)
        return self._between(1.0, self.floor, (elapsed - self.peak) / (1 - self.peak)) if self.peak < 1 else 1.0

    def _between(self, a: float, b: float, x: float) -> float:
        return a + (b - a) * (x if self.shape == "linear" else (1 - math.cos(math.pi * x)) / 2)

    def landmarks(self) -> Landmarks:
        up, down = self.peak, 1 - self.peak
        points = [(up, 1.0)]
        if up:
            points += [(0.0, self.start), (up / 2, (self.start + 1) / 2)]
        if down:
            points += [(up + down / 2, (1 + self.floor) / 2), (1.0, self.floor)]
        return tuple(sorted((elapsed * self.share, factor) for elapsed, factor in points)) if self.share else ((0.0, self(0.0)),)
