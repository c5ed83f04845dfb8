"""Counts of images: missing and rare classes, splits that are too small, odd sizes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from goodfit.core.interval import wilson_interval
from goodfit.data.index import SPLITS, IntArray

MAX_IMBALANCE = 20.0  # the most frequent class against the rarest: beyond it the rare ones have a visible part in few batches
WIDE_INTERVAL = 0.05  # half the width of the interval of an accuracy of 0.9 that says too little to compare by
ODD_SIZE = 4.0  # times smaller or larger than the median, by the shorter side
ODD_ASPECT = 3.0  # the longer against the shorter side


@dataclasses.dataclass(frozen=True, eq=False)
class ClassCounts:
    """Images by split and class: `counts` [3, K] in the order of SPLITS.

    `missing` are (split, class) without images of splits that have any, `imbalance` is the most frequent training class against the rarest,
    and `effective` how many equally frequent classes would be as varied.
    """

    counts: IntArray
    missing: tuple[tuple[str, int], ...]
    imbalance: float
    effective: float


def count_classes(labels: IntArray, splits: NDArray[np.integer], classes: int) -> ClassCounts:
    """Count the images of each split (0 training, 1 validation, 2 test; others are left out) and class."""
    counts = np.stack([np.bincount(labels[splits == split], minlength=classes) for split in range(len(SPLITS))])
    missing = [(SPLITS[s], k) for s in range(len(SPLITS)) if counts[s].any() for k in range(classes) if not counts[s, k]]
    train = counts[0]
    shares = train[train > 0] / max(int(train.sum()), 1)
    imbalance = float(train.max() / max(int(train[train > 0].min()), 1)) if train.any() else 1.0
    return ClassCounts(counts, tuple(missing), imbalance, float(np.exp(-(shares * np.log(shares)).sum())))


def expected_half_width(n: int, accuracy: float = 0.9) -> float:
    """Half the width of the 95 % interval of an accuracy measured on n images; 1 for none."""
    if n < 1:
        return 1.0
    low, high = wilson_interval(round(accuracy * n), n)
    return (high - low) / 2


def is_too_small(n: int) -> bool:
    """Whether an accuracy measured on n images says too little: its interval is wider than 5 points to each side."""
    return expected_half_width(n) > WIDE_INTERVAL


@dataclasses.dataclass(frozen=True, eq=False)
class OddSizes:
    """Rows of images that are far `smaller`, far `larger` or far `longer` than the others, and the counts of each kind of channels."""

    smaller: IntArray
    larger: IntArray
    longer: IntArray
    kinds: dict[int, int]


def find_odd_sizes(widths: IntArray, heights: IntArray, channels: IntArray) -> OddSizes:
    """Find images of odd sizes by their `widths`, `heights` and `channels` [N]; 0 where an image is broken."""
    usable = channels > 0
    shorter, longer = np.minimum(widths, heights), np.maximum(widths, heights)
    median = float(np.median(shorter[usable])) if usable.any() else 1.0
    return OddSizes(
        np.flatnonzero(usable & (shorter * ODD_SIZE < median)),
        np.flatnonzero(usable & (shorter > median * ODD_SIZE)),
        np.flatnonzero(usable & (longer > ODD_ASPECT * np.maximum(shorter, 1))),
        dict(Counter(channels[usable].tolist())),
    )
