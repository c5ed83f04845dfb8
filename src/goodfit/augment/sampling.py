"""Sampling: the one reading of the pixels where composed maps say, each image in the cheapest way that its own map allows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from goodfit.augment.chunks import chunks
from goodfit.augment.gather import gather, unit, words
from goodfit.augment.maps import Border, Frame, Map, compose
from goodfit.augment.pyramid import at_points, crossed, lattice, levels, local_scale, moved, row_lengths, spans, to_grid
from goodfit.augment.resize import NEAR, by_image, filtered, resized

GATHERED, RESIZED, FILTERED, TURNED, BENT = range(5)
Made = Iterator[tuple[Tensor, Tensor]]  # rows [K] of the images a way was given, and their pixels [K, h, w, C] in 0..1


def sample(images: Tensor, maps: Sequence[Map], border: Border | None, fill: tuple[float, ...], exact: bool) -> Tensor:
    """Read the pixels of `images` [B, C, H, W] where the maps, applied in order, say: once, whatever their number.

    `fill` [C] or [1] in 0..1 is what "mean" puts beyond the image. `exact` maps (flips and whole-pixel shifts) are gathers, the dtype
    stays. Else the images become float 0..1, and the way an image goes depends on its own composed map alone:

    - whole-pixel shifts and flips are gathers, whatever the neighbors need;
    - other maps along the axes are filtered by a triangle as wide as the scale (antialiased), which reads no pixel beyond a large
      window of whole pixels: a crop, resized;
    - turned and bent ones are read bilinearly, from a filtered level of the image where they shrink (`pyramid.at_points` says how well).
    """
    pixels, border = images.permute(0, 2, 3, 1).contiguous(), border or "edge"
    size, color = maps[-1].size, torch.tensor((fill * pixels.shape[3])[: pixels.shape[3]], device=pixels.device)
    matrix = functools.reduce(compose, (m.matrix for m in maps))
    if exact:
        return gather(pixels, matrix, size, border, color).permute(0, 3, 1, 2)
    out = torch.empty((len(pixels), *size, pixels.shape[3]), device=pixels.device)
    ways = _ways(matrix, maps)
    ways[(ways == FILTERED) & by_image(pixels, matrix, size)] = RESIZED
    for way in sorted(set(ways.tolist())):
        rows = (ways == way).nonzero()[:, 0]
        mine = pixels if len(rows) == len(pixels) else pixels.index_select(0, rows.to(pixels.device))
        if way == BENT:
            done = _bent(mine, maps, rows, border, color)
        else:
            done = (_gathered, resized, filtered, _turned)[way](mine, matrix[rows], size, border, color)
        for some, made in done:
            _store(out, rows[some], made)
    return out.permute(0, 3, 1, 2)


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
    if last - first < len(rows) and made.is_contiguous():
        out[first : last + 1] = made
    elif last - first < len(rows):
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
