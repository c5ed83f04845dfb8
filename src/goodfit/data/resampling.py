"""What preprocessing makes of decoded pixels, Pillow's resize included, bit for bit in torch operations that an exported graph can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import PIL
import torch
from torch import Tensor

from goodfit.data.preprocess import Preprocess
from goodfit.data.scaled import LONGEST, frame_of

WHOLE = 2**22  # the weight of a whole pixel: Pillow's weights are whole numbers
SHARP, SOFT = 0.5400000214576721, 0.46000000834465027  # 0.54 and 0.46 in float32, as Pillow has them
HAMMING, BICUBIC = 1, 2  # how far the filters reach
TALL_ONES_DOWN_FIRST = int(PIL.__version__.partition(".")[0]) >= 13  # before it, all went across first

Passes = Callable[[Tensor, Tensor, Tensor], Tensor]  # (pixels, weights down, weights across) -> pixels


class Region(NamedTuple):
    """`pixels` output pixels are made of the input from `start` to `end`; the picture begins with number `first`, and one that is not made
    is black. Numbers for height and width, float64 [2].
    """

    start: Tensor
    end: Tensor
    pixels: Tensor
    first: Tensor


def windows(preprocess: Preprocess, images: Tensor, scale: int, places: Sequence[tuple[float, float]]) -> Tensor:
    """The windows of the model's size at `places` (as `augment.views.View` has them) in what `picture` makes of images uint8 [B, H, W, C]
    at a scale: uint8 [P, B, C, h, w]. H and W may be any, also unknown yet, as in a graph that is traced.
    """
    extent = torch.stack([torch.scalar_tensor(side, dtype=torch.float64) for side in images.shape[1:3]])
    frame, region = framed(preprocess, extent, scale)
    size, shares = (torch.tensor(x, dtype=torch.float64) for x in (preprocess.size, tuple(places)))
    return resized(images, region, region.first + torch.floor(shares * (frame - size)), extent, preprocess.size)


# ---- where: `Preprocess.decode` and `picture` in tensors ---------------------------------------------------------------------------


def framed(preprocess: Preprocess, extent: Tensor, scale: int) -> tuple[Tensor, Region]:
    """The (height, width) [2] of the picture at a scale of images of (height, width) `extent` [2], and the region it is made of."""
    how = {"crop": cropped, "pad": padded, "stretch": stretched}[preprocess.aspect]
    box = torch.tensor(frame_of(preprocess.size, scale) if scale else preprocess.box, dtype=torch.float64)
    if not scale or preprocess.aspect != "crop":
        return box, how(box, extent)
    whole = torch.maximum(box, torch.round(extent * (box / extent).max()))
    most = LONGEST * box.max()
    frame, long = whole.minimum(most), (whole > most).any()
    both = zip(cropped(frame, extent), stretched(frame, extent), strict=True)
    return frame, Region(*(torch.where(long, middle, everything) for middle, everything in both))


def cropped(box: Tensor, extent: Tensor) -> Region:
    """The largest centered part of the box's shape."""
    across = box / (box / extent).max()
    start = ((extent - across) / 2).clamp(min=0)
    return Region(start, torch.minimum(extent, start + across), box, torch.zeros_like(box))


def stretched(box: Tensor, extent: Tensor) -> Region:
    """The whole image, out of shape."""
    return Region(torch.zeros_like(box), extent, box, torch.zeros_like(box))


def padded(box: Tensor, extent: Tensor) -> Region:
    """The whole image in the middle of the box."""
    pixels = torch.round(extent * (box / extent).min()).clamp(min=1)
    return Region(torch.zeros_like(box), extent, pixels, -torch.floor((box - pixels) / 2))


# ---- how: Pillow's libImaging/Resample.c -------------------------------------------------------------------------------------------


def resized(images: Tensor, region: Region, firsts: Tensor, extent: Tensor, size: tuple[int, int]) -> Tensor:
    """What `image.resize` makes of a region of images uint8 [B, H, W, C], and of that the windows of `size` that begin with the pixels
    `firsts` [P, 2]: uint8 [P, B, C, h, w]; by Pillow's Hamming filter if no side grows, else by its bicubic one. With alpha (C = 4) the
    colors are multiplied by it meanwhile, unless nothing is resized.

    Whole numbers below 2^53 are exact in float64, so the products of matrices are Pillow's sums.
    """
    shrinks = (region.pixels <= region.end - region.start).all()
    down, across = (
        weights(region.start[i], region.end[i], region.pixels[i], firsts[:, i], images.shape[1 + i], size[i], shrinks)[:, None, None]
        for i in (0, 1)
    )
    pixels = images.permute(0, 3, 1, 2).double()
    alpha, untouched = images.shape[3] == 4, (region.pixels == extent).all()
    if alpha:
        pixels = torch.where(untouched, pixels, multiplied(pixels))
    lost = extent - region.pixels
    down_first = (lost[0] > 0) & (lost[0] > 2 * lost[1]) & TALL_ONES_DOWN_FIRST
    pixels = either(down_first, down_then_across, across_then_down, (pixels, down, across))
    if alpha:
        pixels = torch.where(untouched, pixels, divided(pixels))
    return pixels.to(torch.uint8)


def across_then_down(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Pixels [B, C, H, W] resized by weights [P, 1, 1, h, H] and [P, 1, 1, w, W], row by row first, as Pillow does."""
    return eight_bits(down @ eight_bits(pixels @ across.transpose(3, 4)))


def down_then_across(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The same, column by column first: as Pillow does where the height loses more than twice as many pixels as the width."""
    return eight_bits(eight_bits(down @ pixels) @ across.transpose(3, 4))


def either(test: Tensor, one: Passes, other: Passes, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """What `one` makes of what is given if the test is true, else what the other does; in a graph both are there, and one of them runs."""
    if torch.compiler.is_exporting():
        made: Tensor = torch.cond(test, one, other, given)
        return made
    return (one if test else other)(*given)


def weights(start: Tensor, end: Tensor, pixels: Tensor, firsts: Tensor, extent: int, length: int, shrinks: Tensor) -> Tensor:
    """For one side the weight of each of `extent` input pixels in each of the `length` output pixels from `firsts` [P] on, whole numbers of
    1 / WHOLE: float64 [P, length, extent]. A side that keeps its pixels gets the identity.
    """
    start, end = start.float(), end.float()  # Pillow has its regions in float32
    scale = (end - start).double() / pixels
    widened = scale.clamp(min=1)
    reach = torch.where(shrinks, HAMMING, BICUBIC) * widened
    number = torch.arange(length, dtype=torch.float64)[:, None] + firsts[:, None, None]
    center = start.double() + (number + 0.5) * scale
    pixel = torch.arange(extent, dtype=torch.float64)
    inside = (pixel >= torch.floor(center - reach + 0.5)) & (pixel < torch.floor(center + reach + 0.5))
    x = ((pixel - center + 0.5) * (1 / widened)).abs()
    found = torch.where(inside & (number >= 0) & (number < pixels), torch.where(shrinks, hamming(x), bicubic(x)), 0.0)
    total = found.sum(2, keepdim=True)
    shares = found / torch.where(total == 0, 1.0, total) * WHOLE
    return torch.where(shares < 0, torch.ceil(shares - 0.5), torch.floor(shares + 0.5))


def hamming(x: Tensor) -> Tensor:
    """sinc times a Hamming window for x from 0, up to 1; its cosine is said as a sine, which runtimes know in float64."""
    angle = x * math.pi
    wave = torch.sin(angle) / torch.where(x == 0, 1.0, angle) * (SHARP + SOFT * (1 - 2 * torch.sin(angle / 2).square()))
    return torch.where(x == 0, 1.0, torch.where(x < 1, wave, 0.0))


def bicubic(x: Tensor) -> Tensor:
    """The cubic with a = -0.5 for x from 0, up to 2."""
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def eight_bits(sums: Tensor) -> Tensor:
    """Sums of pixels times weights, rounded to 0..255."""
    return torch.floor((sums + WHOLE // 2) / WHOLE).clamp(0, 255)


def multiplied(pixels: Tensor) -> Tensor:
    """Colors and alpha [..., 4, H, W] with the colors multiplied by it, rounded."""
    colors, alpha = pixels[..., :3, :, :], pixels[..., 3:, :, :]
    product = colors * alpha + 128
    return torch.cat([torch.floor((torch.floor(product / 256) + product) / 256), alpha], dim=-3)


def divided(pixels: Tensor) -> Tensor:
    """The colors [..., 4, H, W] before they were `multiplied`, as far as they are known."""
    colors, alpha = pixels[..., :3, :, :], pixels[..., 3:, :, :]
    known = torch.floor(255 * colors / alpha.clamp(min=1)).clamp(max=255)
    return torch.cat([torch.where((alpha == 0) | (alpha == 255), colors, known), alpha], dim=-3)
