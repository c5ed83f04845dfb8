"""What is done to images, float [B, C, H, W] from 0 to 1, before a model gets them: standardizing and random augmentation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Transform = Callable[[Tensor, torch.Generator], Tensor]


def to_float(images: np.ndarray) -> Tensor:
    """Turn uint8 [B, H, W, C] into float32 [B, C, H, W] from 0 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def to_uint8(images: Tensor) -> np.ndarray:
    """Turn floats [B, C, H, W] from 0 to 1 into uint8 [B, H, W, C]."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def standardize(images: np.ndarray) -> Transform:
    """A transform to mean 0 and deviation 1 per channel over those images, uint8 [N, H, W, C]."""
    part = to_float(images[:2000])
    mean, std = part.mean((0, 2, 3))[:, None, None], part.std((0, 2, 3))[:, None, None]
    return lambda x, g: (x - mean) / std


def chain(*transforms: Transform) -> Transform:
    """One transform after the other."""

    def apply(x: Tensor, g: torch.Generator) -> Tensor:
        for transform in transforms:
            x = transform(x, g)
        return x

    return apply


def keep(x: Tensor, g: torch.Generator) -> Tensor:
    """No augmentation."""
    return x


def _uniform(count: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=g)


@dataclasses.dataclass(frozen=True)
class Warp:
    """A random affine map per image, sampled bilinearly; what lies outside repeats the border.

    Attributes:
        shift: largest shift, as a share of the image.
        scale: smallest share of the side that is seen.
        rotate: largest angle in degrees.
        flip: whether left and right change places in half of the images.
    """

    shift: float = 0.0
    scale: float = 1.0
    rotate: float = 0.0
    flip: bool = False

    def __call__(self, x: Tensor, g: torch.Generator) -> Tensor:
        count = len(x)
        zoom = _uniform(count, self.scale, 1.0, g)
        angle = _uniform(count, -self.rotate, self.rotate, g) * math.pi / 180
        sign = torch.where(torch.rand(count, generator=g) < 0.5, -1.0, 1.0) if self.flip else torch.ones(count)
        reach = 1 - zoom + 2 * self.shift
        rows = [sign * zoom * angle.cos(), -zoom * angle.sin(), reach * _uniform(count, -1, 1, g)]
        rows += [sign * zoom * angle.sin(), zoom * angle.cos(), reach * _uniform(count, -1, 1, g)]
        grid = functional.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def add_noise(sigma: float) -> Transform:
    """Add normal noise."""
    return lambda x, g: x + sigma * torch.randn(x.shape, generator=g)


def jitter(strength: float) -> Transform:
    """Scale and shift the brightness of each channel at random."""

    def apply(x: Tensor, g: torch.Generator) -> Tensor:
        shape = (len(x), x.shape[1], 1, 1)
        factor = 1 + strength * (2 * torch.rand(shape, generator=g) - 1)
        return ((x - 0.5) * factor + 0.5 + strength * (torch.rand(shape, generator=g) - 0.5)).clamp(0, 1)

    return apply


def erase(share: float) -> Transform:
    """Fill a random rectangle that covers this share of the image with its mean."""

    def apply(x: Tensor, g: torch.Generator) -> Tensor:
        height, width = x.shape[2:]
        tall, wide = round(height * share**0.5), round(width * share**0.5)
        x = x.clone()
        for k in range(len(x)):
            top = int(torch.randint(height - tall + 1, (), generator=g))
            left = int(torch.randint(width - wide + 1, (), generator=g))
            x[k, :, top : top + tall, left : left + wide] = x[k].mean()
        return x

    return apply


def resize(side: int) -> Transform:
    """Shrink to `side` pixels by area, and back bilinearly."""

    def apply(x: Tensor, g: torch.Generator) -> Tensor:
        small = functional.interpolate(x, size=(side, side), mode="area")
        return functional.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False)

    return apply


def center_crop(share: float) -> Transform:
    """Keep the middle of the image, resized to all of it."""

    def apply(x: Tensor, g: torch.Generator) -> Tensor:
        cut = [round(side * (1 - share) / 2) for side in x.shape[2:]]
        middle = x[:, :, cut[0] : x.shape[2] - cut[0], cut[1] : x.shape[3] - cut[1]]
        return functional.interpolate(middle, size=x.shape[2:], mode="bilinear", align_corners=False)

    return apply


def blur(passes: int) -> Transform:
    """Average with the neighbors so many times."""

    def apply(x: Tensor, g: torch.Generator) -> Tensor:
        for _ in range(passes):
            x = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return x

    return apply
