"""Erase: hide a rectangle of the image."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.traits import MeanFilled
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.settings import Positive, Share

Fill = Literal["mean", "black", "noise"]
Box = tuple[Tensor, Tensor, Tensor, Tensor]  # top, bottom, left, right, each [B], the ends excluded


@dataclasses.dataclass(frozen=True)
class Erase(MeanFilled):
    """Hides a rectangle in a share `p` of the images, under the data's mean color, black, or noise.

    `area` is the range of its share of the image, `ratio` of its height over width (drawn log-uniformly); it lies wholly inside.

    Helps: objects that may be partly hidden; models that lean on one detail.
    Hurts: small or centered objects that vanish whole; together with strong mixing.
    Cost: almost none.
    Source: Zhong et al. 2020, Random erasing data augmentation (p 0.5, area up to 0.4).
    """

    p: Share = 0.5
    area: tuple[Positive, Positive] = (0.02, 0.4)
    ratio: tuple[Positive, Positive] = (0.3, 10 / 3)
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.area[0] <= self.area[1] <= 1 and self.ratio[0] <= self.ratio[1]):
            raise UsageError(f"erase: expected area and ratio to be (low, high), area up to 1, received {self.area} and {self.ratio}.")

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        height, width = batch.images.shape[2:]
        chosen = chance.at("p").chosen(self.p)
        share = chance.at("area").double().numpy() * (self.area[1] - self.area[0]) + self.area[0]
        ratio = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** chance.at("ratio").double().numpy()
        box_height = torch.from_numpy(np.sqrt(share * ratio * height * width).round().clip(1, height))
        box_width = torch.from_numpy(np.sqrt(share / ratio * height * width).round().clip(1, width))
        top = (chance.at("y").double() * (height - box_height + 1)).floor()
        left = (chance.at("x").double() * (width - box_width + 1)).floor()
        cover = make_cover(batch.images, self.fill, self._mean, chance.at("noise"), chosen)
        return batch.but(images=paste_boxes(batch.images, cover, (top, top + box_height * chosen, left, left + box_width)))


@dataclasses.dataclass(frozen=True)
class Cutout(MeanFilled):
    """Hides a square in a share `p` of the images, under the data's mean color, black, or noise.

    `side` is its length as a share of the image's shorter side, rounded to whole pixels. It may be centered on any pixel, and what reaches
    beyond the border is cut off, so an image may lose less than a whole square.

    Helps: overfitting on small images, over many epochs; models that lean on one detail.
    Hurts: objects that vanish whole: the more classes differ in details, the shorter the side should be.
    Cost: almost none.
    Source: DeVries & Taylor 2017 (16 of 32 pixels for CIFAR-10, 8 for CIFAR-100); CS231n, training neural networks II (cutout).
    """

    side: Share = 0.5
    p: Share = 1.0
    fill: Fill = "mean"

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        height, width = batch.images.shape[2:]
        chosen = chance.at("p").chosen(self.p)
        side = chosen * float(round(self.side * min(height, width)))
        cover = make_cover(batch.images, self.fill, self._mean, chance.at("noise"), chosen)
        return batch.but(images=paste_boxes(batch.images, cover, draw_centered_boxes(chance, (height, width), side, side)))


# ---- rectangles ----------------------------------------------------------------------------------------------------------------


def draw_centered_boxes(chance: Chance, size: tuple[int, int], heights: Tensor, widths: Tensor) -> Box:
    """Draw rectangles of whole `heights` and `widths` [B], each centered on any pixel of an image of `size` and cut at its border."""
    edges = []
    for axis, length, side in (("y", size[0], heights), ("x", size[1], widths)):
        start = (chance.at(axis).double() * length).floor() - (side / 2).floor()
        edges += [start.clamp(min=0), (start + side).clamp(max=length)]
    return edges[0], edges[1], edges[2], edges[3]


def paste_boxes(images: Tensor, cover: Tensor, box: Box) -> Tensor:
    """Return images [B, C, H, W] with the rectangles `box` taken from `cover`, broadcast to [B, H, W * C]."""
    n, channels, height, width = images.shape
    top, bottom, left, right = (edge.cpu()[:, None] for edge in box)
    y, x = torch.arange(height), torch.arange(width * channels) // channels
    inside = ((y >= top) & (y < bottom)).flatten().nonzero()[:, 0]  # the rows that change: most do not
    image = inside // height
    mask = ((x >= left[image]) & (x < right[image])).to(images.device)
    rows, image = inside.to(images.device), image.to(images.device)
    pixels = images.permute(0, 2, 3, 1).reshape(n * height, width * channels).clone()
    hidden = cover if cover.shape[:2] == (1, 1) else cover.expand(n, height, -1)[image, rows % height]
    pixels[rows] = torch.where(mask, hidden.view(-1, width * channels), pixels[rows])
    return pixels.view(n, height, width, channels).permute(0, 3, 1, 2)


# ---- covers --------------------------------------------------------------------------------------------------------------------


def make_cover(images: Tensor, fill: Fill, mean: tuple[float, ...], chance: Chance, chosen: Tensor) -> Tensor:
    """Make rows [B or 1, H or 1, W * C] of the images' dtype that cover pixels of the `chosen` [B]; alpha, channel four, is opaque."""
    channels, width = images.shape[1], images.shape[3]
    if fill == "noise":
        return _noise_cover(images, chance, chosen)
    mean = mean if len(mean) == channels else (mean * channels)[:channels]
    color = torch.tensor(mean if fill == "mean" else (0.0,) * channels)
    if channels == 4:
        color[3] = 1
    color = color if images.is_floating_point() else (color * 255).round().to(images.dtype)
    return color.to(images.device).repeat(width)[None, None]


def _noise_cover(images: Tensor, chance: Chance, chosen: Tensor) -> Tensor:
    """Draw uniform noise, only for the images that need it: a hash for every value is the most expensive thing here."""
    n, channels, height, width = images.shape
    rows = chosen.nonzero()[:, 0]
    values = Chance(chance.key, chance.places[rows].to(images.device)).uniform(n=height * width * channels)
    values = values if images.is_floating_point() else (values * 256).to(images.dtype)
    noise = images.new_zeros(n, height * width * channels)
    noise[rows.to(images.device)] = values
    if channels == 4:
        noise[:, 3::4] = 1 if images.is_floating_point() else 255
    return noise.view(n, height, width * channels)
