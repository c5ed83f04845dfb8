"""Noise on the pixels."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from goodfit.augment.chosen import Chosen, on_color
from goodfit.augment.chunks import chunks
from goodfit.augment.ranges import Ranged, drawn
from goodfit.core.chance import Chance
from goodfit.core.settings import NonNegative, Share


@dataclasses.dataclass(frozen=True)
class Noise(Ranged, Chosen):
    """Adds normal noise to every value of a share `p` of the images, each of its own standard deviation, drawn evenly from `std`.

    noise(0.2) is noise((0, 0.2)). The values are on a scale of 0 to 1 and clamped. Alpha, the fourth channel, has none.

    Helps: grainy photos and sensors; models that lean on single pixels.
    Hurts: small and faint detail; strong noise makes a model blind to texture.
    Cost: a random number for every value: among the dearer ops.
    Source: Bishop 1995, Training with noise is equivalent to Tikhonov regularization.
    """

    std: tuple[NonNegative, NonNegative] = (0.0, 0.1)
    p: Share = 0.5

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return noisy(images, drawn(chance.at("std"), self.std), chance.at("pixels"))


def noisy(images: Tensor, std: Tensor, chance: Chance) -> Tensor:
    """Images [B, C, H, W], uint8 or float, plus normal noise of standard deviation `std` [B], as float 0..1, clamped; alpha has none."""
    pixels = images[:, :3].permute(0, 2, 3, 1).contiguous()
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    out = torch.empty(pixels.shape, device=images.device)
    places, spread = chance.places.to(images.device), std.float().to(images.device)[:, None]
    for part in chunks(pixels):
        rows = pixels[part].reshape(len(places[part]), -1)
        values = normals(Chance(chance.key, places[part]), rows.shape[1]).mul_(spread[part])
        torch.clamp(values.add_(rows, alpha=scale), 0, 1, out=out[part].view(rows.shape))
    return on_color(images, out.permute(0, 3, 1, 2))


def normals(chance: Chance, n: int) -> Tensor:
    """float32 [B, n] of mean 0 and standard deviation 1, for noise: the quantiles of the normal distribution at 65,536 even places.

    A hash gives four of them, which is several times as fast as exact ones; the largest is 4.3.
    """
    bits = chance.bits(-(-n // 4)).view(torch.int16)
    table = _quantiles().to(bits.device)
    return table.index_select(0, bits.int().add_(1 << 15).view(-1)).view(bits.shape)[:, :n]


@functools.cache
def _quantiles() -> Tensor:
    values: Tensor = torch.special.ndtri((torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16))
    return (values / values.std(correction=0)).float()
