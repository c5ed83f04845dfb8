"""Color ops that are affine in RGB, composed into one matrix per image."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from goodfit.augment.gather import float_dtype, iterate_chunks
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment

LUMA_WEIGHTS = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # ITU-R BT.601 luma, as in Pillow
RGB_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64)


class Color(Augment):
    """An augment that is affine in RGB: it draws matrices, neighbors are composed, and the pixels are multiplied and clamped once.

    A matrix [B, 3, 7] float64 gives a pixel's new color from its color (3 columns), the image's mean color (3) and 1. Parts with
    `keeps_gray` change hue or saturation only: gray images stay as they are.
    """

    keeps_gray: ClassVar[bool] = False

    @abstractmethod
    def draw(self, chance: Chance, t: float) -> Tensor:
        """Draw the random matrix [B, 3, 7] of each place."""

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        return batch.but(images=apply_color_matrix(batch.images, self.draw(chance, t)))


# ---- matrices ------------------------------------------------------------------------------------------------------------------


def identity_matrix(n: int) -> Tensor:
    """Return the matrix [n, 3, 7] that changes nothing."""
    return torch.eye(3, 7, dtype=torch.float64).repeat(n, 1, 1)


def brightness_matrix(factor: Tensor) -> Tensor:
    """Multiply colors by `factor` [B]."""
    return identity_matrix(len(factor)) * factor.double()[:, None, None]


def contrast_matrix(factor: Tensor) -> Tensor:
    """Scale the distance of colors from the image's mean gray by `factor` [B]."""
    mean = torch.zeros(3, 7, dtype=torch.float64)
    mean[:, 3:6] = LUMA_WEIGHTS
    return _blend_matrix(mean, factor)


def saturation_matrix(factor: Tensor) -> Tensor:
    """Scale the distance of colors from their own gray by `factor` [B]."""
    gray = torch.zeros(3, 7, dtype=torch.float64)
    gray[:, :3] = LUMA_WEIGHTS
    return _blend_matrix(gray, factor)


def hue_matrix(turns: Tensor) -> Tensor:
    """Rotate colors around the gray axis in YIQ by `turns` [B] of a full circle: luma stays."""
    angle = 2 * math.pi * turns.double().cpu().numpy()
    cos, sin = (torch.from_numpy(f(angle)) for f in (np.cos, np.sin))  # NumPy rounds alike in arrays of any length
    rotation = identity_matrix(len(turns))[:, :, :3]
    rotation[:, 1, 1], rotation[:, 1, 2], rotation[:, 2, 1], rotation[:, 2, 2] = cos, -sin, sin, cos
    matrix = torch.zeros(len(turns), 3, 7, dtype=torch.float64)
    matrix[:, :, :3] = torch.linalg.inv(RGB_TO_YIQ) @ rotation @ RGB_TO_YIQ
    return matrix


def offset_matrix(offset: Tensor) -> Tensor:
    """Add `offset` [B, 3], on a scale of 0 to 1, to colors."""
    matrix = identity_matrix(len(offset))
    matrix[:, :, 6] = offset
    return matrix


def _blend_matrix(end: Tensor, factor: Tensor) -> Tensor:
    """Blend the identity, at factor 1, with `end` [3, 7], at factor 0."""
    factor = factor.double()[:, None, None]
    return torch.eye(3, 7, dtype=torch.float64) * factor + end * (1 - factor)


def compose_colors(first: Tensor, then: Tensor) -> Tensor:
    """Compose `first` and `then` into one matrix [B, 3, 7]; `then` sees the mean color that `first` leaves (nothing is clamped between)."""
    mean = torch.cat([torch.zeros_like(first[:, :, :3]), first[:, :, :3] + first[:, :, 3:6], first[:, :, 6:]], dim=2)
    out = then[:, :, :6] @ torch.cat([first, mean], dim=1)
    out[:, :, 6] += then[:, :, 6]
    return out


# ---- pixels --------------------------------------------------------------------------------------------------------------------


def apply_color_matrix(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply matrices [B, 3, 7] to the colors of images [B, C, H, W], uint8 or float; return float 0..1, clamped.

    A gray image is taken as R = G = B and stays gray; the last of four channels, alpha, is left alone. Four pixels are multiplied at once,
    by block-diagonal matrices: 12 x 12 products run three times as fast as 3 x 3 ones.
    """
    n, channels, height, width = images.shape
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    pixels = torch.empty((n, height, width, channels), dtype=float_dtype(images), device=images.device)
    pixels.copy_(images.permute(0, 2, 3, 1))
    count = height * width
    at_once, row_pixels = (next(k for k in sizes if count % k == 0) for sizes in ((4, 1), (64, 16, 4, 1)))
    linear, offset = _fit_to_channels(
        matrix, channels, _mean_colors(pixels.view(n, count // row_pixels, row_pixels * channels), channels) * scale
    )
    linear, offset = (linear * scale).to(pixels), offset.to(pixels).repeat(1, row_pixels)[:, None]
    blocks = pixels.new_zeros(n, at_once, channels, at_once, channels)
    blocks.diagonal(dim1=1, dim2=3).copy_(linear.mT[..., None].expand(-1, -1, -1, at_once))
    blocks = blocks.view(n, at_once * channels, at_once * channels)
    rows = pixels.view(n, count // at_once, at_once * channels)
    for chunk in iterate_chunks(rows):
        out = offset[chunk].repeat(1, count // row_pixels, 1).view(rows[chunk].shape).baddbmm_(rows[chunk], blocks[chunk])
        rows[chunk] = out.clamp_(0, 1)
    return pixels.permute(0, 3, 1, 2)


def _mean_colors(rows: Tensor, channels: int) -> Tensor:
    """Compute the mean colors [B, C] float64 of rows of several pixels each [B, P, k * C]: longer rows are summed faster."""
    n, count, values = rows.shape
    return rows.sum(1).cpu().double().view(n, values // channels, channels).sum(1) / (count * values // channels)


def _fit_to_channels(matrix: Tensor, channels: int, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the linear map [B, C, C] and offset [B, C] for images of C channels and mean colors [B, C]."""
    n = len(matrix)
    rgb = mean.expand(-1, 3) if channels == 1 else mean[:, :3]
    linear = matrix[:, :, :3]
    offset = (matrix[:, :, 3:6] * rgb[:, None, :]).sum(2) + matrix[:, :, 6]
    if channels == 1:
        return (LUMA_WEIGHTS[None, :, None] * linear).sum((1, 2), keepdim=True), (offset * LUMA_WEIGHTS).sum(1, keepdim=True)
    if channels == 4:
        padded = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
        padded[:, :3, :3] = linear
        return padded, torch.cat([offset, offset.new_zeros(n, 1)], dim=1)
    return linear, offset
