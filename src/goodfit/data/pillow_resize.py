"""Preprocessing of decoded pixels, Pillow's resize included, bit for bit in torch operations that an exported graph can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import PIL
import torch
from torch import Tensor

from goodfit.data.multiscale import MAX_ASPECT_RATIO, frame_size
from goodfit.data.preprocess import Preprocess

WEIGHT_SCALE = 2**22  # Pillow's weights are integers: this one stands for 1
HAMMING_A, HAMMING_B = 0.5400000214576721, 0.46000000834465027  # 0.54 and 0.46 in float32, as in Pillow
HAMMING_SUPPORT, BICUBIC_SUPPORT = 1, 2  # the filters' radius in pixels
RESIZES_TALL_IMAGES_VERTICALLY_FIRST = int(PIL.__version__.partition(".")[0]) >= 13  # earlier Pillows begin horizontally always

Passes = Callable[[Tensor, Tensor, Tensor], Tensor]  # (pixels, vertical weights, horizontal weights) -> pixels


class Region(NamedTuple):
    """The input from `start` to `end` becomes `pixels` output pixels; the picture begins at output pixel `first`, and what lies outside of
    the output pixels is black. Each is float64 [2], for height and width.
    """

    start: Tensor
    end: Tensor
    pixels: Tensor
    first: Tensor


def resize_windows(preprocess: Preprocess, images: Tensor, scale: int, places: Sequence[tuple[float, float]]) -> Tensor:
    """Compute windows of the model's size, at `places` (as in `augment.views.View`), in what `decode_scaled` makes of images
    uint8 [B, H, W, C] at a scale: uint8 [P, B, C, h, w]. H and W may be symbolic, as in a graph that is being traced.
    """
    extent = torch.stack([torch.scalar_tensor(side, dtype=torch.float64) for side in images.shape[1:3]])
    frame, region = choose_region(preprocess, extent, scale)
    size, shares = (torch.tensor(x, dtype=torch.float64) for x in (preprocess.size, tuple(places)))
    return resize_region(images, region, region.first + torch.floor(shares * (frame - size)), extent, preprocess.size)


# ---- regions: `Preprocess.decode` and `decode_scaled` in tensors --------------------------------------------------------------------


def choose_region(preprocess: Preprocess, extent: Tensor, scale: int) -> tuple[Tensor, Region]:
    """Choose the (height, width) [2] of the picture at a scale of images of (height, width) `extent` [2], and its region of them."""
    fit = {"crop": crop_region, "pad": pad_region, "stretch": stretch_region}[preprocess.aspect]
    box = torch.tensor(frame_size(preprocess.size, scale) if scale else preprocess.box, dtype=torch.float64)
    if not scale or preprocess.aspect != "crop":
        return box, fit(box, extent)
    scaled = torch.maximum(box, torch.round(extent * (box / extent).max()))
    longest = MAX_ASPECT_RATIO * box.max()
    frame, is_too_long = scaled.minimum(longest), (scaled > longest).any()
    pairs = zip(crop_region(frame, extent), stretch_region(frame, extent), strict=True)
    return frame, Region(*(torch.where(is_too_long, cropped, stretched) for cropped, stretched in pairs))


def crop_region(box: Tensor, extent: Tensor) -> Region:
    """The largest centered part in the box's proportions."""
    covered = box / (box / extent).max()
    start = ((extent - covered) / 2).clamp(min=0)
    return Region(start, torch.minimum(extent, start + covered), box, torch.zeros_like(box))


def stretch_region(box: Tensor, extent: Tensor) -> Region:
    """The whole image, in the box's proportions."""
    return Region(torch.zeros_like(box), extent, box, torch.zeros_like(box))


def pad_region(box: Tensor, extent: Tensor) -> Region:
    """The whole image in the middle of the box."""
    pixels = torch.round(extent * (box / extent).min()).clamp(min=1)
    return Region(torch.zeros_like(box), extent, pixels, -torch.floor((box - pixels) / 2))


# ---- resizing: Pillow's libImaging/Resample.c -----------------------------------------------------------------------------------------


def resize_region(images: Tensor, region: Region, firsts: Tensor, extent: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a region of images uint8 [B, H, W, C] as Pillow's `image.resize` does, and return the windows of `size` that begin at the
    output pixels `firsts` [P, 2]: uint8 [P, B, C, h, w].

    The filter is Pillow's Hamming one if no side grows, else its bicubic one. With alpha (C = 4) the colors are multiplied by it
    meanwhile, unless nothing is resized. Integers below 2^53 are exact in float64, so the matrix products equal Pillow's sums.
    """
    shrinks = (region.pixels <= region.end - region.start).all()
    vertical, horizontal = (
        resize_weights(region.start[i], region.end[i], region.pixels[i], firsts[:, i], images.shape[1 + i], size[i], shrinks)[:, None, None]
        for i in (0, 1)
    )
    pixels = images.permute(0, 3, 1, 2).double()
    has_alpha, is_same_size = images.shape[3] == 4, (region.pixels == extent).all()
    if has_alpha:
        pixels = torch.where(is_same_size, pixels, premultiply_alpha(pixels))
    shrinkage = extent - region.pixels
    is_vertical_first = (shrinkage[0] > 0) & (shrinkage[0] > 2 * shrinkage[1]) & RESIZES_TALL_IMAGES_VERTICALLY_FIRST
    pixels = choose_passes(is_vertical_first, vertical_then_horizontal, horizontal_then_vertical, (pixels, vertical, horizontal))
    if has_alpha:
        pixels = torch.where(is_same_size, pixels, unpremultiply_alpha(pixels))
    return pixels.to(torch.uint8)


def horizontal_then_vertical(pixels: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Resize pixels [B, C, H, W] by weights [P, 1, 1, h, H] and [P, 1, 1, w, W], horizontally first, as Pillow usually does."""
    return round_to_8_bit(vertical @ round_to_8_bit(pixels @ horizontal.transpose(3, 4)))


def vertical_then_horizontal(pixels: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """The same, vertically first: as Pillow does if the height loses more than twice as many pixels as the width."""
    return round_to_8_bit(round_to_8_bit(vertical @ pixels) @ horizontal.transpose(3, 4))


def choose_passes(test: Tensor, if_true: Passes, if_false: Passes, arguments: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Call one of two functions, as a test says; an exported graph holds both and runs one."""
    if torch.compiler.is_exporting():
        result: Tensor = torch.cond(test, if_true, if_false, arguments)
        return result
    return (if_true if test else if_false)(*arguments)


def resize_weights(start: Tensor, end: Tensor, pixels: Tensor, firsts: Tensor, extent: int, length: int, shrinks: Tensor) -> Tensor:
    """Compute for one side the weight of each of `extent` input pixels in each of the `length` output pixels from `firsts` [P] on, as
    integers in units of 1 / WEIGHT_SCALE: float64 [P, length, extent]. A side that keeps its pixels gets the identity.
    """
    start, end = start.float(), end.float()  # Pillow has its regions in float32
    scale = (end - start).double() / pixels
    filter_scale = scale.clamp(min=1)
    support = torch.where(shrinks, HAMMING_SUPPORT, BICUBIC_SUPPORT) * filter_scale
    number = torch.arange(length, dtype=torch.float64)[:, None] + firsts[:, None, None]
    center = start.double() + (number + 0.5) * scale
    pixel = torch.arange(extent, dtype=torch.float64)
    is_inside = (pixel >= torch.floor(center - support + 0.5)) & (pixel < torch.floor(center + support + 0.5))
    x = ((pixel - center + 0.5) * (1 / filter_scale)).abs()
    weights = torch.where(is_inside & (number >= 0) & (number < pixels), torch.where(shrinks, hamming(x), bicubic(x)), 0.0)
    total = weights.sum(2, keepdim=True)
    scaled = weights / torch.where(total == 0, 1.0, total) * WEIGHT_SCALE
    return torch.where(scaled < 0, torch.ceil(scaled - 0.5), torch.floor(scaled + 0.5))


def hamming(x: Tensor) -> Tensor:
    """sinc times a Hamming window for x from 0, up to 1; its cosine is written as a sine, which runtimes support in float64."""
    angle = x * math.pi
    wave = torch.sin(angle) / torch.where(x == 0, 1.0, angle) * (HAMMING_A + HAMMING_B * (1 - 2 * torch.sin(angle / 2).square()))
    return torch.where(x == 0, 1.0, torch.where(x < 1, wave, 0.0))


def bicubic(x: Tensor) -> Tensor:
    """The cubic with a = -0.5 for x from 0, up to 2."""
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def round_to_8_bit(sums: Tensor) -> Tensor:
    """Round sums of pixels times weights to 0..255."""
    return torch.floor((sums + WEIGHT_SCALE // 2) / WEIGHT_SCALE).clamp(0, 255)


def premultiply_alpha(pixels: Tensor) -> Tensor:
    """Multiply the colors of pixels [..., 4, H, W] by their alpha, rounded."""
    colors, alpha = pixels[..., :3, :, :], pixels[..., 3:, :, :]
    product = colors * alpha + 128
    return torch.cat([torch.floor((torch.floor(product / 256) + product) / 256), alpha], dim=-3)


def unpremultiply_alpha(pixels: Tensor) -> Tensor:
    """Undo `premultiply_alpha` on pixels [..., 4, H, W], up to its rounding."""
    colors, alpha = pixels[..., :3, :, :], pixels[..., 3:, :, :]
    restored = torch.floor(255 * colors / alpha.clamp(min=1)).clamp(max=255)
    return torch.cat([torch.where((alpha == 0) | (alpha == 255), colors, restored), alpha], dim=-3)
