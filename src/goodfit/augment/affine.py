"""Affine geometry: translation, rotation, stretching and shearing, as matrices and as parts."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame
from goodfit.augment.geometry import Geometry
from goodfit.core.chance import Chance
from goodfit.core.settings import Range, Share

# ---- matrices ------------------------------------------------------------------------------------------------------------------
# Each is [B, 2, 3] float64 and maps (x, y, 1) of an output pixel to (x, y) in the input. Trigonometry is NumPy's, which rounds alike in
# arrays of any length: an image's bits must not depend on the size of its batch.


def translation_matrix(x: Tensor, y: Tensor) -> Tensor:
    """Move the content right by `x` [B] and down by `y` [B] pixels."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _stack_rows((one, zero, -x), (zero, one, -y))


def rotation_matrix(angle: Tensor, frame: Frame) -> Tensor:
    """Turn the content counterclockwise by `angle` [B] degrees about the frame's center; right angles give exact coefficients."""
    degrees = angle.double().cpu().numpy()
    quarters = np.rint(degrees / 90)
    rest = np.deg2rad(degrees - 90 * quarters)  # from -45 to 45 degrees, exactly 0 at right angles
    cos, sin, quadrant = np.cos(rest), np.sin(rest), quarters.astype(np.int64) % 4
    c, s = (torch.from_numpy(np.choose(quadrant, choices)) for choices in ((cos, -sin, -cos, sin), (sin, cos, -sin, -cos)))
    return matrix_about_center(c, -s, s, c, frame)


def stretch_matrix(x: Tensor, y: Tensor, frame: Frame) -> Tensor:
    """Make the content `x` [B] times as wide and `y` [B] times as tall, about the frame's center."""
    zero = torch.zeros_like(x)
    return matrix_about_center(1 / x, zero, zero, 1 / y, frame)


def shear_matrix(x: Tensor, y: Tensor, frame: Frame) -> Tensor:
    """Shear the content along x, then along y, about the frame's center, by the slopes `x` [B] and `y` [B].

    A slope is the tangent of the angle: a row moves left by `x` for each pixel it lies below the center (what stood upright leans
    right), then a column moves up by `y` for each pixel it lies right of the center. Areas do not change.
    """
    one = torch.ones_like(x)
    return matrix_about_center(one + x * y, x, y, one, frame)


def matrix_about_center(xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor, frame: Frame) -> Tensor:
    """Build the matrix with the linear part [[xx, xy], [yx, yy]], each [B], that leaves the frame's center where it is."""
    x, y = (frame[1] - 1) / 2, (frame[0] - 1) / 2
    return _stack_rows((xx, xy, x - xx * x - xy * y), (yx, yy, y - yx * x - yy * y))


def _stack_rows(x: tuple[Tensor, Tensor, Tensor], y: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([*x, *y], dim=1).view(-1, 2, 3).double()


# ---- parts ---------------------------------------------------------------------------------------------------------------------


def draw_signed(chance: Chance, p: float, n: int) -> list[Tensor]:
    """Draw n numbers [B] float64, uniform in -1..1; all 0 for the share 1 - p of the images that are left alone."""
    chosen, *draws = chance.double(n=n + 1).unbind(1)  # in one call: its cost is per call
    return [torch.where(chosen < p, 2 * draw - 1, 0.0) for draw in draws]


@dataclasses.dataclass(frozen=True)
class Translate(Geometry):
    """Moves the image by up to `share` of its width and of its height, either way, to the nearest whole pixel (so nothing is blurred).

    `border` says what lies beyond the image; a share 1 - p of the images stays as it is.

    Helps: objects that are not always in the middle; the same as crop, with strength relative to the image.
    Hurts: when the position is the answer, or what matters is moved out.
    Cost: almost none; composed with its neighbors into one sampling; by itself, a gather.
    Source: CS231n, training neural networks II (data augmentation: translation); Simard et al. 2003, Best practices for convolutional
    neural networks.
    """

    strength_field: ClassVar[str] = "share"
    share: Share = 0.1
    border: Border = "zero"
    p: Share = 1.0
    is_exact: ClassVar[bool] = True

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        x, y = draw_signed(chance, self.p, 2)
        return CoordinateMap(translation_matrix((x * self.share * frame[1]).round(), (y * self.share * frame[0]).round()), frame)


@dataclasses.dataclass(frozen=True)
class Rotate(Geometry):
    """Turns the image about its center by an angle drawn uniformly from -degrees to degrees (positive: counterclockwise).

    `border` says what fills the corners that come into view; a share 1 - p of the images stays as it is.

    Helps: handheld photos; with 180 degrees what has no upright, as in microscopy and aerial photos.
    Hurts: large angles, where upright matters: digits 6 and 9.
    Cost: one sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: rotation); Simard et al. 2003, Best practices for convolutional
    neural networks.
    """

    strength_field: ClassVar[str] = "degrees"
    degrees: Annotated[float, Range(0, 180)] = 15.0
    border: Border = "zero"
    p: Share = 1.0

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        (amount,) = draw_signed(chance, self.p, 1)
        return CoordinateMap(rotation_matrix(amount * self.degrees, frame), frame)


@dataclasses.dataclass(frozen=True)
class Stretch(Geometry):
    """Makes the image wider or narrower and taller or flatter about its center, by factors drawn log-uniformly.

    Width and height each have a factor of their own, from 1 / factor to `factor`. `border` says what lies beyond the image; a share 1 - p
    of the images stays as it is.

    Helps: objects seen at other sizes and proportions; handwriting.
    Hurts: when size or proportion is the answer.
    Cost: one antialiased sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: stretching); LeCun et al. 1998, Gradient-based learning applied to
    document recognition (scaling and squeezing).
    """

    factor: Annotated[float, Range(1)] = 1.2
    border: Border = "zero"
    p: Share = 1.0

    def scaled(self, strength: float) -> Self:
        """Return the same part, milder: 0 changes nothing, 1 is this part."""
        return dataclasses.replace(self, factor=self.factor**strength)

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        x, y = (torch.from_numpy(self.factor ** amount.numpy()) for amount in draw_signed(chance, self.p, 2))
        return CoordinateMap(stretch_matrix(x, y, frame), frame)


@dataclasses.dataclass(frozen=True)
class Shear(Geometry):
    """Slants the image along x, then along y, about its center, by angles drawn uniformly from -degrees to degrees.

    `border` says what fills the corners that come into view; a share 1 - p of the images stays as it is.

    Helps: handwriting, and objects seen a little from the side.
    Hurts: when right angles or the slant itself tell the classes apart.
    Cost: one sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: shearing); LeCun et al. 1998, Gradient-based learning applied to
    document recognition (horizontal shearing).
    """

    strength_field: ClassVar[str] = "degrees"
    degrees: Annotated[float, Range(0, below=90)] = 10.0
    border: Border = "zero"
    p: Share = 1.0

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        x, y = (torch.from_numpy(np.tan(np.deg2rad(amount.numpy() * self.degrees))) for amount in draw_signed(chance, self.p, 2))
        return CoordinateMap(shear_matrix(x, y, frame), frame)
