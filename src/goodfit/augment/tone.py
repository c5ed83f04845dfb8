"""Tone ops, which map each of the 256 levels of a channel to another: gamma, posterize, solarize, autocontrast and equalize."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from goodfit.augment.gather import iterate_chunks
from goodfit.augment.traits import RandomApply, RangedAugment, draw_from_range, keep_alpha
from goodfit.core.chance import Chance
from goodfit.core.settings import Positive, Range, Share

Bits = Annotated[int, Range(1, 8)]

# ---- images [B, C, H, W], uint8 or float, each with its own magnitude --------------------------------------------------------------
# Float images are rounded to the nearest of 256 levels, and stay float; alpha, the fourth channel, is left alone.


def adjust_gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise values (0 to 1) to the power of `exponent` [B]."""
    levels = torch.linspace(0, 1, 256, dtype=torch.float64)
    table = (levels ** exponent.double().cpu()[:, None] * 255).round_().to(torch.uint8).to(images.device)
    return _apply_on_levels(images, lambda pixels: look_up(pixels, table))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep only the `bits` [B] highest of the 8 bits of each value, as Pillow does."""
    mask = (256 - 2 ** (8 - bits.long())).to(torch.uint8).to(images.device)[:, None, None, None]
    return _apply_on_levels(images, lambda pixels: pixels & mask)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values from `threshold` [B] on, as Pillow does: whole levels, 0 inverts everything and 256 nothing."""
    first, inverts_nothing = threshold.round().clamp(max=255).to(torch.uint8), threshold.round() > 255
    mask = torch.where(inverts_nothing, 0, 255).to(torch.uint8)
    first, mask = (x.to(images.device)[:, None, None, None] for x in (first, mask))
    # into bytes: comparing to bool is ten times as slow
    return _apply_on_levels(images, lambda pixels: torch.ge(pixels, first, out=torch.empty_like(pixels)).mul_(mask).bitwise_xor_(pixels))


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel so that its lowest level becomes 0 and its highest 255, as Pillow does."""

    def stretch_levels(lines: Tensor, index: Tensor, channels: int) -> Tensor:
        values = lines.float()  # floats, reduced over whole lines first, are several times as fast
        low, high = (f(f(values, 1).view(len(values), -1, channels), 1).double()[..., None] for f in (torch.amin, torch.amax))
        levels = torch.arange(256, dtype=torch.float64, device=lines.device)
        scale = 255 / (high - low)
        return torch.where(high > low, levels * scale + -low * scale, levels).clamp_(0, 255)

    return _apply_on_levels(images, lambda pixels: look_up(pixels, stretch_levels))


def equalize(images: Tensor) -> Tensor:
    """Spread each channel's levels so that all are about equally frequent, as Pillow does.

    Pillow leaves images of fewer than 256 pixels unchanged; here they are spread by the same formula without its rounded step.
    """
    count = images.shape[2] * images.shape[3]
    is_small, dtype = count < 256, torch.float32 if count < 1 << 22 else torch.float64  # precise enough for floor() of every quotient

    def equalize_levels(lines: Tensor, index: Tensor, channels: int) -> Tensor:
        one = torch.ones((), dtype=torch.int32, device=index.device)
        counts = torch.zeros((len(index), channels * 256), dtype=torch.int32, device=index.device)
        counts = counts.scatter_add_(1, index, one.expand(index.shape)).view(-1, channels, 256).to(dtype)
        total = counts.cumsum(-1)
        below, less = total - counts, torch.lt(total, total[..., -1:], out=torch.empty_like(total))
        spread = less.mul_(total).amax(-1, keepdim=True)  # all but those of the highest level that occurs
        step = (spread / 255).floor_()
        is_spread = spread.clamp(max=1) if is_small else step.clamp(max=1)
        table = below * 255 / spread.clamp(min=1) if is_small else (below + (step / 2).floor_()) / step.clamp(min=1)
        levels = torch.arange(256, dtype=dtype, device=index.device).expand_as(table)
        return torch.lerp(levels, table.floor_().clamp_(max=255), is_spread)  # one or the other; `where` is slower

    return _apply_on_levels(images, lambda pixels: look_up(pixels, equalize_levels))


# ---- tables --------------------------------------------------------------------------------------------------------------------

TableFunction = Callable[[Tensor, Tensor, int], Tensor]


def look_up(pixels: Tensor, tables: Tensor | TableFunction) -> Tensor:
    """Map uint8 images [B, C, H, W] through tables: one for each image, [B, 256] uint8, or one for each of its channels.

    Tables of channels are computed from the pixels, some images at a time: `tables` is called with lines [K, H, W * C] uint8, the index of
    each pixel in its image's tables laid end to end, [K, H * W * C] int64, and C; it returns [K, C, 256], whose fractions are cut.
    """
    n, channels, height, width = pixels.shape
    lines = pixels.permute(0, 2, 3, 1).contiguous().view(n, height, width * channels)
    out = torch.empty_like(lines)
    starts = (torch.arange(channels, dtype=torch.int32, device=pixels.device) * 256).repeat(width)
    buffer = torch.empty(0, dtype=torch.int64, device=pixels.device)
    for chunk in iterate_chunks(lines):
        buffer = buffer if len(buffer) else torch.empty(lines[chunk].shape, dtype=torch.int64, device=pixels.device)
        positions = lines[chunk] if isinstance(tables, Tensor) else lines[chunk].int().add_(starts)
        index = buffer[: len(positions)].copy_(positions).flatten(1)
        table = tables[chunk] if isinstance(tables, Tensor) else tables(lines[chunk], index, channels).to(torch.uint8).flatten(1)
        torch.gather(table, 1, index, out=out[chunk].view(index.shape))
    return out.view(n, height, width, channels).permute(0, 3, 1, 2)


def _apply_on_levels(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a change of uint8 colors to images [B, C, H, W], uint8 or float."""
    color = images[:, :3]
    if images.dtype == torch.uint8:
        return keep_alpha(images, change(color))
    return keep_alpha(images, change((color * 255).round_().to(torch.uint8)).to(color.dtype).div_(255))


# ---- parts ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gamma(RangedAugment, RandomApply):
    """Raises values (0 to 1) to a power drawn uniformly from `exponent`: below 1 brightens shadows, above 1 darkens them.

    gamma(0.3) is gamma((0.7, 1.3)). A share 1 - p of the images stays as it is.

    Helps: when exposure or the camera's tone curve differ; black and white do not change, where brightness would clip.
    Hurts: when how bright it is tells the classes apart.
    Cost: a table of 256 levels for each image.
    Source: Poynton 1998, The rehabilitation of gamma.
    """

    neutral: ClassVar[float | None] = 1.0
    exponent: tuple[Positive, Positive] = (0.7, 1.4)
    p: Share = 1.0
    keeps_uint8: ClassVar[bool] = True

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return adjust_gamma(images, draw_from_range(chance, self.exponent))


@dataclasses.dataclass(frozen=True)
class Posterize(RangedAugment, RandomApply):
    """Keeps only the highest bits of each value in a share `p` of the images; how many is drawn uniformly from `bits`, both ends included.

    posterize(4) is posterize((4, 4)).

    Helps: when fine shades mean nothing; in policies.
    Hurts: few bits on small images; when shades are the answer.
    Cost: almost none.
    Source: Cubuk et al. 2019, AutoAugment.
    """

    neutral: ClassVar[float | None] = None
    bits: tuple[Bits, Bits] = (3, 7)
    p: Share = 0.5
    keeps_uint8: ClassVar[bool] = True

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return posterize(images, chance.at("bits").integers(self.bits[0], self.bits[1] + 1))


@dataclasses.dataclass(frozen=True)
class Solarize(RangedAugment, RandomApply):
    """Inverts the values at or above a threshold in a share `p` of the images; the threshold is drawn uniformly from its range, 0 to 1.

    solarize(0.5) is solarize((0.5, 0.5)).

    Helps: when outlines matter more than what is bright and what is dark; in policies.
    Hurts: when bright and dark tell the classes apart, as in most scans.
    Cost: almost none.
    Source: Cubuk et al. 2019, AutoAugment; Grill et al. 2020, Bootstrap your own latent (p 0.2, threshold 0.5).
    """

    neutral: ClassVar[float | None] = None
    threshold: tuple[Share, Share] = (0.5, 0.5)
    p: Share = 0.2
    keeps_uint8: ClassVar[bool] = True

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return solarize(images, draw_from_range(chance.at("threshold"), self.threshold) * 256)


@dataclasses.dataclass(frozen=True)
class Autocontrast(RandomApply):
    """Stretches each channel of a share `p` of the images to the whole range, its lowest value to 0 and its highest to 1.

    Helps: when light and haze differ between photos of the same thing.
    Hurts: little; the color of the light is lost, as each channel is stretched by itself.
    Cost: one pass for the ends and a table of 256 levels for each channel.
    Source: Cubuk et al. 2019, AutoAugment.
    """

    p: Share = 0.5
    keeps_uint8: ClassVar[bool] = True

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return autocontrast(images)


@dataclasses.dataclass(frozen=True)
class Equalize(RandomApply):
    """Spreads the levels of each channel of a share `p` of the images so that all are about equally frequent.

    Helps: when light and contrast differ a lot, as in scans and microscopy.
    Hurts: it strengthens noise in flat regions, and changes colors.
    Cost: one pass for the histogram and a table of 256 levels for each channel.
    Source: Cubuk et al. 2019, AutoAugment.
    """

    p: Share = 0.5
    keeps_uint8: ClassVar[bool] = True

    def change(self, images: Tensor, chance: Chance) -> Tensor:
        return equalize(images)
