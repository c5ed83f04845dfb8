"""Flip: the mirror image, as likely as the original."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from goodfit.augment.geometry import Frame, Geometry, Map, along_axes
from goodfit.core.chance import Chance
from goodfit.core.settings import Share


@dataclasses.dataclass(frozen=True)
class Flip(Geometry):
    """Mirrors a share `p` of the images left to right; the targets stay.

    Helps: when left and right mean nothing, as in most photos.
    Hurts: digits, text, and whatever has a handedness.
    Cost: almost none; composed with its neighbours into one gather.
    Source: CS231n, training neural networks II (data augmentation: horizontal flips); Krizhevsky et al. 2012.
    """

    p: Share = 0.5
    exact: ClassVar[bool] = True

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        chosen = chance.chosen(self.p).double()
        one = torch.ones_like(chosen)
        return along_axes(frame, (1 - 2 * chosen, chosen * (frame[1] - 1)), (one, 0 * one))
