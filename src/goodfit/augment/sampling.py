"""Sampling: pixels are read once, where composed maps put them, each image by the cheapest method that its own map allows."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from goodfit.augment import pyramid
from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame, compose_matrices
from goodfit.augment.gather import copy_images, float_dtype, gather_pixels, iterate_chunks, to_unit_range
from goodfit.augment.resize import WHOLE_TOLERANCE, PixelBatches, resize_filtered, resize_uint8, suits_uint8_resize

GATHER, RESIZE_UINT8, RESIZE_FILTERED, AFFINE, WARP = range(5)


def sample(images: Tensor, maps: Sequence[CoordinateMap], border: Border | None, fill: tuple[float, ...], is_exact: bool) -> Tensor:
    """Read the pixels of `images` [B, C, H, W] where the maps, applied in order, put them: once, whatever the number of maps.

    `fill` [C] or [1] in 0..1 is the color beyond the image for the border "mean". If the maps are exact (flips and whole-pixel shifts
    only), pixels are gathered and keep their dtype. Otherwise the images become float 0..1, and the method for an image depends on its own
    composed map alone:

    - whole-pixel shifts and flips are gathers, whatever the other images need;
    - other axis-aligned maps are filtered by a triangle as wide as the scale (antialiased); where they read a large window of whole
      pixels, a resized crop, no pixel beyond it is read;
    - rotated and warped images are read bilinearly, from a smoothed level of the image where they shrink (see `pyramid.sample_pyramid`).
    """
    pixels, border = images.permute(0, 2, 3, 1).contiguous(), border or "edge"
    size, color = maps[-1].size, torch.tensor((fill * pixels.shape[3])[: pixels.shape[3]], device=pixels.device)
    matrix = functools.reduce(compose_matrices, (m.matrix for m in maps))
    if is_exact:
        return gather_pixels(pixels, matrix, size, border, color).permute(0, 3, 1, 2)
    out = torch.empty((len(pixels), *size, pixels.shape[3]), dtype=float_dtype(pixels), device=pixels.device)
    methods = _choose_methods(matrix, maps)
    methods[(methods == RESIZE_FILTERED) & suits_uint8_resize(pixels, matrix, size)] = RESIZE_UINT8
    for method in sorted(set(methods.tolist())):
        rows = (methods == method).nonzero()[:, 0]
        inputs = pixels if len(rows) == len(pixels) else pixels.index_select(0, rows.to(pixels.device))
        if method == WARP:
            batches = _sample_warped(inputs, maps, rows, border, color)
        else:
            batches = (_gather, resize_uint8, resize_filtered, _sample_affine)[method](inputs, matrix[rows], size, border, color)
        for batch_rows, values in batches:
            _store_rows(out, rows[batch_rows], values)
    return out.permute(0, 3, 1, 2)


def _choose_methods(matrix: Tensor, maps: Sequence[CoordinateMap]) -> Tensor:
    """Choose the method for each image, [B]."""
    is_warped = torch.zeros(len(matrix), dtype=torch.bool)
    for m in maps:
        if m.warp:
            is_warped |= m.warp_mask if m.warp_mask is not None else torch.ones_like(is_warped)
    linear, offset = matrix[:, :, :2], matrix[:, :, 2]
    diagonal = linear.diagonal(dim1=1, dim2=2)
    is_aligned = (linear[:, 0, 1].abs() < WHOLE_TOLERANCE) & (linear[:, 1, 0].abs() < WHOLE_TOLERANCE)
    is_whole = (((diagonal.abs() - 1).abs() < WHOLE_TOLERANCE) & ((offset - offset.round()).abs() < WHOLE_TOLERANCE)).all(dim=1)
    return torch.where(is_warped, WARP, torch.where(is_aligned, torch.where(is_whole, GATHER, RESIZE_FILTERED), AFFINE))


def _store_rows(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """Store images [K, h, w, C] in rows [K], in ascending order, of `out` [B, h, w, C]."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first < len(rows) and (values.is_contiguous() or values.requires_grad):
        out[first : last + 1] = values
    elif last - first < len(rows):
        torch.stack(values.unbind(3), dim=3, out=out[first : last + 1])  # a quarter faster than copying where channels come first
    else:
        copy_images(out, rows.to(out.device), values.contiguous())


def _gather(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> PixelBatches:
    """Read whole-pixel shifts and flips."""
    yield (
        torch.arange(len(pixels)),
        to_unit_range(gather_pixels(to_unit_range(pixels) if border == "mean" else pixels, matrix, size, border, color)),
    )


def _to_planes(pixels: Tensor) -> Tensor:
    """Convert pixels [B, H, W, C] to new float 0..1 [B, C, H, W], channels first in memory: the fastest layout for grid_sample."""
    planes = pixels.permute(0, 3, 1, 2)
    out = torch.empty(planes.shape, dtype=float_dtype(pixels), device=pixels.device)
    return torch.div(planes, 255, out=out) if pixels.dtype == torch.uint8 else out.copy_(planes)


def _sample_affine(pixels: Tensor, matrix: Tensor, size: Frame, border: Border, color: Tensor) -> PixelBatches:
    """Read any affine maps."""
    frame = (pixels.shape[1], pixels.shape[2])
    level, blur = pyramid.choose_levels(pyramid.affine_scale(matrix), frame)
    across, down = pyramid.affine_grid_terms(pyramid.to_grid_matrix(matrix, frame, border).to(pixels.device), size)
    for chunk in iterate_chunks(pixels):
        grid = pyramid.add_grid_terms(across[chunk], down[chunk])
        for chunk_rows, values in pyramid.sample_pyramid(_to_planes(pixels[chunk]), grid, level[chunk], blur[chunk], border, color):
            yield chunk_rows + chunk.start, values.permute(0, 2, 3, 1)


def _sample_warped(pixels: Tensor, maps: Sequence[CoordinateMap], rows: Tensor, border: Border, color: Tensor) -> PixelBatches:
    """Read maps of which some warp the images."""
    frame = (pixels.shape[1], pixels.shape[2])
    for chunk in iterate_chunks(pixels):
        points, matrix = _warp_points(maps, rows[chunk])
        grid = pyramid.transform_points(points, pyramid.to_grid_matrix(matrix, frame, border))
        level, blur = pyramid.choose_levels(pyramid.warp_scale(points, matrix), frame)
        for chunk_rows, values in pyramid.sample_pyramid(_to_planes(pixels[chunk]), grid.to(pixels.device), level, blur, border, color):
            yield chunk_rows + chunk.start, values.permute(0, 2, 3, 1)


def _warp_points(maps: Sequence[CoordinateMap], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Trace output pixels back to the input: points [K, h, w, 2] float32 after the last warp on the way, and the matrices from there."""
    points: Tensor | None = None
    pending = torch.eye(2, 3, dtype=torch.float64).expand(len(rows), -1, -1)  # matrices not yet applied to the points
    for m in reversed(maps):
        if m.warp:
            points = pyramid.affine_grid(pending, maps[-1].size) if points is None else pyramid.transform_points(points, pending)
            warped = torch.arange(len(rows)) if m.warp_mask is None else m.warp_mask[rows].nonzero()[:, 0]
            if len(warped) == len(rows):
                points = m.warp(points, rows).float()
            elif len(warped):
                points[warped] = m.warp(points[warped], rows[warped]).float()
            pending = m.matrix[rows]
        else:
            pending = compose_matrices(m.matrix[rows], pending)
    assert points is not None
    return points, pending
