"""Gather: flips, whole-pixel shifts and other stretches of rows, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.augment.chunks import chunks
from goodfit.augment.maps import Border, Frame


def gather(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Tensor:
    """Flips and whole-pixel shifts [B, 2, 3] of pixels [B, H, W, C] -> [B, h, w, C], same dtype; beyond "mean" is `color` [C] in 0..1.

    Each output row is a stretch of an input row, so rows are gathered whole, from any pixel on; mirrored images are then turned round.
    """
    whole = matrix.round().long()
    turn, offset = torch.stack([whole[:, 0, 0], whole[:, 1, 1]], dim=1), whole[:, :, 2]
    y = turn[:, 1:] * torch.arange(size[0]) + offset[:, 1:]
    left = torch.minimum(offset[:, 0], offset[:, 0] + turn[:, 0] * (size[1] - 1))
    beyond = torch.zeros_like(color) if border == "zero" else color
    beyond = beyond if pixels.is_floating_point() else (beyond * 255).round().to(pixels.dtype)
    out = stretches(pixels, y, left[:, None].expand(y.shape), size[1], border, beyond)
    mirrored = (turn[:, 0] < 0).nonzero()[:, 0].to(pixels.device)
    for part in chunks(out[: len(mirrored)]):
        turned = out.index_select(0, mirrored[part]).flip(2)
        words(out).index_copy_(0, mirrored[part], words(turned))
    return out


def stretches(pixels: Tensor, y: Tensor, x: Tensor, width: int, border: Border, beyond: Tensor) -> Tensor:
    """Stretches of rows, each `width` pixels of row `y` from column `x` on: pixels [B, H, W, C], y and x int64 [B, h] -> [B, h, width, C].

    `beyond` [C] is what lies outside with "zero" and "mean".
    """
    n, height, own, channels = pixels.shape
    filled = border in ("zero", "mean")
    if filled:
        x = x.clamp(-width, own)  # further out there is nothing else
    before, after = max(0, -int(x.min())), max(0, int(x.max()) + width - own)
    if before or after:
        pixels = _widened(pixels, before, after, border, beyond)
    full = own + before + after
    starts = bordered(y, height, border) * full + x + (torch.arange(n) * (height * full) + before)[:, None]
    every = pixels.as_strided((n * height * full - width + 1, width * channels), (channels, 1))
    out = every.index_select(0, starts.flatten().to(pixels.device))
    if filled and (int(y.min()) < 0 or int(y.max()) >= height):
        out[((y < 0) | (y >= height)).flatten().to(out.device)] = beyond.repeat(width)
    return out.view(*y.shape, width, channels)


def unit(pixels: Tensor) -> Tensor:
    """Pixels as float 0..1."""
    return pixels.div(255) if pixels.dtype == torch.uint8 else pixels


def to_bytes(values: Tensor) -> Tensor:
    """Floats from 0 to below 256 as uint8, their fractions cut: by way of int16, as straight ahead takes three times as long."""
    return values.to(torch.int16).to(torch.uint8)


def bordered(index: Tensor, n: int, border: Border) -> Tensor:
    """Indices into 0..n-1 for int64 positions on an axis of length n; with "zero" and "mean" those outside are merely brought inside."""
    if border == "reflect" and n > 1:
        index = index.remainder(2 * n - 2)
        return torch.minimum(index, 2 * n - 2 - index)
    return index.clamp(0, n - 1)


def _widened(pixels: Tensor, before: int, after: int, border: Border, beyond: Tensor) -> Tensor:
    """Pixels [B, H, W, C] with columns added on both sides."""
    n, height, width, channels = pixels.shape
    if border in ("zero", "mean"):
        added = [beyond.expand(n, height, count, channels) for count in (before, after)]
        return torch.cat([added[0], pixels, added[1]], dim=2)
    columns = bordered(torch.cat([torch.arange(-before, 0), torch.arange(width, width + after)]), width, border).tolist()
    slices = [pixels[:, :, column : column + 1] for column in columns]
    return torch.cat([*slices[:before], pixels, *slices[before:]], dim=2)


def words(pixels: Tensor) -> Tensor:
    """Pixels [B, h, w, C] as rows of the largest numbers they divide into: what is copied element by element has few to copy then."""
    rows = pixels.view(len(pixels), -1)
    return rows.view(torch.int64) if rows.shape[1] * rows.element_size() % 8 == 0 else rows
