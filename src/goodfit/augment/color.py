"""Color: ops affine in RGB as one 3x4 matrix per image, however many there are."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.chunks import chunks
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment

GRAY = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # ITU-R BT.601 luma, as in Pillow
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64)


class Color(Augment):
    """An augment affine in RGB: it draws matrices, neighbors compose, and the pixels are multiplied and clamped once.

    A matrix [B, 3, 7] float64 gives a pixel's new color from its color (3 columns), the image's mean color (3) and 1. Those that
    `tint` turn or drain the colors alone: gray images stay as they are.
    """

    tint: ClassVar[bool] = False

    @abstractmethod
    def draw(self, chance: Chance, t: float) -> Tensor:
        """The random matrix [B, 3, 7] of each place."""

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        return batch.but(images=recolor(batch.images, self.draw(chance, t)))


# ---- matrices ------------------------------------------------------------------------------------------------------------------


def identity(n: int) -> Tensor:
    """The matrix [n, 3, 7] that changes nothing."""
    return torch.eye(3, 7, dtype=torch.float64).repeat(n, 1, 1)


def brightness(factor: Tensor) -> Tensor:
    """Colors times `factor` [B]."""
    return identity(len(factor)) * factor.double()[:, None, None]


def contrast(factor: Tensor) -> Tensor:
    """Colors moved from the image's mean gray by `factor` [B]."""
    mean = torch.zeros(3, 7, dtype=torch.float64)
    mean[:, 3:6] = GRAY
    return _toward(mean, factor)


def saturation(factor: Tensor) -> Tensor:
    """Colors moved from their own gray by `factor` [B]."""
    gray = torch.zeros(3, 7, dtype=torch.float64)
    gray[:, :3] = GRAY
    return _toward(gray, factor)


def hue(turns: Tensor) -> Tensor:
    """Colors turned around the gray axis in YIQ by `turns` [B] of a full circle: luma stays."""
    angle = 2 * math.pi * turns.double().cpu().numpy()
    cos, sin = (torch.from_numpy(f(angle)) for f in (np.cos, np.sin))  # NumPy rounds alike in arrays of any length
    turn = identity(len(turns))[:, :, :3]
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, -sin, sin, cos
    matrix = torch.zeros(len(turns), 3, 7, dtype=torch.float64)
    matrix[:, :, :3] = torch.linalg.inv(YIQ) @ turn @ YIQ
    return matrix


def shift(offset: Tensor) -> Tensor:
    """Colors plus `offset` [B, 3], on a scale of 0 to 1."""
    matrix = identity(len(offset))
    matrix[:, :, 6] = offset
    return matrix


def _toward(end: Tensor, factor: Tensor) -> Tensor:
    factor = factor.double()[:, None, None]
    return torch.eye(3, 7, dtype=torch.float64) * factor + end * (1 - factor)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """One matrix [B, 3, 7] for `first`, then `then`, which sees the mean color that `first` leaves (nothing is clamped between)."""
    mean = torch.cat([torch.zeros_like(first[:, :, :3]), first[:, :, :3] + first[:, :, 3:6], first[:, :, 6:]], dim=2)
    out = then[:, :, :6] @ torch.cat([first, mean], dim=1)
    out[:, :, 6] += then[:, :, 6]
    return out


# ---- pixels --------------------------------------------------------------------------------------------------------------------


def recolor(images: Tensor, matrix: Tensor) -> Tensor:
    """Images [B, C, H, W], uint8 or float, with their colors mapped: float 0..1, clamped.

    A gray image is taken as R = G = B and stays gray; of four channels the last, alpha, is left alone. Four pixels are multiplied at once,
    by block-diagonal matrices: 12 x 12 products run three times as fast as 3 x 3 ones.
    """
    n, channels, height, width = images.shape
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    pixels = torch.empty((n, height, width, channels), device=images.device)
    pixels.copy_(images.permute(0, 2, 3, 1))
    count = height * width
    at_once, wide = (next(k for k in few if count % k == 0) for few in ((4, 1), (64, 16, 4, 1)))
    linear, offset = _own_matrix(matrix, channels, _mean(pixels.view(n, count // wide, wide * channels), channels) * scale)
    linear, offset = (linear * scale).float().to(images.device), offset.float().to(images.device).repeat(1, wide)[:, None]
    blocks = torch.zeros(n, at_once, channels, at_once, channels, device=images.device)
    blocks.diagonal(dim1=1, dim2=3).copy_(linear.mT[..., None].expand(-1, -1, -1, at_once))
    blocks = blocks.view(n, at_once * channels, at_once * channels)
    rows = pixels.view(n, count // at_once, at_once * channels)
    for part in chunks(rows):
        out = offset[part].repeat(1, count // wide, 1).view(rows[part].shape).baddbmm_(rows[part], blocks[part])
        torch.clamp(out, 0, 1, out=rows[part])
    return pixels.permute(0, 3, 1, 2)


def _mean(rows: Tensor, channels: int) -> Tensor:
    """Mean color [B, C] float64 of rows of several pixels each [B, P, k * C]: longer rows are summed faster."""
    n, count, values = rows.shape
    return rows.sum(1).cpu().double().view(n, values // channels, channels).sum(1) / (count * values // channels)


def _own_matrix(matrix: Tensor, channels: int, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map [B, C, C] and offset [B, C] for images of C channels with their mean color [B, C]."""
    n = len(matrix)
    rgb = mean.expand(-1, 3) if channels == 1 else mean[:, :3]
    linear = matrix[:, :, :3]
    offset = (matrix[:, :, 3:6] * rgb[:, None, :]).sum(2) + matrix[:, :, 6]
    if channels == 1:
        return (GRAY[None, :, None] * linear).sum((1, 2), keepdim=True), (offset * GRAY).sum(1, keepdim=True)
    if channels == 4:
        padded = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
        padded[:, :3, :3] = linear
        return padded, torch.cat([offset, offset.new_zeros(n, 1)], dim=1)
    return linear, offset
