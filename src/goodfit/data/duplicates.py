"""Duplicates: images whose bytes are those of an earlier one, found by the hashes that the pack keeps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from goodfit.core.words import count_of
from goodfit.data.index import Index, IntArray

Mask = NDArray[np.bool_]


def find_originals(hashes: NDArray[np.uint8], usable: Mask) -> IntArray:
    """The first row with the same bytes as each image: int64 [N], its own row where there is none before it or it is not `usable` [N].

    `hashes` [N, bytes] are a whole number of 8 bytes each.
    """
    rows = np.flatnonzero(usable)
    words = np.ascontiguousarray(hashes[rows]).view(np.uint64)
    order = np.lexsort(words.T)  # stable: rows with the same bytes stay in ascending order
    starts = np.r_[True, (words[order[1:]] != words[order[:-1]]).any(axis=1)][: len(rows)]
    originals = np.arange(len(hashes))
    originals[rows[order]] = rows[order[starts]][np.cumsum(starts) - 1]
    return originals


def find_first_places(originals: IntArray) -> IntArray:
    """For some images, in ascending order and with their `originals` [n], the place among them of the first with the same bytes [n]."""
    _, first, group = np.unique(originals, return_index=True, return_inverse=True)
    return first[group]


def differ_among_duplicates(values: NDArray[np.integer], originals: IntArray) -> Mask:
    """Whether `values` [N] differ among the images with the same bytes as each image: bool [N]."""
    differs = np.zeros(len(values), dtype=bool)
    differs[originals[values != values[originals]]] = True
    return differs[originals]


def choose_duplicates_to_drop(index: Index, originals: IntArray) -> Mask:
    """Of images with the same bytes all but one, a test or validation image staying before a training one; all if their labels differ."""
    order = np.lexsort((-index.splits, originals))
    dropped = np.zeros(len(index), dtype=bool)
    dropped[order[1:][originals[order[1:]] == originals[order[:-1]]]] = True
    return dropped | differ_among_duplicates(index.answers, originals)


def describe_duplicates(index: Index, splits: NDArray[np.int8], originals: IntArray) -> list[str]:
    """Say how many images are duplicates, and which stand in several of the `splits` [N] or have several labels."""
    n = int((originals != np.arange(len(index))).sum())
    if not n:
        return []
    notes = [
        f"{count_of(n, 'image is a duplicate', 'images are duplicates')} of another, byte for byte; --drop-duplicates leaves them out."
    ]
    for values, what, consequence in (
        (splits, "in several splits", ": scores on held-out images come out too good"),
        (index.answers, "under several labels", ": each time at least one of them is wrong"),
    ):
        if n := len(found := np.unique(originals[differ_among_duplicates(values, originals)])):
            first = found[0]
            other = np.flatnonzero((originals == first) & (values != values[first]))[0]
            pair = f"such as {index.names[first]} and {index.names[other]}"
            notes.append(f"{count_of(n, 'picture stands', 'pictures stand')} {what}, {pair}{consequence}.")
    return notes
