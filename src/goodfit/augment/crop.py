"""Crops: a window of the image's own scale, or of any scale."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.geometry import Border, Frame, Geometry, Map, along_axes, center
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.settings import Natural, Positive, Share


@dataclasses.dataclass(frozen=True)
class Crop(Geometry):
    """A window of the model's size, anywhere in the image and up to `pad` pixels beyond it (pad and shift).

    The pixels beyond are what `border` says; a share 1 - p of the images gets the middle.

    Helps: almost always; what is in the picture does not change when it moves a little.
    Hurts: when the position is the answer, or `pad` cuts off what matters.
    Cost: almost none; composed with its neighbours into one gather.
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
class ResizedCrop(Geometry):
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

    @property
    def border(self) -> Border:
        return "edge"  # windows lie inside the image; only the filter's taps can reach beyond

    def draw(self, chance: Chance, t: float, frame: Frame, size: Frame) -> Map:
        height, width = self._window(chance, frame)
        top, left = (chance.at(axis).double() * (n - own) for axis, n, own in zip(("y", "x"), frame, (height, width), strict=True))
        x, y = ((own / n, start + own / n / 2 - 0.5) for own, start, n in ((width, left, size[1]), (height, top, size[0])))
        drawn = along_axes(size, x, y)
        chosen = chance.at("p").chosen(self.p)[:, None, None]
        return dataclasses.replace(drawn, matrix=torch.where(chosen, drawn.matrix, center(len(chosen), frame, size).matrix))

    def _window(self, chance: Chance, frame: Frame) -> tuple[Tensor, Tensor]:
        """Height and width [B] of the windows, in pixels of the frame."""
        height, width = frame
        share = chance.at("area").double().numpy() * (self.area[1] - self.area[0]) + self.area[0]
        # the window fits while its ratio is between share * width / height and width / (share * height)
        low = np.clip(share * width / height, *self.ratio)
        high = np.clip(width / (share * height), *self.ratio)
        ratio = low * (high / low) ** chance.at("ratio").double().numpy()
        shrink = np.minimum(1, np.minimum(width / height / (share * ratio), ratio * height / width / share))
        pixels = share * shrink * (height * width)
        return torch.from_numpy(np.sqrt(pixels / ratio)), torch.from_numpy(np.sqrt(pixels * ratio))
