"""Blur and sharpness."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.chosen import Chosen, on_color
from goodfit.augment.chunks import chunks
from goodfit.augment.gather import bordered
from goodfit.augment.ranges import Ranged, drawn
from goodfit.augment.taps import weighted
from goodfit.core.chance import Chance
from goodfit.core.settings import NonNegative, Range, Share

REACH = 3  # standard deviations that the Gaussian is cut at

Sigma = Annotated[float, Range(0, 100)]

# ---- images [B, C, H, W], uint8 or float, each with its own magnitude -> float 0..1 ---------------------------------------------------
# Alpha, the fourth channel, is left alone.


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Images under a Gaussian of standard deviation `sigma` [B] pixels, cut at 3 sigma (rounded up), with the border "reflect"."""
    pixels = images[:, :3].permute(0, 2, 3, 1)
    height, width, channels = pixels.shape[1:]
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    weights = _gaussian(sigma)
    reach = weights.shape[1] // 2
    y, x = (
        bordered(torch.arange(length)[:, None] + torch.arange(-reach, reach + 1), length, "reflect")[None] for length in (height, width)
    )
    out = torch.empty(pixels.shape, device=images.device)
    for part in chunks(pixels):
        down, across = (
            (weights[part] * factor).float()[:, None].expand(-1, length, -1) for length, factor in ((height, 1.0), (width, scale))
        )
        rows = weighted(pixels[part].float(), y, down).view(-1, height, width, channels)
        columns = weighted(rows.transpose(1, 2), x, across).view(-1, width, height, channels)
        torch.clamp(columns.transpose(1, 2), 0, 1, out=out[part])
    return on_color(images, out.permute(0, 3, 1, 2))


def _gaussian(sigma: Tensor) -> Tensor:
    """Weights [B, 2R + 1] float64 that sum to 1; R is the largest reach in the batch, and what is beyond an image's own weighs nothing."""
    own = np.maximum(sigma.double().cpu().numpy(), 1e-6)[:, None]
    reach = np.where(own > 1e-6, np.ceil(REACH * own), 0)
    away = np.arange(reach.max(initial=0) + 1)
    side = np.where(away <= reach, np.exp(-0.5 * (away / own) ** 2), 0.0)  # NumPy's rounds alike in arrays of any length
    total = 2 * side.cumsum(axis=1)[:, -1:] - 1  # one after the other: zeros that only a larger batch has must not change the rounding
    return torch.from_numpy(np.concatenate([side[:, :0:-1], side], axis=1) / total)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Images moved by `factor` [B] from their smoothed selves: 0 is smooth, 1 the image, more is sharper.

    Smoothed by (1 1 1, 1 5 1, 1 1 1) / 13, the outermost pixels stay, as Pillow does; clamped.
    """
    pixels = images[:, :3].permute(0, 2, 3, 1)
    n, height, width, channels = pixels.shape
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    box = ((1 - factor.double()) / 13 * scale).float().to(images.device)[:, None, None]
    own = ((factor.double() * 9 + 4) / 13 * scale).float().to(images.device)[:, None, None]
    out = torch.empty((n, height, width * channels), device=images.device)
    for part in chunks(pixels):
        lines = pixels[part].float().reshape(-1, height, width * channels)
        middle = slice(channels, -channels)
        three = lines[:, :-2] + lines[:, 1:-1]
        three += lines[:, 2:]
        around = three[..., : -2 * channels] + three[..., middle]
        around += three[..., 2 * channels :]
        torch.mul(lines, scale, out=out[part])
        out[part, 1:-1, middle] = (lines[:, 1:-1, middle] * own[part]).addcmul_(around, box[part])
        out[part].clamp_(0, 1)
    return on_color(images, out.view(n, height, width, channels).permute(0, 3, 1, 2))


# ---- parts ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Blur(Ranged, Chosen):
    """Blurs a share `p` of the images by a Gaussian whose standard deviation, in pixels, is drawn evenly from `sigma`.

    blur(2) is blur((0, 2)).

    Helps: photos out of focus or of mixed resolution; contrastive learning.
    Hurts: small images, and whenever fine texture is the answer.
    Cost: two passes, longer the larger sigma is; among the dearer ops.
    Source: Chen et al. 2020, A simple framework for contrastive learning (p 0.5, sigma 0.1 to 2 for 224 pixels).
    """

    sigma: tuple[Sigma, Sigma] = (0.1, 2.0)
    p: Share = 0.5

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return blur(images, drawn(chance.at("sigma"), self.sigma))


@dataclasses.dataclass(frozen=True)
class Sharpness(Ranged, Chosen):
    """Smooths (below 1) or sharpens (above 1) a share `p` of the images by a factor drawn evenly from its range; 1 changes nothing.

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
        return sharpness(images, drawn(chance.at("factor"), self.factor))
