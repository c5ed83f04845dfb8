"""Leakage: held-out images whose picture the training images have, too; pair by pair, and as a share where noise hides the single pair."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.interval import wilson_interval
from goodfit.data.index import TRAIN, UNASSIGNED, IntArray
from goodfit.doctor.audit.candidates import Gallery
from goodfit.doctor.audit.near_duplicates import SIDES, NearDuplicates
from goodfit.doctor.pixels import to_tensor

MAX_IMAGES = 2000  # of each split that are looked up among all training images
QUANTILE = 0.99  # of the training images, which held-out ones exceed by chance as often
# The least share of held-out images that is believed, at the lower end of its interval: of sets split at random none had more than 0.011.
MIN_EXCESS = 0.02
MIN_TRAIN, MIN_HELD = 100, 30  # fewer images say nothing on how near neighbors are


@dataclasses.dataclass(frozen=True, eq=False)
class Leak:
    """Images of a held-out split that show the same picture as a training image: their `rows`, of these with equal bytes `exact`, the
    training image of each, `sources`, and the `share` of the `n` images of the split with its 95 % `interval`.
    """

    rows: IntArray
    sources: IntArray
    exact: IntArray
    n: int
    share: float
    interval: tuple[float, float]


def find_leak(duplicates: NearDuplicates, splits: NDArray[np.integer], held: int) -> Leak:
    """The images of the split `held` among near duplicates of training images, by the `splits` [N] of all images.

    Equal bytes lead from one image to the next; near duplicates count for themselves alone.
    """
    original = np.arange(duplicates.n)
    exact_pairs = duplicates.pairs[duplicates.is_exact]
    original[exact_pairs[:, 1]] = exact_pairs[:, 0]
    first_trained: dict[int, int] = {}
    for row in np.flatnonzero(splits == TRAIN).tolist():
        first_trained.setdefault(int(original[row]), row)
    sources: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero(splits == held).tolist():
        members.setdefault(int(original[row]), []).append(row)
        if int(original[row]) in first_trained:
            sources[row] = first_trained[int(original[row])]
    exact = sorted(sources)
    for a, b in duplicates.pairs[~duplicates.is_exact].tolist():
        for here, there in ((a, b), (b, a)):
            if int(original[there]) in first_trained:
                for row in members.get(int(original[here]), []):
                    sources.setdefault(row, first_trained[int(original[there])])
    rows, n = sorted(sources), int((splits == held).sum())
    return Leak(
        np.array(rows, dtype=np.int64),
        np.array([sources[row] for row in rows], dtype=np.int64),
        np.array(exact, dtype=np.int64),
        n,
        len(rows) / max(n, 1),
        wilson_interval(len(rows), n) if n else (0.0, 1.0),
    )


@dataclasses.dataclass(frozen=True)
class ExcessLikeness:
    """The `share` of held-out images that lie nearer to a training image than training images lie to each other, beyond what chance gives,
    and its 95 % `interval`.
    """

    share: float
    interval: tuple[float, float]

    @property
    def is_leak(self) -> bool:
        return self.interval[0] > MIN_EXCESS


def measure_excess_likeness(images: NDArray[np.uint8], splits: NDArray[np.integer], seed: int = 0) -> ExcessLikeness:
    """Measure how many held-out images are copies of training images with noise or another brightness, by the `splits` [N] of images.

    For a held-out image and its nearest training image t, the likeness is compared with that of t to the training image next to it. Were
    both drawn alike, the held-out image would be as often the nearer one as any training image is.
    """
    train, held = np.flatnonzero(splits == TRAIN), np.flatnonzero((splits != TRAIN) & (splits != UNASSIGNED))
    if len(train) < MIN_TRAIN or len(held) < MIN_HELD:
        return ExcessLikeness(0.0, (0.0, 1.0))
    vectors = Gallery(to_tensor(images, SIDES[-1])).vectors
    gallery = vectors[torch.from_numpy(train)]
    chosen = Chance.of(seed, torch.arange(len(train)), "excess likeness").permutation()[:MAX_IMAGES]
    held = held[Chance.of(seed, torch.arange(len(held)), "excess likeness").permutation()[:MAX_IMAGES].numpy()]
    likeness, nearest = _find_two(gallery[chosen], gallery, chosen)
    usual = likeness[:, 0] - _likeness_of_next(gallery, nearest[:, 0], without=chosen)
    likeness, nearest = _find_two(vectors[torch.from_numpy(held)], gallery, None)
    found = likeness[:, 0] - _likeness_of_next(gallery, nearest[:, 0], without=None)
    above = int((found > float(usual.quantile(QUANTILE))).sum())
    low, high = wilson_interval(above, len(held))
    share, low, high = (max(0.0, (x - (1 - QUANTILE)) / QUANTILE) for x in (above / len(held), low, high))
    return ExcessLikeness(share, (low, high))


def _find_two(queries: Tensor, gallery: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Fisher's z of the likeness [n, 2] of queries to the two nearest of a gallery, and their places [n, 2]; not to the `own` places."""
    values, places = [], []
    for start in range(0, len(queries), 256):
        cosines = queries[start : start + 256] @ gallery.T
        if own is not None:
            cosines[torch.arange(len(cosines)), own[start : start + 256]] = -1.0
        best = cosines.topk(2, dim=1)
        values.append(torch.atanh(best.values.clamp(-0.9999, 0.99999)))
        places.append(best.indices)
    return torch.cat(values), torch.cat(places)


def _likeness_of_next(gallery: Tensor, places: Tensor, without: Tensor | None) -> Tensor:
    """Fisher's z of the likeness [n] of the images at some places to the nearest other of the gallery, which is not that of `without`."""
    likeness, nearest = _find_two(gallery[places], gallery, places)
    if without is None:
        return likeness[:, 0]
    return torch.where(nearest[:, 0] == without, likeness[:, 1], likeness[:, 0])
