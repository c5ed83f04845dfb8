"""Near duplicates: images that show the same picture, byte for byte or after cropping, turning, mirroring or encoding it anew."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from goodfit.data.index import IntArray
from goodfit.doctor.audit.alignment import Pairs, align, compare_colors, compare_details, to_luma
from goodfit.doctor.audit.candidates import Candidates, Gallery, View, blocks, choose_crops, shrink, to_tensor

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
# Fisher's z the most alike of all pairs of digits, shapes and textures reach 1.7 times the quantile of the images' fourth best partners.
NULL_QUANTILE, NULL_FACTOR = 0.99, 1.8
BLANK_STD = 2.0  # levels: an image with less has no picture that could occur again
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
    for row, image in enumerate(images):
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        if (original := first.setdefault(digest, row)) != row:
            pairs.append((original, row))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def find_exact_duplicates(images: NDArray[np.uint8]) -> NearDuplicates:
    """Find the pairs of images [N, H, W, C] with the same bytes that are not blank."""
    exact = find_exact_pairs(images)
    exact = exact[_measure_deviations(images[exact[:, 1]]) >= BLANK_STD]
    return NearDuplicates(exact, np.ones(len(exact), dtype=np.float32), np.ones(len(exact), dtype=bool), len(images))


def _measure_deviations(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The standard deviation of all values of each image [N]."""
    if not len(images):
        return np.zeros(0, dtype=np.float32)
    parts = [torch.from_numpy(np.ascontiguousarray(images[rows])).flatten(1).float().std(1, correction=0) for rows in blocks(len(images))]
    return torch.cat(parts).numpy()


def find_near_duplicates(images: NDArray[np.uint8]) -> NearDuplicates:
    """Find the pairs of images [N, H, W, C], of 8 x 8 pixels or more, that show the same picture."""
    exact = find_exact_duplicates(images)
    is_looked_at = _measure_deviations(images) >= BLANK_STD
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
    whole = gallery.find([View(1.0, 0.0, 0.0, False), View(1.0, 0.0, 0.0, True)])
    likeness = keep_outliers(whole.likeness, MIN_LIKENESS)
    candidates = gallery.find(choose_crops(len(images)), whole)
    agreement = keep_outliers(verify(images, candidates), choose_threshold(min(images.shape[2:])))
    best: dict[tuple[int, int], float] = {}
    for partners, values in ((whole.partners, likeness), (candidates.partners, agreement)):
        for row, place in values.nonzero().tolist():
            pair = min(row, int(partners[row, place])), max(row, int(partners[row, place]))
            best[pair] = max(best.get(pair, 0.0), float(values[row, place]))
    ordered = sorted(best, key=lambda pair: (-best[pair], pair))
    return np.array(ordered, dtype=np.int64).reshape(-1, 2), np.array([best[pair] for pair in ordered], dtype=np.float32)


def choose_threshold(side: int) -> float:
    """The agreement from which images of `side` pixels count as one picture: the fewer pixels, the higher."""
    missing = min(1.0, (SIDES[-1] - min(side, SIDES[-1])) / (SIDES[-1] - SIDES[1]))
    return MIN_AGREEMENT + missing * (MIN_SMALL_AGREEMENT - MIN_AGREEMENT)


def keep_outliers(values: Tensor, least: float) -> Tensor:
    """Of correlations [N, k] with each image's best k partners those that stand out from what the last of them reach; 0 for the others."""
    last = torch.atanh(values.min(dim=1).values.clamp(0, 0.9999)).numpy()
    z = max(math.atanh(least), NULL_FACTOR * float(np.quantile(last, NULL_QUANTILE)))
    return values * (values > math.tanh(z))


def verify(images: Tensor, candidates: Candidates) -> Tensor:
    """How well the details of images [N, 1 or 3, H, W] agree with those of their candidates [N, k] once aligned; 0 if a coarse look tells
    them apart.
    """
    n, k = candidates.partners.shape
    pairs = Pairs(torch.arange(n)[:, None].expand(n, k).flatten(), candidates.partners.flatten(), candidates.affine.flatten(0, 1).clone())
    agreement, rows = torch.zeros(n * k), torch.arange(n * k)
    colors = shrink(images, COLOR_SIDE)
    sides = sorted({min(side, *images.shape[2:]) for side in SIDES})
    for side in sides:
        luma = torch.cat([to_luma(block, side) for block in map(images.__getitem__, blocks(n))])
        kernel = side // (2 if side <= SIDES[0] else 4) | 1
        pairs.affine[rows], correlation = align(luma, pairs.take(rows), kernel, LAST_STEPS if side == SIDES[-1] else STEPS)
        is_coarse = side == SIDES[0] != sides[-1]
        agreement[rows] = correlation if is_coarse else compare_details(luma, pairs.take(rows))
        if side == sides[-1]:
            agreement[rows] -= COLOR_WEIGHT * (compare_colors(colors, pairs.take(rows)) - FREE_COLOR).clamp(min=0)
        if side != sides[-1]:
            refuted = rows[agreement[rows] < (MIN_CORRELATION if is_coarse else MIN_AGREEMENT)]
            agreement[refuted] = 0
            rows = rows[agreement[rows] > 0]
    return agreement.view(n, k)
