"""Maps: where each output pixel comes from, and how such maps compose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Border = Literal["reflect", "edge", "zero", "mean"]
Frame = tuple[int, int]  # height, width
Bend = Callable[[Tensor, Tensor], Tensor]  # (points [K, h, w, 2], rows [K]) -> points


@dataclasses.dataclass(frozen=True)
class Map:
    """For each image, where the pixels of an output frame lie in the input frame.

    `matrix` [B, 2, 3] float64 on the host takes (x, y, 1) of an output pixel to (x, y) of the input; whole numbers are pixel centers.
    `size` is the output frame. `bend`, when there is one, moves the output points before the matrix does (a lens, a perspective,
    elastic deformation): it is called with points [K, h, w, 2] float32 (x, y) and the rows [K] int64 of the batch that they belong to,
    and gives points of the same shape, each image's from its own parameters alone. `bent` [B] bool says which images it moves; None
    with a `bend`: all of them. It is never called for the others, and their pixels are read as the matrix alone says.
    """

    matrix: Tensor
    size: Frame
    bend: Bend | None = None
    bent: Tensor | None = None


def along_axes(size: Frame, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Map:
    """A map that keeps the axes: `x` and `y` are (scale [B], offset [B]) of input = scale * output + offset."""
    matrix = torch.zeros(len(x[0]), 2, 3, dtype=torch.float64)
    matrix[:, 0, 0], matrix[:, 0, 2] = x
    matrix[:, 1, 1], matrix[:, 1, 2] = y
    return Map(matrix, size)


def center(n: int, frame: Frame, size: Frame) -> Map:
    """The middle `size` of a frame, as `images[..., (H - h) // 2 :, (W - w) // 2 :]` cuts it, for n images."""
    one, top, left = (torch.full((n,), float(v)) for v in (1, (frame[0] - size[0]) // 2, (frame[1] - size[1]) // 2))
    return along_axes(size, (one, left), (one, top))


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The matrix [B, 2, 3] of two maps, `first` applied to the images before `then`.

    Written out, because a matrix product may round differently in batches of different size.
    """
    linear = first[:, :, 0:1] * then[:, 0:1, :] + first[:, :, 1:2] * then[:, 1:2, :]
    linear[:, :, 2] += first[:, :, 2]
    return linear
