"""Blur and sharpness."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.gather import apply_border, float_dtype, iterate_chunks
from goodfit.augment.resize import sum_weighted_rows
from goodfit.augment.traits import RandomApply, RangedAugment, draw_from_range, keep_alpha
from goodfit.core.chance import Chance
from goodfit.core.settings import NonNegative, Range, Share

GAUSSIAN_CUTOFF = 3  # standard deviations at which the Gaussian is cut off

Sigma = Annotated[float, Range(0, 100)]

# ---- images [B, C, H, W], uint8 or float, each with its own magnitude -> float 0..1 ---------------------------------------------------
# Alpha, the fourth channel, is left alone.


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images by a Gaussian of standard deviation `sigma` [B] pixels, cut off at GAUSSIAN_CUTOFF (rounded up), border "reflect"."""
    pixels = images[:, :3].permute(0, 2, 3, 1)
    height, width, channels = pixels.shape[1:]
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    weights = _gaussian_kernels(sigma)
    reach = weights.shape[1] // 2
    y, x = (
        apply_border(torch.arange(length)[:, None] + torch.arange(-reach, reach + 1), length, "reflect")[None] for length in (height, width)
    )
    out = torch.empty(pixels.shape, dtype=float_dtype(images), device=images.device)
    for chunk in iterate_chunks(pixels):
        down, across = (
            (weights[chunk] * factor).to(out.dtype)[:, None].expand(-1, length, -1) for length, factor in ((height, 1.0), (width, scale))
        )
        rows = sum_weighted_rows(pixels[chunk].to(out.dtype), y, down).view(-1, height, width, channels)
        columns = sum_weighted_rows(rows.transpose(1, 2), x, across).view(-1, width, height, channels)
        out[chunk] = columns.clamp_(0, 1).transpose(1, 2)
    return keep_alpha(images, out.permute(0, 3, 1, 2))


def _gaussian_kernels(sigma: Tensor) -> Tensor:
    """Build kernels [B, 2R + 1] float64 that sum to 1; R is the batch's largest reach; weights beyond an image's own reach are 0."""
    std = np.maximum(sigma.double().cpu().numpy(), 1e-6)[:, None]
    reach = np.where(std > 1e-6, np.ceil(GAUSSIAN_CUTOFF * std), 0)
    distance = np.arange(reach.max(initial=0) + 1)
    side = np.where(distance <= reach, np.exp(-0.5 * (distance / std) ** 2), 0.0)  # NumPy's exp rounds alike in arrays of any length
    total = 2 * side.cumsum(axis=1)[:, -1:] - 1  # summed in order: zeros that only a larger batch has must not change the rounding
    return torch.from_numpy(np.concatenate([side[:, :0:-1], side], axis=1) / total)


def adjust_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Smooth or sharpen images by `factor` [B]: 0 gives the smoothed image, 1 the image itself, above 1 is sharper.

    The image is smoothed by (1 1 1, 1 5 1, 1 1 1) / 13 except for its outermost pixels, as in Pillow; results are clamped.
    """
    pixels = images[:, :3].permute(0, 2, 3, 1)
    n, height, width, channels = pixels.shape
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    out = torch.empty((n, height, width * channels), dtype=float_dtype(images), device=images.device)
    box, center = (x.to(out)[:, None, None] for x in ((1 - factor.double()) / 13 * scale, (factor.double() * 9 + 4) / 13 * scale))
    for chunk in iterate_chunks(pixels):
        lines = pixels[chunk].to(out.dtype).reshape(-1, height, width * channels)
        middle = slice(channels, -channels)
        column_sum = lines[:, :-2] + lines[:, 1:-1]
        column_sum += lines[:, 2:]
        box_sum = column_sum[..., : -2 * channels] + column_sum[..., middle]
        box_sum += column_sum[..., 2 * channels :]
        out[chunk] = lines * scale
        out[chunk, 1:-1, middle] = (lines[:, 1:-1, middle] * center[chunk]).addcmul_(box_sum, box[chunk])
        out[chunk].clamp_(0, 1)
    return keep_alpha(images, out.view(n, height, width, channels).permute(0, 3, 1, 2))


# ---- parts ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Blur(RangedAugment, RandomApply):
    """Blurs a share `p` of the images by a Gaussian whose standard deviation, in pixels, is drawn uniformly from `sigma`.

    blur(2) is blur((0, 2)).

    Helps: photos out of focus or of mixed resolution; contrastive learning.
    Hurts: small images, and whenever fine texture is the answer.
    Cost: two passes that take longer for a larger sigma; one of the more expensive ops.
    Source: Chen et al. 2020, A simple framework for contrastive learning (p 0.5, sigma 0.1 to 2 for 224 pixels).
    """

    sigma: tuple[Sigma, Sigma] = (0.1, 2.0)
    p: Share = 0.5

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return blur(images, draw_from_range(chance.at("sigma"), self.sigma))


@dataclasses.dataclass(frozen=True)
class Sharpness(RangedAugment, RandomApply):
    """Smooths (below 1) or sharpens (above 1) a share `p` of the images by a factor drawn uniformly from its range; 1 changes nothing.

    sharpness(0.5) is sharpness((0.5, 1.5)).

    Helps: images of several cameras, whose firmware sharpens more or less; in policies.
    Hurts: little.
    Cost: about two passes over the pixels.
    Source: Cubuk et al. 2019, AutoAugment.
    """

    neutral: ClassVar[float | None] = 1.0
    factor: tuple[NonNegative, NonNegative] = (0.1, 1.9)
    p: Share = 0.5

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return adjust_sharpness(images, draw_from_range(chance.at("factor"), self.factor))
