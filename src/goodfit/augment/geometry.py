"""Geometry: augments that only move pixels, so that neighbors compose and the pixels are read once."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import ClassVar

from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame
from goodfit.augment.sampling import sample
from goodfit.augment.traits import MeanFilled
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance


@dataclasses.dataclass(frozen=True)
class Geometry(MeanFilled):
    """An augment that only moves pixels: it draws a `CoordinateMap`; neighbors are composed, and the pixels are read once.

    `border` says what lies outside the image ("mean": the training images' mean color, taken from the data when the part is bound); None
    means that the part never reads there, so it joins any neighbor. Subclasses that need one declare a field `border: Border = "zero"`.
    Parts with `is_exact` only flip and shift by whole pixels, whatever they draw: their images stay uint8.
    """

    is_exact: ClassVar[bool] = False

    @property
    def border(self) -> Border | None:
        return None

    @property
    def fill(self) -> tuple[float, ...]:
        """The color [C] in 0..1 beyond the image for `border="mean"`; a single number serves every channel."""
        return self._mean

    @abstractmethod
    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        """Draw the random map of each place, from the frame that comes in; a part that crops gives frames of `size`."""

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        frame = (batch.images.shape[2], batch.images.shape[3])
        coordinates = self.draw(chance, t, frame, frame)
        return batch.but(images=sample(batch.images, [coordinates], self.border, self.fill, self.is_exact))
