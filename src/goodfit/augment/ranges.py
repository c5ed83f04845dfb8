"""Ranges of settings that are drawn from, (low, high): their short form, their check, milder ones, and the draw."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import torch
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError
from goodfit.core.parts import part_name
from goodfit.core.settings import settings_of


class Ranged(Augment):
    """An augment whose first setting is a range, (low, high), that a number is drawn from for each image.

    `neutral` is the value that changes nothing, None where there is none. A plain number is how far the range reaches from there, either
    way, but not below `lowest`; without a neutral value it is both ends.

    Raises:
        UsageError: the low end is above the high one.
    """

    neutral: ClassVar[float | None] = 0.0
    lowest: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        name = self._range
        if type(reach := getattr(self, name)) in (int, float):
            ends = (reach, reach) if self.neutral is None else (max(self.lowest, self.neutral - reach), self.neutral + reach)
            object.__setattr__(self, name, ends)
        super().__post_init__()
        low, high = getattr(self, name)
        if low > high:
            raise UsageError(f"{part_name(self)}: expected {name} to be (low, high) with low <= high, received {(low, high)}.")

    def scaled(self, strength: float) -> Self:
        """The same part with its range shrunk toward the neutral value, exactly: 0 is that value, 1 this part; without one, its `p`."""
        if self.neutral is None:
            return super().scaled(strength)
        ends = tuple(self.neutral * (1 - strength) + end * strength for end in getattr(self, self._range))
        return dataclasses.replace(self, **{self._range: ends})  # type: ignore[type-var]

    @property
    def _range(self) -> str:
        return settings_of(type(self))[0].name


def drawn(chance: Chance, ends: tuple[float, float], p: float = 1.0, neutral: float = 0.0) -> Tensor:
    """Numbers [B] float64 drawn evenly from the range; `neutral` for a share 1 - p of the images."""
    chosen, way = chance.double(n=2).unbind(1)  # in one call: its cost is per call
    return torch.where(chosen < p, ends[0] + way * (ends[1] - ends[0]), neutral)
