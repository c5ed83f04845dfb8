"""Warps: perspective, and elastic deformation."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from goodfit.augment.affine import about_center
from goodfit.augment.geometry import Geometry
from goodfit.augment.maps import Border, Frame, Map
from goodfit.core.chance import Chance
from goodfit.core.settings import NonNegative, Range, Share

# ---- perspective ---------------------------------------------------------------------------------------------------------------

CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])  # of the image: center 0, half sides 1
HORIZON = 0.05  # the least denominator: what lies on the horizon or beyond is read far outside the image


@dataclasses.dataclass(frozen=True)
class Perspective(Geometry):
    """Shows the image as a tilted plane: each corner moves inwards along x and y, by up to `strength` of half the side each.

    The distances are drawn evenly, as torchvision's distortion_scale. What comes into view beyond the image is what `border` says; a share
    1 - p of the images stays.

    Helps: signs, documents and surfaces seen from any side.
    Hurts: photos that are always taken straight on; the image also shrinks, by half of `strength` on average.
    Cost: one sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: go crazy); Hartley & Zisserman 2004, Multiple view geometry (the
    homography of four points).
    """

    dial: ClassVar[str] = "strength"
    strength: Annotated[float, Range(0, 0.6)] = 0.3  # from 2/3 on the corners may leave no convex shape
    border: Border = "reflect"
    p: Share = 0.5

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        draws = chance.double(n=9)
        bent = (draws[:, 0] < self.p) & (self.strength > 0)
        inwards = draws[bent, 1:].numpy().reshape(-1, 4, 2) * self.strength
        matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(bent), 1, 1)
        tilt = torch.zeros(len(bent), 2, dtype=torch.float64)
        matrix[bent], tilt[bent] = homography(CORNERS * (1 - inwards), frame)
        return Map(matrix, frame, lambda points, rows: tilted(points, tilt[rows], frame), bent)


def homography(corners: np.ndarray, frame: Frame) -> tuple[Tensor, Tensor]:
    """The projective map of output pixels to input pixels under which the image's corners are seen at `corners` [K, 4, 2].

    Corners go from the top left clockwise; (x, y) from -1 to 1 across the frame. Gives (matrix [K, 2, 3], tilt [K, 2]): points are first
    divided by their distance, 1 + tilt . (x, y) from the center in pixels, then moved by the matrix.
    """
    x, y = corners[..., 0], corners[..., 1]
    u, v = CORNERS.T
    system = np.zeros((len(corners), 8, 8))
    for rows, first, aim in ((slice(0, 4), 0, u), (slice(4, 8), 3, v)):
        system[:, rows, first], system[:, rows, first + 1], system[:, rows, first + 2] = x, y, 1
        system[:, rows, 6], system[:, rows, 7] = -x * aim, -y * aim
    aims = np.broadcast_to(np.concatenate([u, v]), (len(corners), 8))
    a, b, c, d, e, f, g, h = torch.from_numpy(np.linalg.solve(system, aims[..., None])[..., 0]).unbind(1)  # each image's on its own
    # (a x + b y + c) / (g x + h y + 1) is affine in (x, y) / (g x + h y + 1), as 1 / (g x + h y + 1) is
    tall = frame[0] / frame[1]
    matrix = about_center(a - c * g, (b - c * h) / tall, (d - f * g) * tall, e - f * h, frame)
    matrix[:, 0, 2] += c * frame[1] / 2
    matrix[:, 1, 2] += f * frame[0] / 2
    return matrix, torch.stack([g * 2 / frame[1], h * 2 / frame[0]], dim=1)


def tilted(points: Tensor, tilt: Tensor, frame: Frame) -> Tensor:
    """Points [K, h, w, 2] divided by 1 + tilt . (x, y), about the frame's center; `tilt` [K, 2] per pixel."""
    center = torch.tensor([(frame[1] - 1) / 2, (frame[0] - 1) / 2], device=points.device)
    away = points - center
    x, y = away.unbind(-1)
    across, down = tilt.to(points)[:, None, None].unbind(-1)
    distance = (x * across).add_(y * down).add_(1).clamp_(min=HORIZON)
    return away.div_(distance[..., None]).add_(center)


# ---- elastic -------------------------------------------------------------------------------------------------------------------

STEP = math.sqrt(3)  # a cubic B-spline over knots this many sigma apart is as wide as a Gaussian of sigma
EVEN = math.sqrt(1 / 3)  # standard deviation of even numbers in -1..1
SPLINE = 151 / 315  # mean sum of a cubic B-spline's squared weights: the variance it leaves of independent knots, per axis


@dataclasses.dataclass(frozen=True)
class Elastic(Geometry):
    """Moves every pixel by a smooth random field, as if the image were printed on rubber.

    `alpha` is the standard deviation of the displacement along each axis, `sigma` the width of the Gaussian that would make such a field
    from even noise, both as shares of the shorter side. The field is a cubic B-spline through even noise on a coarse grid. What comes into
    view beyond the image is what `border` says; a share 1 - p of the images stays.

    Helps: handwriting and tissue: what bends without becoming something else.
    Hurts: rigid objects; `alpha` near `sigma` tears strokes apart.
    Cost: one sampling, shared with its neighbors, and one more of the field.
    Source: Simard et al. 2003, Best practices for convolutional neural networks (elastic distortions; alpha 0.05, sigma 0.14 in these
    units); CS231n, training neural networks II (data augmentation: go crazy).
    """

    dial: ClassVar[str] = "alpha"
    alpha: NonNegative = 0.03
    sigma: Annotated[float, Range(0.01, 1)] = 0.12
    border: Border = "reflect"
    p: Share = 0.5

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        bent = chance.at("p").chosen(self.p) & (self.alpha > 0)
        step = max(1.0, STEP * self.sigma * min(frame))
        reach = self.alpha * min(frame) / (EVEN * SPLINE)
        down, across = (spline(n, step) for n in frame)
        own = chance.at("field")

        def bend(points: Tensor, rows: Tensor) -> Tensor:
            noise = Chance(own.key, own.places[rows]).uniform(-reach, reach, n=2 * down.shape[1] * across.shape[1])
            return points + _read(_upsampled(noise.to(points.device), down, across), points)

        matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(bent), 1, 1)
        return Map(matrix, frame, bend, bent)


def spline(n: int, step: float) -> Tensor:
    """Weights [n, knots] float32 of the cubic B-splines on knots every `step` pixels, at n pixels; rows sum to 1."""
    position = np.arange(n)[:, None] / step
    distance = np.abs(position - np.arange(-1, math.floor((n - 1) / step) + 3))
    near, far = (4 - 6 * distance**2 + 3 * distance**3) / 6, np.clip(2 - distance, 0, None) ** 3 / 6
    return torch.from_numpy(np.where(distance < 1, near, far)).float()


def _upsampled(noise: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Fields [K, 2, h, w] of noise on the knots [K, 2 * rows * columns]; products are image by image, whatever their number."""
    count, device = 2 * len(noise), noise.device
    knots = noise.view(count, down.shape[1], across.shape[1])
    wide = torch.bmm(knots, across.T.to(device).expand(count, -1, -1))
    return torch.bmm(down.to(device).expand(count, -1, -1), wide).view(len(noise), 2, len(down), len(across))


def _read(field: Tensor, points: Tensor) -> Tensor:
    """A field [K, 2, h, w] at points [K, h', w', 2], bilinearly; beyond the frame it goes on as at the edge."""
    last = torch.tensor([max(n - 1, 1) for n in (field.shape[3], field.shape[2])], device=points.device)
    moved = F.grid_sample(field, points * (2 / last) - 1, padding_mode="border", align_corners=True)
    return moved.permute(0, 2, 3, 1)
