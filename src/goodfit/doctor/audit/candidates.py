"""Candidates for near duplicates: for each image the few that look most like it, also mirrored or cropped, by whitened descriptors."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.doctor.audit.alignment import Pairs
from goodfit.doctor.pixels import blocks, shrink

SIDE = 32  # pixels a side from which descriptors are made
GRID, DIMENSIONS = 8, 48  # cells of a descriptor's side, and what is kept of them: finer ones find fewer crops, for they misalign
MIN_VARIANCE = 1e-4  # of a direction that is kept, as a share of the largest
CANDIDATES = 4  # of each image; the last of them are nearly never duplicates, and say how alike different images come
MANY_IMAGES, FEW_IMAGES = 20_000, 6_000  # fewer crops are searched where there are more, for the work grows with the square


@dataclasses.dataclass(frozen=True)
class Crop:
    """A crop of an image: the share `scale` of its sides, from `x` and `y` (shares, too), mirrored or not."""

    scale: float
    x: float
    y: float
    is_mirrored: bool

    def affine(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The map from the coordinates of the crop to those of the image, both from -1 to 1."""
        return (
            (-self.scale if self.is_mirrored else self.scale, 0.0, 2 * self.x + self.scale - 1),
            (0.0, self.scale, 2 * self.y + self.scale - 1),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """For each image [N] its `partners` [N, k] in order of their `likeness` [N, k] (a cosine), and the `affine` maps [N, k, 2, 3] from
    them into the image.
    """

    partners: Tensor
    likeness: Tensor
    affine: Tensor

    def pairs(self, rows: Tensor | None = None) -> Pairs:
        """The pairs of all images, or of those at some rows [n], and their partners: n times k of them, image by image."""
        rows = torch.arange(len(self.partners)) if rows is None else rows
        first = rows[:, None].expand(-1, self.partners.shape[1]).flatten()
        return Pairs(first, self.partners[rows].flatten(), self.affine[rows].flatten(0, 1))


def choose_crops(n: int) -> list[Crop]:
    """The crops by which `n` images are compared: fewer where there are many."""
    grids = () if n > MANY_IMAGES else ((0.85, 1),) if n > FEW_IMAGES else ((0.9, 2), (0.8, 3))
    crops = []
    for scale, steps in grids:
        places = np.linspace(0, 1 - scale, steps).tolist() if steps > 1 else [(1 - scale) / 2]
        crops += [Crop(scale, x, y, mirrored) for x, y in itertools.product(places, places) for mirrored in (False, True)]
    return crops


def describe(images: Tensor, crop: Crop) -> Tensor:
    """The cells of a crop of images [N, C, H, W]: their means, without the mean of each channel over the image, [N, C cells]."""
    height, width = images.shape[2:]
    top, left = round(crop.y * height), round(crop.x * width)
    bottom, right = max(top + 1, round((crop.y + crop.scale) * height)), max(left + 1, round((crop.x + crop.scale) * width))
    cells = F.interpolate(images[:, :, top:bottom, left:right].float(), size=(GRID, GRID), mode="area")
    cells = cells - cells.mean((2, 3), keepdim=True)
    return (cells.flip(3) if crop.is_mirrored else cells).flatten(1)


class Gallery:
    """The descriptors of whole images [N, C, H, W], whitened: cosines of whitened ones tell noise from another image of the same kind."""

    def __init__(self, images: Tensor) -> None:
        self.images = shrink(images, SIDE)
        images = self.images
        whole = Crop(1.0, 0.0, 0.0, False)
        plain = torch.cat([describe(images[rows], whole) for rows in blocks(len(images))])
        self.mean = plain.mean(0)
        plain -= self.mean
        values, vectors = torch.linalg.eigh(plain.T @ plain / len(plain))
        values, vectors = values.flip(0)[:DIMENSIONS], vectors.flip(1)[:, :DIMENSIONS]
        kept = values > MIN_VARIANCE * values[0].clamp(min=1e-9)
        self.basis = vectors[:, kept] / values[kept].sqrt()
        self.vectors = F.normalize(plain @ self.basis, dim=1)

    def describe(self, rows: slice, crop: Crop) -> Tensor:
        """The whitened descriptors of a crop of some images [n, D], of length 1."""
        return F.normalize((describe(self.images[rows], crop) - self.mean) @ self.basis, dim=1)

    def find(self, crops: list[Crop], known: Candidates | None = None) -> Candidates:
        """Find for each image the CANDIDATES others most like one of its crops, beside those that are known."""
        n = len(self.images)
        k, affine = min(CANDIDATES, n - 1), torch.tensor([crop.affine() for crop in crops]).view(-1, 2, 3)
        known = known or Candidates(torch.zeros(n, k, dtype=torch.long), torch.full((n, k), -2.0), torch.zeros(n, k, 2, 3))
        found = []
        for rows in blocks(n):
            own = torch.arange(rows.start, rows.stop)
            best = Candidates(known.partners[rows], known.likeness[rows], known.affine[rows])
            for crop, maps in zip(crops, affine, strict=True):
                cosines = self.describe(rows, crop) @ self.vectors.T
                cosines[own - rows.start, own] = -2.0
                likeness, partners = cosines.topk(k, dim=1)
                best = _merge(best, Candidates(partners, likeness, maps.expand(*partners.shape, 2, 3)))
            found.append(best)
        return Candidates(*(torch.cat([getattr(block, name) for block in found]) for name in ("partners", "likeness", "affine")))


def _merge(old: Candidates, new: Candidates) -> Candidates:
    """The best k of two times k candidates, a partner counting once."""
    k = old.partners.shape[1]
    partners, likeness = torch.cat([old.partners, new.partners], dim=1), torch.cat([old.likeness, new.likeness], dim=1)
    order = likeness.argsort(dim=1, descending=True)
    partners, likeness = partners.gather(1, order), likeness.gather(1, order)
    for place in range(1, 2 * k):
        likeness[:, place].masked_fill_((partners[:, place : place + 1] == partners[:, :place]).any(1), -3.0)
    likeness, best = likeness.topk(k, dim=1)
    affine = torch.cat([old.affine, new.affine], dim=1).take_along_dim(order.gather(1, best)[:, :, None, None], dim=1)
    return Candidates(partners.gather(1, best), likeness, affine)
