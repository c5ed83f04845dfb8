"""Resizing along the axes, antialiased by a triangle filter as wide as the scale."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from goodfit.augment.coordinate_map import Border, Frame
from goodfit.augment.gather import apply_border, iterate_chunks, to_unit_range

WHOLE_TOLERANCE = 1e-9  # numbers this close to a whole number count as whole
MIN_UINT8_RESIZE_AREA = 64 * 64  # windows of at least this many pixels are faster by torch's filter for 8-bit images, one by one
PixelBatches = Iterator[tuple[Tensor, Tensor]]  # rows [K] of the images passed in, and their new pixels [K, h, w, C] in 0..1


def suits_uint8_resize(pixels: Tensor, matrix: Tensor, size: Frame) -> Tensor:
    """Return a mask [B] of the axis-aligned maps [B, 2, 3] that `resize_uint8` can apply to these pixels [B, H, W, C], and faster."""
    if pixels.dtype != torch.uint8 or pixels.device.type != "cpu" or pixels.shape[3] not in (3, 4):
        return torch.zeros(len(matrix), dtype=torch.bool)
    return _input_windows(matrix, size, (pixels.shape[1], pixels.shape[2]))[1]


def resize_uint8(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> PixelBatches:
    """Resize windows of whole pixels, image by image, by torch's filter for 8-bit images, which rounds to whole levels."""
    windows = _input_windows(matrix, size, (pixels.shape[1], pixels.shape[2]))[0].round().long().tolist()
    flips = (matrix.diagonal(dim1=1, dim2=2) < 0).tolist()
    planes = pixels.permute(0, 3, 1, 2)
    for chunk in iterate_chunks(pixels.new_empty((len(pixels), *size, pixels.shape[3]))):
        rows = range(len(pixels))[chunk]
        out = torch.empty((len(rows), *size, pixels.shape[3]), dtype=torch.uint8)
        for place, row in enumerate(rows):
            (left, right), (top, bottom) = windows[row]
            window = F.interpolate(planes[row : row + 1, :, top:bottom, left:right], size, mode="bilinear", antialias=True)
            axes = [axis for axis, flip in zip((3, 2), flips[row], strict=True) if flip]
            out[place] = (window.flip(axes) if axes else window)[0].permute(1, 2, 0)
        yield torch.tensor(rows), to_unit_range(out)


def resize_filtered(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> PixelBatches:
    """Resize by any axis-aligned maps: filter the rows, then the columns, of the window that is read."""
    channels, frame = pixels.shape[3], (pixels.shape[1], pixels.shape[2])
    windows, whole = _input_windows(matrix, size, frame)
    bounds = torch.where(whole[:, None, None], windows.round(), torch.tensor([[-torch.inf, torch.inf]] * 2, dtype=torch.float64))
    (y, down), (x, across) = (_filter_taps(matrix, axis, size[1 - axis], frame[1 - axis], border, bounds[:, axis]) for axis in (1, 0))
    for chunk in iterate_chunks(pixels):
        top, left = int(y[chunk].min()), int(x[chunk].min())
        window = to_unit_range(pixels[chunk, top : int(y[chunk].max()) + 1, left : int(x[chunk].max()) + 1])
        if border == "mean":
            window = window - color
        rows = sum_weighted_rows(window, y[chunk] - top, down[chunk]).view(-1, size[0], window.shape[2], channels)
        columns = sum_weighted_rows(rows.transpose(1, 2), x[chunk] - left, across[chunk]).view(-1, size[1], size[0], channels)
        out = columns.add_(color) if border == "mean" else columns
        yield torch.arange(chunk.start, chunk.start + len(out)), out.transpose(1, 2)


def _input_windows(matrix: Tensor, size: Frame, frame: Frame) -> tuple[Tensor, Tensor]:
    """Compute where the outer edges of the output lie in the input, [B, 2, 2] of (low, high) for x and y, and a mask [B] of resized crops.

    A resized crop is a map whose edges are those of a large window of whole pixels inside the input: it reads nothing beyond them.
    """
    scale, offset = matrix.diagonal(dim1=1, dim2=2), matrix[:, :, 2]
    ends = torch.stack([offset - scale / 2, offset + scale * (torch.tensor(size[::-1]) - 0.5)], dim=2) + 0.5
    edges = torch.stack([ends.amin(dim=2), ends.amax(dim=2)], dim=2)
    rounded = edges.round()
    inside = (rounded[:, :, 0] >= 0) & (rounded[:, :, 1] <= torch.tensor(frame[::-1]))
    whole = (edges - rounded).abs().amax(dim=2) < 1e3 * WHOLE_TOLERANCE  # the edges are sums of numbers in the hundreds
    return edges, (whole & inside).all(dim=1) & ((edges[:, :, 1] - edges[:, :, 0]).prod(dim=1) >= MIN_UINT8_RESIZE_AREA - 0.5)


def _filter_taps(matrix: Tensor, axis: int, n: int, length: int, border: Border, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the taps of n output pixels: input indices [B, n, T] int64 and weights [B, n, T] float32 summing to 1.

    The triangle reaches one input pixel, or one output pixel where that is wider (as in Pillow and torch's antialias), but not
    beyond the `bounds` [B, 2].
    """
    middle = matrix[:, axis, axis, None] * torch.arange(n, dtype=torch.float64) + matrix[:, axis, 2, None]
    reach = matrix[:, axis, axis].abs().clamp(min=1.0)[:, None]
    first = (middle - reach).ceil()
    position = first[..., None] + torch.arange(int(2 * reach.max()) + 1, dtype=torch.float64)
    weights = (1 - (position - middle[..., None]).abs() / reach[..., None]).clamp(min=0.0)
    low, high = bounds[:, :, None, None].unbind(1)
    weights[(position < low) | (position >= high)] = 0
    total = weights[..., 0].clone()
    for tap in weights.unbind(-1)[1:]:  # one by one: the number of taps depends on the batch and must not change the rounding
        total += tap
    weights /= total[..., None]
    if border in ("zero", "mean"):
        weights[(position < 0) | (position >= length)] = 0
    return apply_border(position.long(), length, border), weights.float()


def sum_weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted rows of each image's float table: table [B, N, ...], index and weights [B, n, T] -> [B * n, row].

    An embedding bag sums in the order of the taps, so that an image gets the same bits in any batch.
    """
    n, rows = table.shape[:2]
    flat = (index + torch.arange(n)[:, None, None] * rows).flatten(0, 1).to(table.device)
    lines = table.reshape(n * rows, -1).contiguous()  # a view with other strides would be summed, and rounded, differently
    return F.embedding_bag(flat, lines, per_sample_weights=weights.flatten(0, 1).to(lines), mode="sum")
