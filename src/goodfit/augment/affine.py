"""Affine geometry: translation, rotation, stretching and shearing, as matrices and as parts."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.geometry import Geometry
from goodfit.augment.maps import Border, Frame, Map
from goodfit.core.chance import Chance
from goodfit.core.settings import Range, Share

# ---- matrices ------------------------------------------------------------------------------------------------------------------
# Each is [B, 2, 3] float64 and takes (x, y, 1) of an output pixel to (x, y) of the input. NumPy's functions round alike in arrays of any
# length, which the bits of an image must not depend on.


def translation(x: Tensor, y: Tensor) -> Tensor:
    """The content moves right by `x` [B] and down by `y` [B] pixels."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _matrix((one, zero, -x), (zero, one, -y))


def rotation(angle: Tensor, frame: Frame) -> Tensor:
    """The content turns counterclockwise by `angle` [B] degrees about the frame's center; right angles give exact coefficients."""
    degrees = angle.double().cpu().numpy()
    quarters = np.rint(degrees / 90)
    rest = np.deg2rad(degrees - 90 * quarters)  # from -45 to 45 degrees, exactly 0 at right angles
    cos, sin, turn = np.cos(rest), np.sin(rest), quarters.astype(np.int64) % 4
    c, s = (torch.from_numpy(np.choose(turn, ways)) for ways in ((cos, -sin, -cos, sin), (sin, cos, -sin, -cos)))
    return about_center(c, -s, s, c, frame)


def stretching(x: Tensor, y: Tensor, frame: Frame) -> Tensor:
    """The content becomes `x` [B] times as wide and `y` [B] times as tall, about the frame's center."""
    zero = torch.zeros_like(x)
    return about_center(1 / x, zero, zero, 1 / y, frame)


def shearing(x: Tensor, y: Tensor, frame: Frame) -> Tensor:
    """The content is sheared along x, then along y, about the frame's center, by the slopes `x` [B] and `y` [B].

    A slope is the tangent of the angle: a row moves left by `x` for each pixel it lies below the center (what stood upright leans
    right), then a column moves up by `y` for each pixel it lies right of it. Areas stay as they are.
    """
    one = torch.ones_like(x)
    return about_center(one + x * y, x, y, one, frame)


def about_center(xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor, frame: Frame) -> Tensor:
    """The matrix with the linear part [[xx, xy], [yx, yy]], each [B], that leaves the frame's center where it is."""
    x, y = (frame[1] - 1) / 2, (frame[0] - 1) / 2
    return _matrix((xx, xy, x - xx * x - xy * y), (yx, yy, y - yx * x - yy * y))


def _matrix(x: tuple[Tensor, Tensor, Tensor], y: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([*x, *y], dim=1).view(-1, 2, 3).double()


# ---- parts ---------------------------------------------------------------------------------------------------------------------


def swings(chance: Chance, p: float, n: int) -> list[Tensor]:
    """n random numbers [B] float64, even in -1..1; all 0 for the share 1 - p of the images that are left alone."""
    chosen, *ways = chance.double(n=n + 1).unbind(1)  # in one call: its cost is per call
    return [torch.where(chosen < p, 2 * way - 1, 0.0) for way in ways]


@dataclasses.dataclass(frozen=True)
class Translate(Geometry):
    """Moves the image by up to `share` of its width and of its height, either way, to the nearest whole pixel (so nothing is blurred).

    The pixels beyond are what `border` says; a share 1 - p of the images stays.

    Helps: objects that are not always in the middle; the same as crop, with strength relative to the image.
    Hurts: when the position is the answer, or what matters is moved out.
    Cost: almost none; composed with its neighbors into one sampling, alone a gather.
    Source: CS231n, training neural networks II (data augmentation: translation); Simard et al. 2003, Best practices for convolutional
    neural networks.
    """

    dial: ClassVar[str] = "share"
    share: Share = 0.1
    border: Border = "reflect"
    p: Share = 1.0
    exact: ClassVar[bool] = True

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        x, y = swings(chance, self.p, 2)
        return Map(translation((x * self.share * frame[1]).round(), (y * self.share * frame[0]).round()), frame)


@dataclasses.dataclass(frozen=True)
class Rotate(Geometry):
    """Turns the image about its center by an angle drawn evenly from -degrees to degrees (positive: counterclockwise).

    The corners that come into view are what `border` says; a share 1 - p of the images stays.

    Helps: handheld photos; with 180 degrees what has no upright, as in microscopy and aerial photos.
    Hurts: large angles, where upright matters: digits 6 and 9.
    Cost: one sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: rotation); Simard et al. 2003, Best practices for convolutional
    neural networks.
    """

    dial: ClassVar[str] = "degrees"
    degrees: Annotated[float, Range(0, 180)] = 15.0
    border: Border = "reflect"
    p: Share = 1.0

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        (turn,) = swings(chance, self.p, 1)
        return Map(rotation(turn * self.degrees, frame), frame)


@dataclasses.dataclass(frozen=True)
class Stretch(Geometry):
    """Makes the image wider or narrower and taller or flatter about its center, by factors drawn evenly in the logarithm.

    Width and height each have a factor of their own, from 1 / factor to `factor`. The pixels beyond are what `border` says; a share 1 - p
    of the images stays.

    Helps: objects seen at other sizes and proportions; handwriting.
    Hurts: when size or proportion is the answer.
    Cost: one antialiased sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: stretching); LeCun et al. 1998, Gradient-based learning applied to
    document recognition (scaling and squeezing).
    """

    factor: Annotated[float, Range(1)] = 1.2
    border: Border = "reflect"
    p: Share = 1.0

    def scaled(self, strength: float) -> Self:
        """The same part, milder: 0 changes nothing, 1 is this part."""
        return dataclasses.replace(self, factor=self.factor**strength)

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        x, y = (torch.from_numpy(self.factor ** way.numpy()) for way in swings(chance, self.p, 2))
        return Map(stretching(x, y, frame), frame)


@dataclasses.dataclass(frozen=True)
class Shear(Geometry):
    """Slants the image along x, then along y, about its center, by angles drawn evenly from -degrees to degrees.

    The corners that come into view are what `border` says; a share 1 - p of the images stays.

    Helps: handwriting, and objects seen a little from the side.
    Hurts: when right angles or the slant itself tell the classes apart.
    Cost: one sampling, shared with its neighbors.
    Source: CS231n, training neural networks II (data augmentation: shearing); LeCun et al. 1998, Gradient-based learning applied to
    document recognition (horizontal shearing).
    """

    dial: ClassVar[str] = "degrees"
    degrees: Annotated[float, Range(0, below=90)] = 10.0
    border: Border = "reflect"
    p: Share = 1.0

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        x, y = (torch.from_numpy(np.tan(np.deg2rad(way.numpy() * self.degrees))) for way in swings(chance, self.p, 2))
        return Map(shearing(x, y, frame), frame)
