"""Resize: images read along their axes, antialiased by a triangle as wide as the scale."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from goodfit.augment.chunks import chunks
from goodfit.augment.gather import bordered, unit
from goodfit.augment.maps import Border, Frame
from goodfit.augment.taps import weighted

NEAR = 1e-9  # numbers this near to whole ones are whole
LARGE = 64 * 64  # pixels of a window from which on torch's filter for 8-bit images is the faster, one image after the other
Made = Iterator[tuple[Tensor, Tensor]]  # rows [K] of the images a way was given, and their pixels [K, h, w, C] in 0..1


def by_image(pixels: Tensor, matrix: Tensor, size: Frame) -> Tensor:
    """bool [B]: which maps [B, 2, 3] along the axes are better done by `resized` for these pixels [B, H, W, C]."""
    if pixels.dtype != torch.uint8 or pixels.device.type != "cpu" or pixels.shape[3] not in (3, 4):
        return torch.zeros(len(matrix), dtype=torch.bool)
    return _windows(matrix, size, (pixels.shape[1], pixels.shape[2]))[1]


def resized(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Made:
    """Windows of whole pixels, image by image: torch's filter for 8-bit images, which rounds to whole levels."""
    windows = _windows(matrix, size, (pixels.shape[1], pixels.shape[2]))[0].round().long().tolist()
    turned = (matrix.diagonal(dim1=1, dim2=2) < 0).tolist()
    planes = pixels.permute(0, 3, 1, 2)
    for part in chunks(pixels.new_empty((len(pixels), *size, pixels.shape[3]))):
        rows = range(len(pixels))[part]
        made = torch.empty((len(rows), *size, pixels.shape[3]), dtype=torch.uint8)
        for place, row in enumerate(rows):
            (left, right), (top, bottom) = windows[row]
            small = F.interpolate(planes[row : row + 1, :, top:bottom, left:right], size, mode="bilinear", antialias=True)
            axes = [axis for axis, flip in zip((3, 2), turned[row], strict=True) if flip]
            made[place] = (small.flip(axes) if axes else small)[0].permute(1, 2, 0)
        yield torch.tensor(rows), unit(made)


def filtered(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Made:
    """Any maps along the axes: rows first, then columns, of the window that is read."""
    channels, frame = pixels.shape[3], (pixels.shape[1], pixels.shape[2])
    windows, whole = _windows(matrix, size, frame)
    bounds = torch.where(whole[:, None, None], windows.round(), torch.tensor([[-torch.inf, torch.inf]] * 2, dtype=torch.float64))
    (y, down), (x, across) = (_taps(matrix, axis, size[1 - axis], frame[1 - axis], border, bounds[:, axis]) for axis in (1, 0))
    for part in chunks(pixels):
        top, left = int(y[part].min()), int(x[part].min())
        window = unit(pixels[part, top : int(y[part].max()) + 1, left : int(x[part].max()) + 1])
        if border == "mean":
            window = window - color
        rows = weighted(window, y[part] - top, down[part]).view(-1, size[0], window.shape[2], channels)
        columns = weighted(rows.transpose(1, 2), x[part] - left, across[part]).view(-1, size[1], size[0], channels)
        made = columns.add_(color) if border == "mean" else columns
        yield torch.arange(part.start, part.start + len(made)), made.transpose(1, 2)


def _windows(matrix: Tensor, size: Frame, frame: Frame) -> tuple[Tensor, Tensor]:
    """Where the outer edges of the output lie in the input: [B, 2, 2] of (low, high) for x and y; and whether that is a large window of
    whole pixels inside of it [B]: such a map is a crop, resized, and reads nothing beyond.
    """
    scale, offset = matrix.diagonal(dim1=1, dim2=2), matrix[:, :, 2]
    ends = torch.stack([offset - scale / 2, offset + scale * (torch.tensor(size[::-1]) - 0.5)], dim=2) + 0.5
    edges = torch.stack([ends.amin(dim=2), ends.amax(dim=2)], dim=2)
    rounded = edges.round()
    inside = (rounded[:, :, 0] >= 0) & (rounded[:, :, 1] <= torch.tensor(frame[::-1]))
    whole = (edges - rounded).abs().amax(dim=2) < 1e3 * NEAR  # they come from sums of hundreds
    return edges, (whole & inside).all(dim=1) & ((edges[:, :, 1] - edges[:, :, 0]).prod(dim=1) >= LARGE - 0.5)


def _taps(matrix: Tensor, axis: int, n: int, length: int, border: Border, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Which input positions make each of n output pixels: indices [B, n, T] int64 and weights [B, n, T] float32 summing to 1.

    The triangle reaches one input pixel, or one output pixel where that is wider (as Pillow and torch's antialias do), but not
    beyond the `bounds` [B, 2].
    """
    middle = matrix[:, axis, axis, None] * torch.arange(n, dtype=torch.float64) + matrix[:, axis, 2, None]
    reach = matrix[:, axis, axis].abs().clamp(min=1.0)[:, None]
    first = (middle - reach).ceil()
    taken = first[..., None] + torch.arange(int(2 * reach.max()) + 1, dtype=torch.float64)
    weights = (1 - (taken - middle[..., None]).abs() / reach[..., None]).clamp(min=0.0)
    low, high = bounds[:, :, None, None].unbind(1)
    weights[(taken < low) | (taken >= high)] = 0
    total = weights[..., 0].clone()
    for tap in weights.unbind(-1)[1:]:  # one by one: the number of taps, which is the batch's, must not change the rounding
        total += tap
    weights /= total[..., None]
    if border in ("zero", "mean"):
        weights[(taken < 0) | (taken >= length)] = 0
    return bordered(taken.long(), length, border), weights.float()
