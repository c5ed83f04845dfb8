"""Sampling: the one reading of the pixels where composed maps say, each image in the cheapest way that its own map allows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from goodfit.augment.chunks import chunks
from goodfit.augment.gather import bordered, gather, words
from goodfit.augment.maps import Border, Frame, Map, compose
from goodfit.augment.pyramid import at_points, crossed, lattice, levels, local_scale, moved, row_lengths, spans, to_grid

NEAR = 1e-9  # entries of a matrix this near to whole numbers are whole
GATHERED, FILTERED, TURNED, BENT = range(4)
Made = Iterator[tuple[Tensor, Tensor]]  # rows [K] of the images a way was given, and their pixels [K, h, w, C] in 0..1


def sample(images: Tensor, maps: Sequence[Map], border: Border | None, fill: tuple[float, ...], exact: bool) -> Tensor:
    """Read the pixels of `images` [B, C, H, W] where the maps, applied in order, say: once, whatever their number.

    `fill` [C] or [1] in 0..1 is what "mean" puts beyond the image. `exact` maps (flips and whole-pixel shifts) are gathers, the dtype
    stays. Else the images become float 0..1, and the way an image goes depends on its own composed map alone:

    - whole-pixel shifts and flips are gathers, whatever the neighbours need;
    - other maps along the axes are filtered by a triangle as wide as the scale (antialiased);
    - turned and bent ones are read bilinearly, from a filtered level of the image where they shrink (`pyramid.at_points` says how well).
    """
    pixels, border = images.permute(0, 2, 3, 1).contiguous(), border or "edge"
    size, color = maps[-1].size, torch.tensor((fill * pixels.shape[3])[: pixels.shape[3]], device=pixels.device)
    matrix = functools.reduce(compose, (m.matrix for m in maps))
    if exact:
        return gather(pixels, matrix, size, border, color).permute(0, 3, 1, 2)
    out = torch.empty((len(pixels), *size, pixels.shape[3]), device=pixels.device)
    ways = _ways(matrix, maps)
    for way in sorted(set(ways.tolist())):
        rows = (ways == way).nonzero()[:, 0]
        mine = pixels if len(rows) == len(pixels) else pixels.index_select(0, rows.to(pixels.device))
        if way == BENT:
            done = _bent(mine, maps, rows, border, color)
        else:
            done = (_gathered, _filtered, _turned)[way](mine, matrix[rows], size, border, color)
        for some, made in done:
            _store(out, rows[some], made)
    return out.permute(0, 3, 1, 2)


def unit(pixels: Tensor) -> Tensor:
    """Pixels as float 0..1."""
    return pixels.div(255) if pixels.dtype == torch.uint8 else pixels


def _ways(matrix: Tensor, maps: Sequence[Map]) -> Tensor:
    """Which way each image goes, [B]."""
    bent = torch.zeros(len(matrix), dtype=torch.bool)
    for m in maps:
        if m.bend:
            bent |= m.bent if m.bent is not None else torch.ones_like(bent)
    linear, offset = matrix[:, :, :2], matrix[:, :, 2]
    diagonal = linear.diagonal(dim1=1, dim2=2)
    aligned = (linear[:, 0, 1].abs() < NEAR) & (linear[:, 1, 0].abs() < NEAR)
    whole = (((diagonal.abs() - 1).abs() < NEAR) & ((offset - offset.round()).abs() < NEAR)).all(dim=1)
    straight = torch.where(whole, GATHERED, FILTERED)
    return torch.where(bent, BENT, torch.where(aligned, straight, TURNED))


def _store(out: Tensor, rows: Tensor, made: Tensor) -> None:
    """Put images [K, h, w, C] into rows [K], in ascending order, of `out` [B, h, w, C]."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1:
        torch.stack(made.unbind(3), dim=3, out=out[first : last + 1])  # a quarter faster than to copy, where channels came first
    else:
        words(out).index_copy_(0, rows.to(out.device), words(made.contiguous()))


def _gathered(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Made:
    """Whole-pixel shifts and flips."""
    yield torch.arange(len(pixels)), unit(gather(unit(pixels) if border == "mean" else pixels, matrix, size, border, color))


def _planes(pixels: Tensor) -> Tensor:
    """Pixels [B, H, W, C] as new float 0..1 [B, C, H, W], channel after channel in memory: the fastest form for grid_sample."""
    planes = pixels.permute(0, 3, 1, 2)
    out = torch.empty(planes.shape, device=pixels.device)
    return torch.div(planes, 255, out=out) if pixels.dtype == torch.uint8 else out.copy_(planes)


def _turned(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Made:
    """Any affine map."""
    frame = (pixels.shape[1], pixels.shape[2])
    level, blur = levels(row_lengths(matrix), frame)
    across, down = spans(to_grid(matrix, frame, border).to(pixels.device), size)
    for part in chunks(pixels):
        grid = crossed(across[part], down[part])
        for rows, made in at_points(_planes(pixels[part]), grid, level[part], blur[part], border, color):
            yield rows + part.start, made.permute(0, 2, 3, 1)


def _bent(pixels: Tensor, maps: Sequence[Map], rows: Tensor, border: Border, color: Tensor) -> Made:
    """Maps of which some bend the images."""
    frame = (pixels.shape[1], pixels.shape[2])
    for part in chunks(pixels):
        points, matrix = _points(maps, rows[part])
        grid = moved(points, to_grid(matrix, frame, border))
        level, blur = levels(local_scale(points, matrix), frame)
        for some, made in at_points(_planes(pixels[part]), grid.to(pixels.device), level, blur, border, color):
            yield some + part.start, made.permute(0, 2, 3, 1)


def _points(maps: Sequence[Map], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where these rows are read: points [K, h, w, 2] float32 of the output frame after the first bend, and the matrices to the input."""
    points: Tensor | None = None
    pending = torch.eye(2, 3, dtype=torch.float64).expand(len(rows), -1, -1)  # matrices not yet applied to the points
    for m in reversed(maps):
        if m.bend:
            points = lattice(pending, maps[-1].size) if points is None else moved(points, pending)
            mine = torch.arange(len(rows)) if m.bent is None else m.bent[rows].nonzero()[:, 0]
            if len(mine) == len(rows):
                points = m.bend(points, rows).float()
            elif len(mine):
                points[mine] = m.bend(points[mine], rows[mine]).float()
            pending = m.matrix[rows]
        else:
            pending = compose(m.matrix[rows], pending)
    assert points is not None
    return points, pending


# ---- along the axes ------------------------------------------------------------------------------------------------------------


def _filtered(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> Made:
    """Separable antialiased resampling: rows first, then columns, of the window that is read.

    Each output row is a weighted sum of a few input rows, which is what an embedding bag computes; summed in the order of the taps, so
    an image gets the same bits in any batch.
    """
    channels = pixels.shape[3]
    (y, down), (x, across) = (_taps(matrix, axis, size[1 - axis], pixels.shape[2 - axis], border) for axis in (1, 0))
    for part in chunks(pixels):
        top, left = int(y[part].min()), int(x[part].min())
        window = unit(pixels[part, top : int(y[part].max()) + 1, left : int(x[part].max()) + 1])
        if border == "mean":
            window = window - color
        rows = _weighted(window, y[part] - top, down[part]).view(-1, size[0], window.shape[2], channels)
        columns = _weighted(rows.transpose(1, 2), x[part] - left, across[part]).view(-1, size[1], size[0], channels)
        made = columns.add_(color) if border == "mean" else columns
        yield torch.arange(part.start, part.start + len(made)), made.transpose(1, 2)


def _weighted(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of each table: table [B, N, ...], index and weights [B, n, T] -> [B * n, row]."""
    n, rows = table.shape[:2]
    flat = (index + torch.arange(n)[:, None, None] * rows).flatten(0, 1).to(table.device)
    table = table.reshape(n * rows, -1).contiguous()  # of a view with other strides the sums would be rounded in another way
    return F.embedding_bag(flat, table, per_sample_weights=weights.flatten(0, 1).to(table.device), mode="sum")


def _taps(matrix: Tensor, axis: int, n: int, length: int, border: Border) -> tuple[Tensor, Tensor]:
    """Which input positions make each of n output pixels: indices [B, n, T] int64 and weights [B, n, T] float32 summing to 1.

    The triangle reaches one input pixel, or one output pixel where that is wider (as Pillow and torch's antialias do).
    """
    middle = matrix[:, axis, axis, None] * torch.arange(n, dtype=torch.float64) + matrix[:, axis, 2, None]
    reach = matrix[:, axis, axis].abs().clamp(min=1.0)[:, None]
    first = (middle - reach).ceil()
    taken = first[..., None] + torch.arange(int(2 * reach.max()) + 1, dtype=torch.float64)
    weights = (1 - (taken - middle[..., None]).abs() / reach[..., None]).clamp(min=0.0)
    total = weights[..., 0].clone()
    for tap in weights.unbind(-1)[1:]:  # one by one: the number of taps, which is the batch's, must not change the rounding
        total += tap
    weights /= total[..., None]
    if border in ("zero", "mean"):
        weights[(taken < 0) | (taken >= length)] = 0
    return bordered(taken.long(), length, border), weights.float()
