"""Noise on the pixels."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from goodfit.augment.gather import float_dtype, iterate_chunks
from goodfit.augment.traits import RandomApply, RangedAugment, draw_from_range, keep_alpha
from goodfit.core.chance import Chance
from goodfit.core.settings import NonNegative, Share


@dataclasses.dataclass(frozen=True)
class Noise(RangedAugment, RandomApply):
    """Adds normal noise to every value of a share `p` of the images; each image's standard deviation is drawn uniformly from `std`.

    noise(0.2) is noise((0, 0.2)). Values are on a scale of 0 to 1 and clamped. Alpha, the fourth channel, gets no noise.

    Helps: grainy photos and sensors; models that lean on single pixels.
    Hurts: small and faint detail; strong noise makes a model blind to texture.
    Cost: a random number for every value: one of the more expensive ops.
    Source: Bishop 1995, Training with noise is equivalent to Tikhonov regularization.
    """

    std: tuple[NonNegative, NonNegative] = (0.0, 0.1)
    p: Share = 0.5

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return add_noise(images, draw_from_range(chance.at("std"), self.std), chance.at("pixels"))


def add_noise(images: Tensor, std: Tensor, chance: Chance) -> Tensor:
    """Add normal noise of standard deviation `std` [B] to images [B, C, H, W], uint8 or float, except alpha; return float 0..1, clamped."""
    pixels = images[:, :3].permute(0, 2, 3, 1).contiguous()
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    out = torch.empty(pixels.shape, dtype=float_dtype(images), device=images.device)
    places, std = chance.places.to(images.device), std.float().to(images.device)[:, None]
    for chunk in iterate_chunks(pixels):
        rows = pixels[chunk].reshape(len(places[chunk]), -1)
        values = draw_normals(Chance(chance.key, places[chunk]), rows.shape[1]).mul_(std[chunk])
        out[chunk] = values.to(out.dtype).add_(rows, alpha=scale).clamp_(0, 1).view(out[chunk].shape)
    return keep_alpha(images, out.permute(0, 3, 1, 2))


def draw_normals(chance: Chance, n: int) -> Tensor:
    """Draw noise, float32 [B, n] of mean 0 and standard deviation 1, from 65,536 evenly spaced quantiles of the normal distribution.

    One hash gives four numbers, which is several times as fast as exact ones; the largest is 4.3.
    """
    bits = chance.bits(-(-n // 4)).view(torch.int16)
    table = _normal_quantiles().to(bits.device)
    return table.index_select(0, bits.int().add_(1 << 15).view(-1)).view(bits.shape)[:, :n]


@functools.cache
def _normal_quantiles() -> Tensor:
    values: Tensor = torch.special.ndtri((torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16))
    return (values / values.std(correction=0)).float()
