"""Copies of pictures within the training images and between the splits, byte for byte or changed."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodfit.doctor.audit.candidates import Crop, Gallery
from goodfit.doctor.audit.near_duplicates import SIDES, match_images
from goodfit.doctor.patient import Patient
from goodfit.doctor.pixels import BLANK_STD, hash_images, measure_deviations, spread, to_bytes, to_tensor
from goodfit.doctor.probe import Share
from goodfit.doctor.sample import Sample

MAX_QUERIES, MAX_GALLERY = 200, 4000  # validation images that are looked up among training images
PARTNERS = 3  # of each, that are looked at closely
MAX_SHIFT = 4  # pixels by which an image may have been moved
EQUAL = 0.02  # standard deviations up to which pixels count as equal


@dataclasses.dataclass(frozen=True, eq=False)
class Copies:
    """The images of a patient: on disk where they are known, else as the network gets them, scaled to bytes."""

    patient: Patient
    sample: Sample

    @cached_property
    def images(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Training and validation images [N, H, W, C]."""
        raw = self.patient.raw
        if raw and {"train", "validation"} <= set(raw):
            first, second = (x[..., None] if x.ndim == 3 else x for x in (raw["train"][0], raw["validation"][0]))
            return first, second
        train, validation = self.sample.train.images, self.sample.validation.images
        low, high = float(min(train.min(), validation.min())), float(max(train.max(), validation.max()))
        return to_bytes(train, low, high), to_bytes(validation, low, high)

    @cached_property
    def _hashes(self) -> tuple[list[bytes], list[bytes]]:
        """Of images that are not blank: blank ones are equal, but copies of nothing."""
        first, second = (hash_images(x[is_varied(x)]) for x in self.images)
        return first, second

    @cached_property
    def repeated(self) -> Share:
        """Training images whose bytes an earlier one has."""
        hashes = self._hashes[0]
        return Share(len(hashes) - len(set(hashes)), len(hashes))

    @cached_property
    def leaked(self) -> Share:
        """Validation images whose bytes a training image has."""
        known = set(self._hashes[0])
        return Share(sum(image in known for image in self._hashes[1]), len(self._hashes[1]))

    @cached_property
    def nearly_leaked(self) -> tuple[Share, Share]:
        """Of some validation images those whose picture a training image shows, changed or not; and of these those that are only moved or
        mirrored.
        """
        train, held = self.images
        if train.shape[1:] != held.shape[1:] or min(train.shape[1:3]) < 8 or len(held) < 2:
            return Share(0, len(held)), Share(0, 0)
        train, held = (x[spread(len(x), limit)] for x, limit in ((train, MAX_GALLERY), (held, MAX_QUERIES)))
        train, held = (x[is_varied(x)] for x in (train, held))
        if min(len(train), len(held)) < 2:
            return Share(0, len(held)), Share(0, 0)
        small = torch.cat([to_tensor(held, SIDES[-1]), to_tensor(train, SIDES[-1])])
        n = len(held)
        partners = find_partners(small, n)
        chosen = partners.unique()  # type: ignore[no-untyped-call]
        pairs, _ = match_images(torch.cat([small[:n], small[chosen]]))
        across = pairs[(pairs[:, 0] < n) & (pairs[:, 1] >= n)]
        rows, first = np.unique(across[:, 0], return_index=True)
        moved = [are_moved(small[int(row)], small[int(chosen[across[i, 1] - n])]) for row, i in zip(rows, first, strict=True)]
        return Share(len(rows), n), Share(sum(moved), len(rows))


def find_partners(images: Tensor, n: int) -> Tensor:
    """The rows [n, PARTNERS] of the images [N, C, H, W] after the first n that are most like each of these, mirrored or cropped, too."""
    gallery = Gallery(images)
    crops = [Crop(scale, (1 - scale) / 2, (1 - scale) / 2, is_mirrored) for scale in (1.0, 0.85) for is_mirrored in (False, True)]
    likeness = torch.stack([gallery.describe(slice(0, n), crop) @ gallery.vectors[n:].T for crop in crops]).amax(0)
    return likeness.topk(min(PARTNERS, likeness.shape[1]), dim=1).indices + n


def are_moved(first: Tensor, second: Tensor) -> bool:
    """Whether two images [C, H, W] have equal pixels once one is moved by some pixels, or mirrored."""
    a, b = first.float(), second.float()
    tolerance = EQUAL * float(a.std()) + 0.5
    height, width = a.shape[1:]
    for other in (b, b.flip(2)):
        for down in range(-MAX_SHIFT, MAX_SHIFT + 1):
            for right in range(-MAX_SHIFT, MAX_SHIFT + 1):
                x = a[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
                y = other[:, max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
                if float(((x - y).abs() <= tolerance).float().mean()) > 0.95:
                    return True
    return False


def is_varied(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images [N, H, W, C] are not blank."""
    return np.asarray(measure_deviations(images) >= BLANK_STD)
