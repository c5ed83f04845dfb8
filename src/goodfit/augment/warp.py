"""Warps: perspective, and elastic deformation."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from goodfit.augment.affine import matrix_about_center
from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame
from goodfit.augment.geometry import Geometry
from goodfit.core.chance import Chance
from goodfit.core.settings import NonNegative, Range, Share

# ---- perspective ---------------------------------------------------------------------------------------------------------------

CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])  # of an image with its center at 0 and half sides of 1
MIN_DISTANCE = 0.05  # smallest denominator: what lies on the horizon or beyond it is read far outside the image


@dataclasses.dataclass(frozen=True)
class Perspective(Geometry):
    """Shows the image as a tilted plane: each corner moves inwards along x and y, by up to `strength` of half the side each.

    The distances are drawn uniformly, as for torchvision's distortion_scale. `border` says what comes into view beyond the image; a share
    1 - p of the images stays as it is.

    Helps: signs, documents and surfaces seen from any side.
    Hurts: photos that are always taken straight on; the image also shrinks, by half of `strength` on average.
    Cost: one sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: go crazy); Hartley & Zisserman 2004, Multiple view geometry (the
    homography of four points).
    """

    strength_field: ClassVar[str] = "strength"
    strength: Annotated[float, Range(0, 0.6)] = 0.5  # from 2/3 on the corners may leave no convex shape
    border: Border = "zero"
    p: Share = 0.5

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        draws = chance.double(n=9)
        warp_mask = (draws[:, 0] < self.p) & (self.strength > 0)
        inwards = draws[warp_mask, 1:].numpy().reshape(-1, 4, 2) * self.strength
        matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(warp_mask), 1, 1)
        tilt = torch.zeros(len(warp_mask), 2, dtype=torch.float64)
        matrix[warp_mask], tilt[warp_mask] = solve_homography(CORNERS * (1 - inwards), frame)
        return CoordinateMap(matrix, frame, lambda points, rows: tilt_points(points, tilt[rows], frame), warp_mask)


def solve_homography(corners: np.ndarray, frame: Frame) -> tuple[Tensor, Tensor]:
    """Solve for the projective map from output pixels to input pixels that shows the image's corners at `corners` [K, 4, 2].

    Corners go clockwise from the top left; (x, y) from -1 to 1 across the frame. Returns (matrix [K, 2, 3], tilt [K, 2]): points are first
    divided by their distance, 1 + tilt . (x, y) with (x, y) in pixels from the center, then moved by the matrix.
    """
    x, y = corners[..., 0], corners[..., 1]
    u, v = CORNERS.T
    system = np.zeros((len(corners), 8, 8))
    for rows, first, target in ((slice(0, 4), 0, u), (slice(4, 8), 3, v)):
        system[:, rows, first], system[:, rows, first + 1], system[:, rows, first + 2] = x, y, 1
        system[:, rows, 6], system[:, rows, 7] = -x * target, -y * target
    targets = np.broadcast_to(np.concatenate([u, v]), (len(corners), 8))
    a, b, c, d, e, f, g, h = torch.from_numpy(np.linalg.solve(system, targets[..., None])[..., 0]).unbind(1)  # one system per image
    # (a x + b y + c) / (g x + h y + 1) is affine in (x, y) / (g x + h y + 1), as 1 / (g x + h y + 1) is
    aspect = frame[0] / frame[1]
    matrix = matrix_about_center(a - c * g, (b - c * h) / aspect, (d - f * g) * aspect, e - f * h, frame)
    matrix[:, 0, 2] += c * frame[1] / 2
    matrix[:, 1, 2] += f * frame[0] / 2
    return matrix, torch.stack([g * 2 / frame[1], h * 2 / frame[0]], dim=1)


def tilt_points(points: Tensor, tilt: Tensor, frame: Frame) -> Tensor:
    """Divide points [K, h, w, 2] by 1 + tilt . (x, y), about the frame's center; `tilt` [K, 2] is per pixel."""
    center = torch.tensor([(frame[1] - 1) / 2, (frame[0] - 1) / 2], device=points.device)
    offset = points - center
    x, y = offset.unbind(-1)
    across, down = tilt.to(points)[:, None, None].unbind(-1)
    distance = (x * across).add_(y * down).add_(1).clamp_(min=MIN_DISTANCE)
    return offset.div_(distance[..., None]).add_(center)


# ---- elastic -------------------------------------------------------------------------------------------------------------------

KNOT_SPACING = math.sqrt(3)  # in sigmas: a cubic B-spline over knots this far apart is as wide as a Gaussian of sigma
UNIFORM_STD = math.sqrt(1 / 3)  # standard deviation of uniform numbers in -1..1
SPLINE_VARIANCE = 151 / 315  # mean sum of a cubic B-spline's squared weights: the share of the knots' variance left by each axis


@dataclasses.dataclass(frozen=True)
class Elastic(Geometry):
    """Moves every pixel by a smooth random field, as if the image were printed on rubber.

    `alpha` is the standard deviation of the displacement along each axis, `sigma` the width of the Gaussian that would make such a field
    from uniform noise, both as shares of the shorter side. The field is a cubic B-spline over uniform noise on a coarse grid. `border` says
    what comes into view beyond the image; a share 1 - p of the images stays as it is.

    Helps: handwriting and tissue: what bends without becoming something else.
    Hurts: rigid objects; `alpha` near `sigma` tears strokes apart.
    Cost: one sampling, shared with its neighbors, and one more of the field.
    Source: Simard et al. 2003, Best practices for convolutional neural networks (elastic distortions; alpha 0.05, sigma 0.14 in these
    units, background beyond the image); CS231n, training neural networks II (data augmentation: go crazy).
    """

    strength_field: ClassVar[str] = "alpha"
    alpha: NonNegative = 0.05
    sigma: Annotated[float, Range(0.01, 1)] = 0.14
    border: Border = "zero"
    p: Share = 1.0

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        warp_mask = chance.at("p").chosen(self.p) & (self.alpha > 0)
        step = max(1.0, KNOT_SPACING * self.sigma * min(frame))
        amplitude = self.alpha * min(frame) / (UNIFORM_STD * SPLINE_VARIANCE)
        down, across = (spline_weights(n, step) for n in frame)
        field_chance = chance.at("field")

        def warp(points: Tensor, rows: Tensor) -> Tensor:
            noise = Chance(field_chance.key, field_chance.places[rows]).uniform(
                -amplitude, amplitude, n=2 * down.shape[1] * across.shape[1]
            )
            return points + _read_field(_upsample_field(noise.to(points.device), down, across), points)

        matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(warp_mask), 1, 1)
        return CoordinateMap(matrix, frame, warp, warp_mask)


def spline_weights(n: int, step: float) -> Tensor:
    """Compute weights [n, knots] float32 of the cubic B-splines on knots every `step` pixels, at n pixels; rows sum to 1."""
    position = np.arange(n)[:, None] / step
    distance = np.abs(position - np.arange(-1, math.floor((n - 1) / step) + 3))
    near, far = (4 - 6 * distance**2 + 3 * distance**3) / 6, np.clip(2 - distance, 0, None) ** 3 / 6
    return torch.from_numpy(np.where(distance < 1, near, far)).float()


def _upsample_field(noise: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Make fields [K, 2, h, w] from noise on the knots [K, 2 * rows * columns]; one product per image, so that bits do not depend on K."""
    count, device = 2 * len(noise), noise.device
    knots = noise.view(count, down.shape[1], across.shape[1])
    rows = torch.bmm(knots, across.T.to(device).expand(count, -1, -1))
    return torch.bmm(down.to(device).expand(count, -1, -1), rows).view(len(noise), 2, len(down), len(across))


def _read_field(field: Tensor, points: Tensor) -> Tensor:
    """Read a field [K, 2, h, w] at points [K, h', w', 2], bilinearly; beyond the frame it continues as at the edge."""
    last = torch.tensor([max(n - 1, 1) for n in (field.shape[3], field.shape[2])], device=points.device)
    displacement = F.grid_sample(field, points * (2 / last) - 1, padding_mode="border", align_corners=True)
    return displacement.permute(0, 2, 3, 1)
