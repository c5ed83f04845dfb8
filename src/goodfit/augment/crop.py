"""Crops: windows at the image's own scale, and windows of any scale resized to the model's size."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame, axis_aligned_map, center_crop_map
from goodfit.augment.flip import Flip
from goodfit.augment.geometry import Geometry
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError
from goodfit.core.settings import Count, Natural, Positive, Share

MIN_WHOLE_PIXEL_SIDE = 64  # windows with sides of at least this many pixels are cut at whole pixels, which are resized faster


@dataclasses.dataclass(frozen=True)
class Crop(Geometry):
    """A window of the model's size, anywhere in the image and up to `pad` pixels beyond it (pad and shift).

    `border` says what lies beyond the image; a share 1 - p of the images gets the middle.

    Helps: almost always; what is in the picture does not change when it moves a little.
    Hurts: when the position is the answer, or `pad` cuts off what matters.
    Cost: almost none; composed with its neighbors into one gather.
    Source: CS231n, training neural networks II (random crops); Lee et al. 2015 (4 zeros on each side, as in He et al.
        2016 on CIFAR-10); border=reflect: Jordan 2024.
    """

    pad: Natural = 4
    border: Border = "zero"
    p: Share = 1.0
    is_exact: ClassVar[bool] = True

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        chosen = chance.at("p").chosen(self.p)
        top, left = (
            torch.where(chosen, chance.at(axis).integers(-self.pad, outer - inner + self.pad + 1), (outer - inner) // 2).double()
            for axis, outer, inner in zip(("y", "x"), frame, size, strict=True)
        )
        one = torch.ones_like(top)
        return axis_aligned_map(size, (one, left), (one, top))


# ---- windows of any scale ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class WindowCrop(Geometry):
    """A window anywhere in the image, resized to the model's size, for a share `p` of the images; the middle for the others.

    Where images are read from their original files, the window is cut while they are decoded, so it must not depend on progress.
    """

    @property
    def border(self) -> Border:
        return "edge"  # windows lie inside the image; only the filter's taps can reach beyond

    @abstractmethod
    def draw_sides(self, chance: Chance, extents: Tensor, size: Frame) -> Tensor:
        """Draw the windows' (height, width), [B, 2] float64 in pixels of images of (height, width) `extents` [B, 2] float64."""

    def draw_windows(self, chance: Chance, extents: Tensor, middle: Tensor, size: Frame) -> Tensor:
        """Draw windows [B, 4] float64 (top, left, height, width) in pixels of images of (height, width) `extents` [B, 2] float64.

        Large windows are cut at whole pixels. `middle` [B, 4] holds the windows of the images that are not cropped at random.
        """
        sides = torch.minimum(self.draw_sides(chance, extents, size), extents)  # rounding may have made one longer
        position = torch.stack([chance.at(axis).double() for axis in ("y", "x")], dim=1)
        start, whole = position * (extents - sides), sides.round()
        is_large = (sides >= MIN_WHOLE_PIXEL_SIDE).all(dim=1, keepdim=True)
        sides = torch.where(is_large, whole, sides)
        start = torch.where(is_large, (position * (extents - whole + 1)).floor(), start)
        chosen = chance.at("p").chosen(getattr(self, "p", 1.0))
        return torch.where(chosen[:, None], torch.cat([start, sides], dim=1), middle)

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> CoordinateMap:
        n = len(chance.places)
        (h, w), center = size, center_crop_map(n, frame, size).matrix
        middle = torch.stack([center[:, 1, 2], center[:, 0, 2], *torch.tensor(size, dtype=torch.float64).expand(n, 2).unbind(1)], dim=1)
        top, left, height, width = self.draw_windows(chance, torch.tensor(frame, dtype=torch.float64).expand(n, 2), middle, size).unbind(1)
        x, y = ((length / side, start + length / side / 2 - 0.5) for length, start, side in ((width, left, w), (height, top, h)))
        return axis_aligned_map(size, x, y)


def find_early_crop(parts: Sequence[Augment]) -> tuple[WindowCrop, int] | None:
    """Find the part of a pipe whose windows may be cut before the images are read, and its position: a crop preceded only by flips.

    A window is as likely as its mirror image, so those flips may just as well come after the crop.
    """
    for position, part in enumerate(parts):
        if isinstance(part, WindowCrop):
            return part, position
        if not isinstance(part, Flip):
            return None
    return None


@dataclasses.dataclass(frozen=True)
class ResizedCrop(WindowCrop):
    """A window of random area and shape, resized to the model's size (torchvision's RandomResizedCrop).

    `area` is the range of the window's share of the image, drawn uniformly; `ratio` is the range of its width over height, drawn
    log-uniformly from the part of the range with which such a window fits. (torchvision draws up to ten times until one fits.) When none
    fits, the nearest ratio of the range is taken and the window is the largest that fits. A share 1 - p of the images gets the middle.

    Helps: photos, where objects come in all sizes and places; with enough epochs to see many windows.
    Hurts: small images and short budgets (a low `area` shows the model mostly background); where size is the answer.
    Cost: one antialiased resampling.
    Source: Szegedy et al. 2015, Going deeper with convolutions (training methodology). Not the ResNet scale crop.
    """

    area: tuple[Positive, Positive] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    p: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in (("area", self.area), ("ratio", self.ratio)):
            if low > high or (name == "area" and high > 1):
                limit = " and at most 1" if name == "area" else ""
                raise UsageError(f"resized_crop: expected {name} to be (low, high) with low <= high{limit}, received {(low, high)}.")

    def draw_sides(self, chance: Chance, extents: Tensor, size: Frame) -> Tensor:
        height, width = extents.numpy().T
        share = chance.at("area").double().numpy() * (self.area[1] - self.area[0]) + self.area[0]
        # the window fits while its ratio is between share * width / height and width / (share * height)
        low = np.clip(share * width / height, *self.ratio)
        high = np.clip(width / (share * height), *self.ratio)
        ratio = low * (high / low) ** chance.at("ratio").double().numpy()
        shrink = np.minimum(1, np.minimum(width / height / (share * ratio), ratio * height / width / share))
        pixels = share * shrink * (height * width)
        return torch.from_numpy(np.sqrt(np.stack([pixels / ratio, pixels * ratio], axis=1)))


@dataclasses.dataclass(frozen=True)
class ScaleCrop(WindowCrop):
    """ResNet's training crop: the image resized to a random short side, then a random patch of the model's size; not resized_crop.

    The short side is drawn uniformly from the integers of `short`, in pixels of an image of which `patch` pixels are taken; the model's
    smaller side takes the place of `patch`, and the numbers scale with it. So a model that sees 224 gets ResNet's crop, and one that
    sees 32 the same share of the image. (resized_crop draws area and shape of the window; here its shape is the model's own.) Where
    the patch would not fit, as in a long image for a wide model, the largest that fits is taken. A share 1 - p of the images gets the
    middle.

    Helps: photos, where objects come in all sizes and places; milder than resized_crop.
    Hurts: small images; where size is the answer.
    Cost: one antialiased resampling.
    Source: CS231n, CNN architectures and training (ResNet: L in [256, 480], a random 224 patch); He et al. 2016; Simonyan & Zisserman 2015.
    """

    short: tuple[Count, Count] = (256, 480)
    patch: Count = 224
    p: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.patch <= self.short[0] <= self.short[1]:
            raise UsageError(
                f"scale_crop: expected short to be (low, high) with patch <= low <= high, received {self.short} with patch {self.patch}."
            )

    def draw_sides(self, chance: Chance, extents: Tensor, size: Frame) -> Tensor:
        short = chance.at("short").integers(self.short[0], self.short[1] + 1).double()
        patch = torch.tensor(size, dtype=torch.float64)
        scale = extents.amin(dim=1) * self.patch / min(size) / short  # pixels of the image for each of the patch
        return torch.minimum(scale, (extents / patch).amin(dim=1))[:, None] * patch
