"""Ramp: an augment whose strength follows progress."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, Self

from goodfit.augment.policy import RandAugment
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError
from goodfit.core.facts import Facts
from goodfit.core.progress import Length
from goodfit.core.settings import Share


@dataclasses.dataclass(frozen=True)
class Ramp(Augment):
    """Changes the strength of the augment `part` from `before` to `after` while training goes from `start` to `end`.

    `start` and `end` are shares of the budget, or text such as "10 epochs"; outside them the strength is constant. Strength 0 is the
    identity and 1 the part as written: ramp(rotate(15), end=0.5) has full strength halfway, ramp(mixup, start=0.8, before=1, after=0)
    fades out in the last fifth. What is drawn for an image does not depend on the strength, only how far it goes.

    Helps: short or progressive training: easy images first, harder ones as overfitting sets in; the last epochs on plain images.
    Hurts: little; early measurements say less about the end.
    Cost: that of the part.
    Source: Tan & Le 2021, EfficientNetV2 (progressive learning); He et al. 2019, Data augmentation revisited (plain images at the end).
    """

    part: Augment = dataclasses.field(default_factory=RandAugment)
    start: Share | str = 0.0
    end: Share | str = 1.0
    before: Share = 0.0
    after: Share = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.part, Augment):
            raise UsageError(
                f'ramp: expected one augment of goodfit or one derived from its class, received "{self.part}"; ramp each part of a pipe.'
            )
        for length in (self.start, self.end):
            Length.read(length, "length")
        if isinstance(self.start, float) and isinstance(self.end, float) and self.start > self.end:
            raise UsageError(f"ramp: expected start to be at most end, received {self.start:g} and {self.end:g}.")

    def bind(self, facts: Facts) -> Self:
        """Return the ramp with its part bound and its lengths as shares of the budget."""
        start, end = (facts.lengths.share(length) for length in (self.start, self.end))
        for name, share in (("start", start), ("end", end)):
            if share > 1:
                raise UsageError(f'ramp: expected {name} to fit into the budget, received "{getattr(self, name)}".')
        return dataclasses.replace(super().bind(facts), start=start, end=end)

    def scaled(self, strength: float) -> Self:
        """Return the same part, milder: 0 changes nothing, 1 is this part."""
        return dataclasses.replace(self, part=self.part.scaled(strength))

    def strength(self, t: float) -> float:
        """Return how strong the part is at progress t, 0..1.

        Raises:
            UsageError: a length is counted in epochs, steps or minutes, and was not bound to a budget.
        """
        start, end = (Length.read(length, "length") for length in (self.start, self.end))
        if {start.unit, end.unit} != {"share"}:
            raise UsageError(f'"{self}" has lengths that need a budget: bind it, or write shares such as 0.1.')
        width = end.amount - start.amount
        progress = min(max((t - start.amount) / width, 0.0), 1.0) if width > 0 else float(t >= start.amount)
        progress = (1 - math.cos(math.pi * progress)) / 2 if self.shape == "cosine" else progress
        return (1 - progress) * self.before + progress * self.after

    def at_progress(self, t: float) -> Augment:
        """Return the part at the strength of progress t; in a pipe it takes the ramp's place, joining its neighbors."""
        return self.part.at_progress(t).scaled(self.strength(t))

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        return self.at_progress(t)(batch, chance, t)
