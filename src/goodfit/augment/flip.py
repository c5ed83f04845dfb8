"""Flip: the mirror image, as likely as the original."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from goodfit.augment.coordinate_map import CoordinateMap, Frame, axis_aligned_map
from goodfit.augment.geometry import Geometry
from goodfit.core.chance import Chance
from goodfit.core.settings import Share


@dataclasses.dataclass(frozen=True)
class Flip(Geometry):
    """Mirrors a share `p` of the images left to right (`axes=vertical`: top to bottom; `both`: each on its own); targets do not change.

    With `alternate` the first epoch mirrors images at random, and from then on, at p = 0.5, every image is mirrored in every other
    epoch, so that two epochs in a row show each image both ways. (At any other p, a share p is mirrored in every epoch, the images taking
    turns.)

    Helps: when left and right mean nothing, as in most photos; alternating, in short trainings.
    Hurts: digits, text, and whatever has a handedness; vertically, whatever has an upright.
    Cost: almost none; composed with its neighbors into one gather.
    Source: CS231n, training neural networks II (data augmentation: horizontal flips); Krizhevsky et al. 2012; alternating: Jordan 2024,
    94% on CIFAR-10 in 3.29 seconds on a single GPU (airbench).
    """

    p: Share = 0.5
    axes: Literal["horizontal", "vertical", "both"] = "horizontal"
    alternate: bool = False
    is_exact: ClassVar[bool] = True

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        x, y = (
            self._draw_mirrored(axis_chance) if self.axes in (axis, "both") else torch.zeros(len(chance.places), dtype=torch.float64)
            for axis, axis_chance in (("horizontal", chance), ("vertical", chance.at("vertical")))
        )
        return axis_aligned_map(frame, (1 - 2 * x, x * (frame[1] - 1)), (1 - 2 * y, y * (frame[0] - 1)))

    def _draw_mirrored(self, chance: Chance) -> Tensor:
        """Draw 1 for the images to mirror and 0 for the others, [B] float64."""
        if not self.alternate:
            return chance.chosen(self.p).double()
        steady = chance if chance.per_image is None else chance.per_image
        return ((steady.uniform() + 0.5 * (chance.epoch % 2)).remainder(1) < self.p).double()
