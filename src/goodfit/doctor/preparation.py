"""How images on disk become what the network gets, and images on disk prepared so."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from goodfit.doctor.pixels import spread, to_images
from goodfit.doctor.sample import Pass

MAX_PLAIN_ERROR = 0.12  # root mean square, in standard deviations of the inputs, up to which an image counts as prepared plainly
MAX_ORDERED = 4  # channels of which all orders are tried
MIN_LIKENESS = 0.8  # correlation of an input channel with the one on disk that it comes from


@dataclasses.dataclass(frozen=True, eq=False)
class Preparation:
    """Resizing to `size` by area, the channels in an `order`, then a `gain` and an `offset` for each: [C]."""

    size: tuple[int, int]
    order: tuple[int, ...]
    gain: Tensor
    offset: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images [N, C, H, W] from 0 to 1."""
        x = resize(fit_channels(images, len(self.order)), self.size)[:, list(self.order)]
        return x * self.gain[None, :, None, None] + self.offset[None, :, None, None]

    @classmethod
    def match(cls, inputs: Tensor, raw: Tensor) -> Preparation:
        """The preparation in the order on disk that gives images [N, C, H, W] the mean and deviation by channel of the inputs."""
        x = fit_channels(raw, inputs.shape[1])
        gain = inputs.std((0, 2, 3)) / x.std((0, 2, 3)).clamp_min(1e-9)
        offset = inputs.mean((0, 2, 3)) - gain * x.mean((0, 2, 3))
        return cls((inputs.shape[2], inputs.shape[3]), tuple(range(inputs.shape[1])), gain, offset)

    @classmethod
    def regress(cls, inputs: Tensor, raw: Tensor) -> tuple[Preparation, float]:
        """The preparation that comes nearest to the inputs [N, C, H, W] from the images on disk, and a channel's lowest correlation."""
        x = fit_channels(raw, inputs.shape[1])
        small = resize(x, (inputs.shape[2], inputs.shape[3])).transpose(0, 1).flatten(1)
        y = inputs.transpose(0, 1).flatten(1)
        small_centered, y_centered = small - small.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        norms = small_centered.norm(dim=1).clamp_min(1e-9)
        likeness = (y_centered @ small_centered.T) / (y_centered.norm(dim=1).clamp_min(1e-9)[:, None] * norms[None])
        c = inputs.shape[1]
        orders = list(itertools.permutations(range(c))) if c <= MAX_ORDERED else [tuple(range(c))]
        order = max(orders, key=lambda o: float(sum(likeness[i, j] for i, j in enumerate(o))))
        gain = torch.stack([(y_centered[i] @ small_centered[j]) / norms[j] ** 2 for i, j in enumerate(order)])
        offset = torch.stack([y[i].mean() - gain[i] * small[j].mean() for i, j in enumerate(order)])
        found = cls((inputs.shape[2], inputs.shape[3]), tuple(order), gain, offset)
        return found, min(float(likeness[i, j]) for i, j in enumerate(order))


def fit_channels(images: Tensor, channels: int) -> Tensor:
    """Images [N, C, H, W] with as many channels as the inputs: colors averaged to gray, gray ones repeated, the first ones of more."""
    if channels == 1:
        return images[:, :3].mean(1, keepdim=True)
    return images[:, :channels] if images.shape[1] >= channels else images[:, :1].expand(-1, channels, -1, -1)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [N, C, H, W] resized: by area to fewer pixels, bilinearly to more."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    if size[0] <= images.shape[2] and size[1] <= images.shape[3]:
        return F.interpolate(images, size=size, mode="area")
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def take_aligned(inputs: Pass, pixels: NDArray[np.uint8], labels: NDArray[np.int64], limit: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Up to `limit` inputs of the network, the same images from disk [N, C, H, W], and their labels; None if they come in another order."""
    n = min(len(inputs), len(labels))
    own = inputs.labels[:n]
    if own.ndim != 1 or n < 2 or (inputs.is_whole and len(inputs) != len(labels)):
        return None
    if not bool((own.double() == torch.as_tensor(labels[:n]).double()).all()) or bool((own == own[0]).all()) or _is_sorted(own):
        return None
    rows = spread(n, limit)
    return inputs.images[rows], to_images(pixels[rows]), own[rows].long()


def _is_sorted(labels: Tensor) -> bool:
    return bool((labels[1:] >= labels[:-1]).all())
