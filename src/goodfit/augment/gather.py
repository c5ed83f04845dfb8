"""Exact gathers of pixels: flips, whole-pixel shifts and other slices of rows; and the tools that all readers of pixels share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from goodfit.augment.coordinate_map import Border, Frame

MAX_CHUNK_VALUES = 1 << 18  # floats in a chunk of images (1 MB), so that they stay in the cache and their memory is used again


def gather_pixels(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Tensor:
    """Apply flips and whole-pixel shifts [B, 2, 3] to pixels [B, H, W, C] -> [B, h, w, C], same dtype.

    `color` [C] in 0..1 lies beyond the image for the border "mean". Each output row is a slice of an input row, so rows are gathered whole,
    from any pixel on; mirrored images are then reversed.
    """
    whole = matrix.round().long()
    scale, offset = torch.stack([whole[:, 0, 0], whole[:, 1, 1]], dim=1), whole[:, :, 2]
    y = scale[:, 1:] * torch.arange(size[0]) + offset[:, 1:]
    left = torch.minimum(offset[:, 0], offset[:, 0] + scale[:, 0] * (size[1] - 1))
    beyond = torch.zeros_like(color) if border == "zero" else color
    beyond = (beyond if pixels.is_floating_point() else (beyond * 255).round()).to(pixels.dtype)
    out = gather_row_slices(pixels, y, left[:, None].expand(y.shape), size[1], border, beyond)
    mirrored = (scale[:, 0] < 0).nonzero()[:, 0].to(pixels.device)
    for chunk in iterate_chunks(out[: len(mirrored)]):
        reversed_rows = out.index_select(0, mirrored[chunk]).flip(2)
        copy_images(out, mirrored[chunk], reversed_rows)
    return out


def gather_row_slices(pixels: Tensor, y: Tensor, x: Tensor, width: int, border: Border, beyond: Tensor) -> Tensor:
    """Gather slices of rows, each `width` pixels of row `y` from column `x` on.

    Pixels [B, H, W, C], y and x int64 [B, h] -> [B, h, width, C]. `beyond` [C] lies outside the image for the borders "zero" and "mean".
    """
    n, height, own_width, channels = pixels.shape
    is_filled = border in ("zero", "mean")
    if is_filled:
        x = x.clamp(-width, own_width)  # further out there is nothing else
    before, after = max(0, -int(x.min())), max(0, int(x.max()) + width - own_width)
    if before or after:
        pixels = _pad_columns(pixels, before, after, border, beyond)
    padded_width = own_width + before + after
    starts = apply_border(y, height, border) * padded_width + x + (torch.arange(n) * (height * padded_width) + before)[:, None]
    windows = pixels.as_strided((n * height * padded_width - width + 1, width * channels), (channels, 1))  # one from every pixel on
    out = windows.index_select(0, starts.flatten().to(pixels.device))
    if is_filled and (int(y.min()) < 0 or int(y.max()) >= height):
        out[((y < 0) | (y >= height)).flatten().to(out.device)] = beyond.repeat(width)
    return out.view(*y.shape, width, channels)


def _pad_columns(pixels: Tensor, before: int, after: int, border: Border, beyond: Tensor) -> Tensor:
    """Add columns to both sides of pixels [B, H, W, C]."""
    n, height, width, channels = pixels.shape
    if border in ("zero", "mean"):
        added = [beyond.expand(n, height, count, channels) for count in (before, after)]
        return torch.cat([added[0], pixels, added[1]], dim=2)
    columns = apply_border(torch.cat([torch.arange(-before, 0), torch.arange(width, width + after)]), width, border).tolist()
    slices = [pixels[:, :, column : column + 1] for column in columns]
    return torch.cat([*slices[:before], pixels, *slices[before:]], dim=2)


# ---- shared tools --------------------------------------------------------------------------------------------------------------


def iterate_chunks(images: Tensor) -> Iterator[slice]:
    """Yield slices that cover the first dimension of a batch: a few images at a time on a CPU, all at once on other devices."""
    n = len(images)
    step = max(1, MAX_CHUNK_VALUES // max(images[0].numel(), 1)) if n and images.device.type == "cpu" else max(n, 1)
    for start in range(0, n, step):
        yield slice(start, start + step)


def apply_border(index: Tensor, n: int, border: Border) -> Tensor:
    """Map int64 positions on an axis of length n to indices in 0..n-1; for "zero" and "mean" those outside are merely clamped."""
    if border == "reflect" and n > 1:
        index = index.remainder(2 * n - 2)
        return torch.minimum(index, 2 * n - 2 - index)
    return index.clamp(0, n - 1)


def to_unit_range(pixels: Tensor) -> Tensor:
    """Convert pixels to float 0..1."""
    return pixels.div(255) if pixels.dtype == torch.uint8 else pixels


def float_dtype(pixels: Tensor) -> torch.dtype:
    """The type in which pixels are computed with: their own where that is a float, else float32."""
    return pixels.dtype if pixels.is_floating_point() else torch.float32


def to_bytes(values: Tensor) -> Tensor:
    """Convert floats from 0 to below 256 to uint8, cutting their fractions; by way of int16, which is three times as fast as directly."""
    return values.to(torch.int16).to(torch.uint8)


def copy_images(out: Tensor, rows: Tensor, images: Tensor) -> None:
    """Copy images [K, h, w, C] into rows [K] of `out` [B, h, w, C], as the largest numbers they divide into: few are fast to copy.

    Images that a gradient is asked of are copied as what they are, for backward sees no other numbers.
    """
    to, values = out.view(len(out), -1), images.view(len(images), -1)
    if values.shape[1] * values.element_size() % 8 == 0 and not (out.requires_grad or images.requires_grad):
        to, values = to.view(torch.int64), values.view(torch.int64)
    to.index_copy_(0, rows, values)
