"""Coordinate maps: where in the input image each output pixel lies, and how such maps compose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Border = Literal["reflect", "edge", "zero", "mean"]
Frame = tuple[int, int]  # height, width
Warp = Callable[[Tensor, Tensor], Tensor]  # (points [K, h, w, 2], rows [K]) -> points


@dataclasses.dataclass(frozen=True)
class CoordinateMap:
    """For each image, the place in the input frame of every pixel of an output frame.

    `matrix` [B, 2, 3] float64, on the host, maps (x, y, 1) of an output pixel to (x, y) in the input; pixel centers are whole numbers.
    `size` is the output frame. `warp`, if there is one, moves the output points before the matrix does (a lens, a perspective, an elastic
    deformation): it is called with points [K, h, w, 2] float32 (x, y) and the rows [K] int64 of the batch that they belong to, and returns
    points of the same shape, each image's computed from its own parameters alone. `warp_mask` [B] bool says which images it moves; None
    means all of them. The warp is never called for the others, whose pixels lie where the matrix alone puts them.
    """

    matrix: Tensor
    size: Frame
    warp: Warp | None = None
    warp_mask: Tensor | None = None


def axis_aligned_map(size: Frame, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> CoordinateMap:
    """Map each axis to itself: `x` and `y` are (scale [B], offset [B]) in input = scale * output + offset."""
    matrix = torch.zeros(len(x[0]), 2, 3, dtype=torch.float64)
    matrix[:, 0, 0], matrix[:, 0, 2] = x
    matrix[:, 1, 1], matrix[:, 1, 2] = y
    return CoordinateMap(matrix, size)


def center_crop_map(n: int, frame: Frame, size: Frame) -> CoordinateMap:
    """Map the middle `size` of a frame, the crop `images[..., (H - h) // 2 :, (W - w) // 2 :]`, for n images."""
    one, top, left = (torch.full((n,), float(v)) for v in (1, (frame[0] - size[0]) // 2, (frame[1] - size[1]) // 2))
    return axis_aligned_map(size, (one, left), (one, top))


def compose_matrices(first: Tensor, then: Tensor) -> Tensor:
    """Compose two maps into one matrix [B, 2, 3], `first` being applied to the images before `then`.

    Written out, because a matrix product may round differently in batches of different size.
    """
    linear = first[:, :, 0:1] * then[:, 0:1, :] + first[:, :, 1:2] * then[:, 1:2, :]
    linear[:, :, 2] += first[:, :, 2]
    return linear
