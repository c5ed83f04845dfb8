"""Lowering the learning rate when validation stops improving."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from goodfit.core.contracts import PlateauRule
from goodfit.core.settings import Count, Natural, NonNegative, Range, Share

Factor = Annotated[float, Range(above=0, below=1)]


@dataclasses.dataclass(frozen=True)
class None_(PlateauRule):  # noqa: N801  spelled `none`
    """Leaves the learning rate to the schedule.

    Helps: schedules that anneal over the whole budget.
    Hurts: constant rates, which never settle.
    Cost: nothing.
    Source: -
    """

    def __call__(self, scores: list[float]) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class Plateau(PlateauRule):
    """Multiplies the rate by `factor` when the validation accuracy has not risen by more than `least` for `patience` evaluations.

    After each reduction it waits `cooldown` evaluations before it counts again; the product never goes below `lowest`. It depends on the
    scores alone, so a resumed run reduces the rate where an uninterrupted one does; each reduction is logged.

    Helps: constant schedules: the rate falls once it no longer helps, without your knowing beforehand when that is.
    Hurts: with a noisy or small validation set it reduces too early; together with cosine it anneals twice.
    Cost: nothing.
    Source: Krizhevsky et al. 2012 (AlexNet: divided by ten by hand when validation stopped improving); CS231n, learning rate.
    """

    factor: Factor = 0.1
    patience: Count = 5
    least: NonNegative = 0.0
    cooldown: Natural = 0
    lowest: Share = 0.0

    def __call__(self, scores: list[float]) -> float:
        product, best, bad, rest = 1.0, -float("inf"), 0, 0
        for score in scores:
            better = score > best + self.least
            best = score if better else best
            bad = 0 if better or rest else bad + 1
            rest = max(0, rest - 1)
            if bad >= self.patience:
                product, bad, rest = max(self.lowest, product * self.factor), 0, self.cooldown
        return product
