"""Lens: radial distortion, barrel and pincushion."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame
from goodfit.augment.geometry import Geometry
from goodfit.augment.traits import RangedAugment, draw_from_range
from goodfit.core.chance import Chance
from goodfit.core.settings import Range, Share

Distortion = Annotated[float, Range(above=-1 / 3)]  # below, r(1 + k r^2) would turn back before the corner


def distort_points(points: Tensor, k: Tensor, frame: Frame) -> Tensor:
    """Move points [K, h, w, 2] (x, y) along their rays from the frame's center, from radius r to r(1 + k r^2), with `k` [K].

    r is 1 at the image's corner, half a diagonal from its center. Beyond r = 1 the factor stays 1 + k, so that what lies outside the
    frame stays outside.
    """
    offset = points - torch.tensor([(frame[1] - 1) / 2, (frame[0] - 1) / 2], device=points.device)
    x, y = offset.unbind(-1)
    radius_squared = (x * x).add_(y * y).mul_(4 / (frame[0] ** 2 + frame[1] ** 2)).clamp_(max=1)
    return offset.mul_(radius_squared.mul_(k.to(points)[:, None, None])[..., None]).add_(points)


@dataclasses.dataclass(frozen=True)
class Lens(RangedAugment, Geometry):
    """Bends the image as a lens does: the pixel at radius r from the center is read at r' = r(1 + k r^2), r = 1 at the corners.

    `k` is drawn uniformly from its range: above 0 is barrel distortion (the image shrinks towards its corners, as in a wide-angle shot),
    below 0 pincushion distortion (it grows there). lens(0.2) is lens((-0.2, 0.2)). `border` says what lies beyond the image; a share
    1 - p of the images stays as it is.

    Helps: photos of several cameras and lenses; straight lines that are not the answer.
    Hurts: documents, and whatever is measured.
    Cost: one sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: lens distortion); Brown 1966, Decentering distortion of lenses
    (the radial term).
    """

    min_value: ClassVar[float] = -math.inf
    k: tuple[Distortion, Distortion] = (-0.2, 0.2)
    border: Border = "zero"
    p: Share = 0.5

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        k = draw_from_range(chance, self.k, self.p)
        matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(k), 1, 1)
        return CoordinateMap(matrix, frame, lambda points, rows: distort_points(points, k[rows], frame), k != 0)
