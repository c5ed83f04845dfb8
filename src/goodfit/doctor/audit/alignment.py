"""Alignment of pairs of images by an affine map, and how well their details agree once they are aligned."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

DAMPING, MAX_CHANGE = 0.02, 0.15  # of a step: a share of the mean curvature, and half widths of the image
PAIRS_AT_ONCE = 512
DETAIL_KERNEL = 5  # pixels of the blur whose difference from the image is its detail; 3 where images have less than SMALL_SIDE
SMALL_SIDE = 24
BLOCK = 8  # pixels of the side of a block whose details are compared
NOISE = 2.0  # variance of the detail, in levels, below which it is taken for noise
PLAIN = 3.0  # standard deviation of the detail, in levels, of a block that counts half as much as one that is full of detail
MIN_COVERED = 0.5  # of a block, for it to count
LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs [P] of images: the rows of the `first` and the `second` [P], and the `affine` maps [P, 2, 3] from the second into the first."""

    first: Tensor
    second: Tensor
    affine: Tensor

    def take(self, rows: Tensor | slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.first[rows], self.second[rows], self.affine[rows])

    def pieces(self) -> list[Pairs]:
        """The pairs in pieces that fit into memory."""
        return [self.take(slice(start, start + PAIRS_AT_ONCE)) for start in range(0, len(self.first), PAIRS_AT_ONCE)]


def to_luma(images: Tensor, side: int) -> Tensor:
    """The brightness of images [N, 1 or 3, H, W], averaged to at most `side` pixels a side: float32 [N, 1, h, w]."""
    luma = images.float() if images.shape[1] == 1 else torch.einsum("nchw,c->nhw", images.float(), torch.tensor(LUMA))[:, None]
    size = [min(side, length) for length in luma.shape[2:]]
    return luma if size == list(luma.shape[2:]) else F.interpolate(luma, size=size, mode="area")


def subtract_blur(luma: Tensor, kernel: int) -> Tensor:
    """Images [N, 1, H, W] without their mean over `kernel` x `kernel` pixels around each (an odd number)."""
    pad = kernel // 2
    padded = F.pad(luma, (pad, pad, pad, pad), mode="replicate")
    return luma - F.avg_pool2d(F.avg_pool2d(padded, (kernel, 1), 1), (1, kernel), 1)


def make_points(height: int, width: int) -> Tensor:
    """The homogeneous coordinates (x, y, 1) of the pixels of an image, from -1 to 1: [3, H W]."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height * 2 - 1, (torch.arange(width) + 0.5) / width * 2 - 1, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(height * width)])


def sample(layers: Tensor, points: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    """Sample images [P, C, H, W] at mapped points: values [P, C, H W], and which points lie inside, float32 [P, H W]."""
    places = (affine @ points).transpose(1, 2)
    grid = places.reshape(len(places), layers.shape[2], layers.shape[3], 2)
    values = F.grid_sample(layers, grid, align_corners=False, padding_mode="border").flatten(2)
    return values, (places.abs().amax(2) <= 1).float()


def align(luma: Tensor, pairs: Pairs, kernel: int, steps: int) -> tuple[Tensor, Tensor]:
    """Align pairs of images [N, 1, H, W] by `steps` of Gauss-Newton on their difference, after `subtract_blur` by the kernel.

    Returns the better affine maps [P, 2, 3] and the correlation [P] of what both images show. Gain and offset of the brightness are fitted
    at each step. Source: Lucas and Kanade 1981.
    """
    sharp = subtract_blur(luma, kernel)
    parts = [_align_piece(sharp, piece, steps) for piece in pairs.pieces()]
    if not parts:
        return pairs.affine, luma.new_zeros(0)
    maps, correlations = zip(*parts, strict=True)
    return torch.cat(maps), torch.cat(correlations)


def _align_piece(sharp: Tensor, pairs: Pairs, steps: int) -> tuple[Tensor, Tensor]:
    height, width = sharp.shape[2:]
    points, moving, fixed, affine = make_points(height, width), sharp[pairs.first], sharp[pairs.second].flatten(1), pairs.affine
    across = F.pad(moving[..., 2:] - moving[..., :-2], (1, 1)) * (width / 4)
    down = F.pad(moving[..., 2:, :] - moving[..., :-2, :], (0, 0, 1, 1)) * (height / 4)
    layers = torch.cat([moving, across, down], dim=1)
    for step in range(steps + 1):
        values, inside = sample(layers if step < steps else moving, points, affine)
        n = inside.sum(1, keepdim=True).clamp(min=1)
        seen = (values[:, 0] - (values[:, 0] * inside).sum(1, keepdim=True) / n) * inside
        wanted = (fixed - (fixed * inside).sum(1, keepdim=True) / n) * inside
        if step == steps:
            break
        gain = (wanted.norm(dim=1) / (seen.norm(dim=1) + 1e-6))[:, None]
        slopes = values[:, 1:] * (gain * inside)[:, None]
        jacobian = (slopes[:, :, None] * points).flatten(1, 2)  # [P, 6, H W]
        curvature = jacobian @ jacobian.transpose(1, 2)
        damping = DAMPING * curvature.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-6
        change = torch.linalg.solve(curvature + damping * torch.eye(6), jacobian @ (wanted - gain * seen)[:, :, None])[:, :, 0]
        change = change * (MAX_CHANGE / change.abs().amax(1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        affine = affine + change.view(-1, 2, 3)
    return affine, (seen * wanted).sum(1) / (seen.norm(dim=1) * wanted.norm(dim=1) + 1e-6)


def compare_details(luma: Tensor, pairs: Pairs) -> Tensor:
    """How well the details of aligned pairs [P] of images [N, 1, H, W], from 0 to 255, agree: up to 1.

    It is the mean correlation of blocks of detail. Those that are full of it in either image count most, but less than twice as much as
    middling ones, so that a common outline alone is not enough.
    """
    height, width = luma.shape[2:]
    details = subtract_blur(luma, DETAIL_KERNEL if min(height, width) >= SMALL_SIDE else 3)
    points, block = make_points(height, width), BLOCK if min(height, width) >= SMALL_SIDE else min(height, width)
    agreements = [luma.new_zeros(0)]
    for piece in pairs.pieces():
        values, inside = sample(details[piece.first], points, piece.affine)
        seen, wanted = values[:, 0] * inside, details[piece.second].flatten(1) * inside
        pooled = torch.stack([seen * seen, wanted * wanted, seen * wanted, inside], dim=1).view(-1, 4, height, width)
        own, other, both, covered = F.avg_pool2d(pooled, block).flatten(2).unbind(1)
        strength = torch.maximum(own, other).sqrt()
        weight = strength / (strength + PLAIN) * (covered > MIN_COVERED)
        agreements.append((both / ((own + NOISE) * (other + NOISE)).sqrt() * weight).sum(1) / (weight.sum(1) + 1e-6))
    return torch.cat(agreements)


def compare_colors(images: Tensor, pairs: Pairs) -> Tensor:
    """How far the colors of aligned pairs [P] of images [N, 3, H, W], from 0 to 255, differ beside their brightness, in levels: their root
    mean square over both images, without what all pixels have in common. 0 for gray images.
    """
    differences = [torch.zeros(0)]
    for piece in pairs.pieces():
        fixed = images[piece.second].float()
        values, inside = sample(images[piece.first].float(), make_points(*images.shape[2:]), piece.affine)
        difference = (values - fixed.flatten(2)) * inside[:, None]
        difference -= difference.mean(1, keepdim=True)
        n = inside.sum(1).clamp(min=1)
        difference -= (difference.sum(2) / n[:, None])[:, :, None] * inside[:, None]
        differences.append((difference.square().mean(1).sum(1) / n).sqrt())
    return torch.cat(differences)
