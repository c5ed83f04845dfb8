"""Erase: hide a rectangle of the image."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError
from goodfit.core.settings import Positive, Share


@dataclasses.dataclass(frozen=True)
class Erase(Augment):
    """Hides a rectangle in a share `p` of the images, under the data's mean color, black, or noise.

    `area` is the range of its share of the image, `ratio` of its height over width (evenly in the logarithm); it lies wholly inside.

    Helps: objects that may be partly hidden; models that lean on one detail.
    Hurts: small or centered objects that vanish whole; together with strong mixing.
    Cost: almost none.
    Source: Zhong et al. 2020, Random erasing data augmentation; DeVries & Taylor 2017 (cutout).
    """

    p: Share = 0.25
    area: tuple[Positive, Positive] = (0.02, 0.2)
    ratio: tuple[Positive, Positive] = (0.3, 10 / 3)
    fill: Literal["mean", "black", "noise"] = "mean"
    _mean: tuple[float, ...] = dataclasses.field(default=(0.5,), repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.area[0] <= self.area[1] <= 1 and self.ratio[0] <= self.ratio[1]):
            raise UsageError(f"erase: expected area and ratio to be (low, high), area up to 1, received {self.area} and {self.ratio}.")

    def bind(self, facts: Any) -> Self:
        """With the training images' mean color for `fill="mean"`."""
        return dataclasses.replace(self, _mean=tuple(facts.mean))

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        height, width = batch.images.shape[2:]
        chosen = chance.at("p").chosen(self.p)
        share = chance.at("area").double().numpy() * (self.area[1] - self.area[0]) + self.area[0]
        ratio = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** chance.at("ratio").double().numpy()
        tall = torch.from_numpy(np.sqrt(share * ratio * height * width).round().clip(1, height))
        wide = torch.from_numpy(np.sqrt(share / ratio * height * width).round().clip(1, width))
        top = (chance.at("y").double() * (height - tall + 1)).floor()
        left = (chance.at("x").double() * (width - wide + 1)).floor()
        cover = self._cover(batch.images, chance)
        return batch.but(images=paste(batch.images, cover, (top, top + tall * chosen, left, left + wide)))

    def _cover(self, images: Tensor, chance: Chance) -> Tensor:
        """What hides the pixels: rows [B or 1, H or 1, W * C] of the images' dtype."""
        channels, width = images.shape[1], images.shape[3]
        if self.fill == "noise":
            return self._noise(images, chance)
        mean = self._mean if len(self._mean) == channels else (self._mean * channels)[:channels]
        color = torch.tensor(mean if self.fill == "mean" else (0.0,) * channels)
        if channels == 4:
            color[3] = 1  # opaque
        color = color if images.is_floating_point() else (color * 255).round().to(images.dtype)
        return color.to(images.device).repeat(width)[None, None]

    def _noise(self, images: Tensor, chance: Chance) -> Tensor:
        """Even noise for the images that need it: a hash for every value is the dearest thing here."""
        n, channels, height, width = images.shape
        rows = chance.at("p").chosen(self.p).nonzero()[:, 0]
        drawn = Chance(chance.at("noise").key, chance.places[rows].to(images.device)).uniform(n=height * width * channels)
        drawn = drawn if images.is_floating_point() else (drawn * 256).to(images.dtype)
        noise = images.new_zeros(n, height * width * channels)
        noise[rows.to(images.device)] = drawn
        if channels == 4:
            noise[:, 3::4] = 1 if images.is_floating_point() else 255
        return noise.view(n, height, width * channels)


def paste(images: Tensor, cover: Tensor, box: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Images [B, C, H, W] with the rectangle (top, bottom, left, right), each [B], taken from `cover`, broadcast to [B, H, W * C]."""
    n, channels, height, width = images.shape
    top, bottom, left, right = (edge.to(images.device)[:, None] for edge in box)
    y = torch.arange(height, device=images.device)
    x = torch.arange(width * channels, device=images.device) // channels
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    pixels = images.permute(0, 2, 3, 1).reshape(n, height, width * channels)
    return torch.where(inside, cover, pixels).view(n, height, width, channels).permute(0, 3, 1, 2)
