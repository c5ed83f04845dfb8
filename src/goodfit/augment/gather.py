"""Gather: flips and whole-pixel shifts, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.augment.chunks import chunks
from goodfit.augment.maps import Border, Frame


def gather(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Tensor:
    """Flips and whole-pixel shifts [B, 2, 3] of pixels [B, H, W, C] -> [B, h, w, C], same dtype; beyond "mean" is `color` [C] in 0..1.

    Each output row is a stretch of an input row, so rows are gathered whole, from any pixel on; mirrored images are then turned round.
    """
    n, height, width, channels = pixels.shape
    whole = matrix.round().long()
    turn, offset = torch.stack([whole[:, 0, 0], whole[:, 1, 1]], dim=1), whole[:, :, 2]
    ends = offset, offset + turn * torch.tensor([size[1] - 1, size[0] - 1])
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    (left, top), (right, bottom) = low.amin(dim=0).tolist(), high.amax(dim=0).tolist()
    before, after, inside = max(0, -left), max(0, right + 1 - width), top >= 0 and bottom < height
    beyond = torch.zeros_like(color) if border == "zero" else color
    beyond = beyond if pixels.is_floating_point() else (beyond * 255).round().to(pixels.dtype)
    if before or after:
        pixels = _widened(pixels, before, after, border, beyond)
    full = width + before + after
    y = turn[:, 1:] * torch.arange(size[0]) + offset[:, 1:]
    rows = y if inside else bordered(y, height, border)
    starts = rows * full + (torch.arange(n) * (height * full) + low[:, 0] + before)[:, None]
    stretches = pixels.as_strided((n * height * full - size[1] + 1, size[1] * channels), (channels, 1))
    out = stretches.index_select(0, starts.flatten().to(pixels.device)).view(n, *size, channels)
    mirrored = (turn[:, 0] < 0).nonzero()[:, 0].to(pixels.device)
    for part in chunks(out[: len(mirrored)]):
        turned = out.index_select(0, mirrored[part]).flip(2)
        words(out).index_copy_(0, mirrored[part], words(turned))
    if border in ("zero", "mean") and not inside:
        out.view(-1, size[1] * channels)[((y < 0) | (y >= height)).flatten().to(out.device)] = beyond.repeat(size[1])
    return out


def unit(pixels: Tensor) -> Tensor:
    """Pixels as float 0..1."""
    return pixels.div(255) if pixels.dtype == torch.uint8 else pixels


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
