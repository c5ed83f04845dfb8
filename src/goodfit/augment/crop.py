"""Crops: a window of the image's own scale, or of any scale."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.geometry import Geometry
from goodfit.augment.maps import Border, Frame, Map, along_axes
from goodfit.augment.windows import Windowed
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.settings import Count, Natural, Positive, Share


@dataclasses.dataclass(frozen=True)
class Crop(Geometry):
    """A window of the model's size, anywhere in the image and up to `pad` pixels beyond it (pad and shift).

    The pixels beyond are what `border` says; a share 1 - p of the images gets the middle.

    Helps: almost always; what is in the picture does not change when it moves a little.
    Hurts: when the position is the answer, or `pad` cuts off what matters.
    Cost: almost none; composed with its neighbors into one gather.
    Source: CS231n, training neural networks II (random crops); Lee et al. 2015 (pad 4, as in He et al. 2016 on CIFAR-10).
    """

    pad: Natural = 4
    border: Border = "reflect"
    p: Share = 1.0
    exact: ClassVar[bool] = True

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        chosen = chance.at("p").chosen(self.p)
        top, left = (
            torch.where(chosen, chance.at(axis).integers(-self.pad, inside - own + self.pad + 1), (inside - own) // 2).double()
            for axis, inside, own in zip(("y", "x"), frame, size, strict=True)
        )
        one = torch.ones_like(top)
        return along_axes(size, (one, left), (one, top))


@dataclasses.dataclass(frozen=True)
class ResizedCrop(Windowed):
    """A window of random area and shape, resized to the model's size (torchvision's RandomResizedCrop).

    `area` is the range of the window's share of the image, drawn evenly; `ratio` the range of its width over height, drawn evenly in the
    logarithm from the part of the range with which such a window fits. (torchvision draws up to ten times until one fits.) When none
    fits, the nearest ratio of the range is taken and the window is the largest that does. A share 1 - p of the images gets the middle.

    Helps: photos, where objects come in all sizes and places; with enough epochs to see many windows.
    Hurts: small images and short budgets (a low `area` shows the model mostly background); where size is the answer.
    Cost: one antialiased resampling.
    Source: Szegedy et al. 2015, Going deeper with convolutions (training methodology). Not the ResNet scale crop.
    """

    area: tuple[Positive, Positive] = (0.25, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    p: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in (("area", self.area), ("ratio", self.ratio)):
            if low > high or (name == "area" and high > 1):
                most = " and at most 1" if name == "area" else ""
                raise UsageError(f"resized_crop: expected {name} to be (low, high) with low <= high{most}, received {(low, high)}.")

    def sides(self, chance: Chance, extents: Tensor, size: Frame) -> Tensor:
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
class ScaleCrop(Windowed):
    """ResNet's training crop: the image resized to a random short side, then a random patch of the model's size; not resized_crop.

    The short side is drawn evenly from the integers of `short`, in pixels of an image of which `patch` pixels are taken; the model's
    smaller side takes the place of `patch`, and the numbers scale with it. So a model that sees 224 gets ResNet's crop, and one that
    sees 32 the same share of the image. (resized_crop draws area and shape of the window; here its shape is the model's own.) Where
    the patch would not fit, as in a long image for a wide model, it is the largest that does. A share 1 - p of the images gets the middle.

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

    def sides(self, chance: Chance, extents: Tensor, size: Frame) -> Tensor:
        short = chance.at("short").integers(self.short[0], self.short[1] + 1).double()
        patch = torch.tensor(size, dtype=torch.float64)
        scale = extents.amin(dim=1) * self.patch / min(size) / short  # pixels of the image for each of the patch
        return torch.minimum(scale, (extents / patch).amin(dim=1))[:, None] * patch
