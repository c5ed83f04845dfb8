"""Near duplicates: images that show the same picture, byte for byte or after cropping, turning, mirroring or encoding it anew."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from goodfit.data.index import IntArray
from goodfit.doctor.audit.alignment import Pairs, align, compare_colors, compare_details, to_luma
from goodfit.doctor.audit.candidates import Crop, Gallery, choose_crops
from goodfit.doctor.pixels import BLANK_STD, blocks, hash_images, measure_deviations, shrink, to_tensor

SIDES = (16, 32, 64)  # pixels at which pairs are aligned, coarse to fine
STEPS, LAST_STEPS = 5, 2  # of alignment at each; what is aligned at 32 pixels needs few at 64
MIN_CORRELATION = 0.75  # at 16 pixels, of pairs that are looked at further: 98 % of the true pairs of photos, half of the others
# Of details, from 32 pixels on. At 64, of 600 photos of clothing that were cropped, turned by up to 5 degrees, mirrored or encoded anew 97
# % have more, and of 15,000 pairs of other photos 9, of which 4 show the same thing. At 32 pixels, outlines are most of what is left.
MIN_AGREEMENT, MIN_SMALL_AGREEMENT = 0.6, 0.75
# What colors take from the agreement: two shirts of one cut differ by 10 to 35 levels, a photo and its copy by up to 6.
COLOR_SIDE, FREE_COLOR, COLOR_WEIGHT = 8, 4.0, 0.01
MIN_LIKENESS = 0.95  # of whitened descriptors: less, and photos of two shirts on the same ground have it
# How much more alike a pair must be than other images come, where these come closer than photos do (digits, drawings): on the scale of
# Fisher's z the most alike of digits, shapes, gratings and photos reach 1.1 to 2 times the quantile of the images' third best partners.
NULL_PLACE, NULL_QUANTILE, NULL_FACTOR = 2, 0.99, 1.9
MIN_STAR = 4  # partners of an image of which no two are a pair: copies of one picture are copies of each other, too
NULL_PIXELS = 800_000  # of the images by which that is measured
MIN_IMAGES = 8  # fewer say nothing on how alike different images come


@dataclasses.dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of `n` images that show the same picture: `pairs` [P, 2] (the first number is the smaller), how well their details agree,
    `agreement` [P] up to 1, and whether their bytes are equal, `is_exact` [P].
    """

    pairs: IntArray
    agreement: NDArray[np.float32]
    is_exact: NDArray[np.bool_]
    n: int

    def groups(self) -> list[IntArray]:
        """The images of each picture that occurs more than once, the largest groups first."""
        ones = np.ones(len(self.pairs), dtype=bool)
        _, group = connected_components(coo_array((ones, (self.pairs[:, 0], self.pairs[:, 1])), shape=(self.n, self.n)), directed=False)
        order = np.argsort(group, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if self.n else []
        return sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), int(part[0])))


def find_exact_pairs(images: NDArray[np.uint8]) -> IntArray:
    """The first image with the same bytes and each further one, of images [N, H, W, C]: [P, 2]."""
    first: dict[bytes, int] = {}
    pairs = []
    for row, digest in enumerate(hash_images(images)):
        if (original := first.setdefault(digest, row)) != row:
            pairs.append((original, row))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def find_exact_duplicates(images: NDArray[np.uint8]) -> NearDuplicates:
    """Find the pairs of images [N, H, W, C] with the same bytes that are not blank."""
    exact = find_exact_pairs(images)
    exact = exact[measure_deviations(images[exact[:, 1]]) >= BLANK_STD]
    return NearDuplicates(exact, np.ones(len(exact), dtype=np.float32), np.ones(len(exact), dtype=bool), len(images))


def find_near_duplicates(images: NDArray[np.uint8]) -> NearDuplicates:
    """Find the pairs of images [N, H, W, C], of 8 x 8 pixels or more, that show the same picture."""
    exact = find_exact_duplicates(images)
    is_looked_at = measure_deviations(images) >= BLANK_STD
    is_looked_at[exact.pairs[:, 1]] = False  # the first with the same bytes stands for them all
    rows = np.flatnonzero(is_looked_at)
    if len(rows) < MIN_IMAGES:
        return exact
    near, agreement = match_images(to_tensor(images, SIDES[-1])[torch.from_numpy(rows)])
    pairs, is_exact = np.concatenate([exact.pairs, rows[near]]), np.arange(len(exact.pairs) + len(near)) < len(exact.pairs)
    return NearDuplicates(pairs, np.concatenate([exact.agreement, agreement]), is_exact, len(images))


def match_images(images: Tensor) -> tuple[IntArray, NDArray[np.float32]]:
    """The pairs [P, 2] of images [N, 1 or 3, H, W] that show the same picture, the most alike first, and how well they agree [P]."""
    gallery = Gallery(images)
    whole = gallery.find([Crop(1.0, 0.0, 0.0, False), Crop(1.0, 0.0, 0.0, True)])
    candidates = gallery.find(choose_crops(len(images)), whole)
    n, pixels = len(images), images.shape[2] * images.shape[3]
    sample = torch.linspace(0, n - 1, min(n, NULL_PIXELS // pixels)).long()
    usual = verify(images, candidates.pairs(sample), is_thorough=True).view(len(sample), -1)
    least = exceed(usual, choose_threshold(min(images.shape[2:])))
    agreement = verify(images, candidates.pairs()).view(n, -1)
    best: dict[tuple[int, int], float] = {}
    for partners, values, threshold in (
        (whole.partners, whole.likeness, exceed(whole.likeness, MIN_LIKENESS)),
        (candidates.partners, agreement, least),
    ):
        for row, place in (values > threshold).nonzero().tolist():
            pair = min(row, int(partners[row, place])), max(row, int(partners[row, place]))
            best[pair] = max(best.get(pair, 0.0), float(values[row, place]))
    best = drop_stars(best)
    ordered = sorted(best, key=lambda pair: (-best[pair], pair))
    return np.array(ordered, dtype=np.int64).reshape(-1, 2), np.array([best[pair] for pair in ordered], dtype=np.float32)


def choose_threshold(side: int) -> float:
    """The agreement from which images of `side` pixels count as one picture: the fewer pixels, the higher."""
    missing = min(1.0, (SIDES[-1] - min(side, SIDES[-1])) / (SIDES[-1] - SIDES[1]))
    return MIN_AGREEMENT + missing * (MIN_SMALL_AGREEMENT - MIN_AGREEMENT)


def exceed(usual: Tensor, least: float) -> float:
    """The correlation that stands out from those [N, k] which images have with their best k partners, and is `least` or more."""
    ordered = usual.sort(dim=1, descending=True).values
    others = torch.atanh(ordered[:, min(NULL_PLACE, ordered.shape[1] - 1)].clamp(0, 0.9999)).numpy()
    return math.tanh(max(math.atanh(least), NULL_FACTOR * float(np.quantile(others, NULL_QUANTILE))))


def drop_stars(best: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """The pairs without those of images that are paired with several others of which no two are a pair, as plain patterns are."""
    partners: dict[int, set[int]] = defaultdict(set)
    for a, b in best:
        partners[a].add(b)
        partners[b].add(a)
    stars = {row for row, near in partners.items() if len(near) >= MIN_STAR and not any(partners[other] & near for other in near)}
    return {pair: value for pair, value in best.items() if not stars & set(pair)}


def verify(images: Tensor, pairs: Pairs, is_thorough: bool = False) -> Tensor:
    """How well the details of pairs [P] of images [N, 1 or 3, H, W] agree once aligned; 0 if a coarse look tells them apart.

    A `thorough` one looks at all of them closely.
    """
    affine, agreement, rows = pairs.affine.clone(), torch.zeros(len(pairs.first)), torch.arange(len(pairs.first))
    colors = shrink(images, COLOR_SIDE)
    sides = sorted({min(side, *images.shape[2:]) for side in SIDES})
    for side in sides:
        luma = torch.cat([to_luma(block, side) for block in map(images.__getitem__, blocks(len(images)))])
        kernel = side // (2 if side <= SIDES[0] else 4) | 1
        looked_at = Pairs(pairs.first[rows], pairs.second[rows], affine[rows])
        affine[rows], correlation = align(luma, looked_at, kernel, LAST_STEPS if side == SIDES[-1] else STEPS)
        looked_at = Pairs(looked_at.first, looked_at.second, affine[rows])
        is_coarse = side == SIDES[0] != sides[-1]
        agreement[rows] = correlation if is_coarse else compare_details(luma, looked_at)
        if side == sides[-1]:
            agreement[rows] -= COLOR_WEIGHT * (compare_colors(colors, looked_at) - FREE_COLOR).clamp(min=0)
        elif not is_thorough:
            refuted = rows[agreement[rows] < (MIN_CORRELATION if is_coarse else MIN_AGREEMENT)]
            agreement[refuted] = 0
            rows = rows[agreement[rows] > 0]
    return agreement
