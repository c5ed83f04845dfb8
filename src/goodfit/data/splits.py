"""Decides which images train, validate and test: the data's own splits are kept, missing ones are stratified and seeded by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.escapes import escape_name, format_csv
from goodfit.core.files import write_atomic
from goodfit.core.words import count_of, format_percent, list_some
from goodfit.data.index import SPLITS, TEST, TRAIN, UNASSIGNED, VALIDATION, Index, IntArray, draw_sort_keys
from goodfit.data.store import hash_fields
from goodfit.data.table import parse_splits, read_table


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The rows of each split, in ascending order; `notes` has a sentence for each split made here, `digest` hashes names and splits."""

    train: IntArray
    validation: IntArray
    test: IntArray
    notes: tuple[str, ...]
    digest: str


def make_splits(index: Index, usable: NDArray[np.bool_], validation: float, seed: int, test: float = 0.2) -> Splits:
    """Split the `usable` [N] images.

    A split that the data has is kept. If it has no validation images, a share `validation` of the training images of each class is taken;
    if it has neither test nor validation images, a share `test` is taken before that. The choice follows from `seed` and each image's
    name, so adding an image moves at most one other per class.

    Raises:
        DataError: a class has no training image.
    """
    splits = np.where(index.splits == UNASSIGNED, TRAIN, index.splits).astype(np.int8)
    splits[~usable] = UNASSIGNED
    notes: list[str] = []
    has_validation, has_test = bool((index.splits == VALIDATION).any()), bool((index.splits == TEST).any())
    if not has_test and not has_validation:
        notes += _hold_out(index, splits, TEST, test, seed)
    if not has_validation:
        notes += _hold_out(index, splits, VALIDATION, validation, seed)
    counts = np.bincount(index.labels[splits == TRAIN], minlength=len(index.classes))
    if not counts.all():
        raise DataError(f"No training image is left for {list_some([index.classes[k] for k in np.flatnonzero(counts == 0)])}.")
    train, validating, testing = (np.flatnonzero(splits == k) for k in (TRAIN, VALIDATION, TEST))
    return Splits(train, validating, testing, tuple(notes), hash_fields("\0".join(index.names), splits.tobytes()))


def _hold_out(index: Index, splits: NDArray[np.int8], target: int, share: float, seed: int) -> list[str]:
    """Move a share of each class's training rows to the split `target`, at least one if a class has two or more; return notes."""
    if share <= 0:
        return []
    rows = np.flatnonzero(splits == TRAIN)
    keys = draw_sort_keys([index.names[int(row)] for row in rows], seed, SPLITS[target])
    order = np.lexsort((keys, index.labels[rows]))
    counts = np.bincount(index.labels[rows], minlength=len(index.classes))
    moved = np.clip(np.rint(counts * share).astype(np.int64), np.minimum(counts // 2, 1), np.maximum(counts - 1, 0))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    splits[rows[np.concatenate([order[start : start + n] for start, n in zip(starts, moved, strict=True)])]] = target
    short = [index.classes[k] for k in np.flatnonzero((moved == 0) & (counts > 0))]
    images = count_of(int(moved.sum()), "image")
    notes = [f"The data has no {SPLITS[target]} split: {format_percent(share, 0)} of each class, {images}, are held out by seed {seed}."]
    return [*notes, f"Too few images for {SPLITS[target]} ones of: {list_some(short)}."] if short else notes


def write_splits(path: Path, index: Index, splits: Splits) -> None:
    """Write path, label and split of every used image to a CSV, in the order of the index; `assign_splits` and `index_table` read it."""
    words = {int(row): word for word in SPLITS for row in getattr(splits, word)}
    classes = list(map(escape_name, index.classes))
    rows = ((escape_name(index.names[row]), classes[index.labels[row]], words[row]) for row in sorted(words))
    write_atomic(path, format_csv([("path", "label", "split"), *rows]) + "\n")


def assign_splits(index: Index, path: Path) -> Index:
    """Give the images the splits listed in a CSV or TSV file, such as `write_splits` writes; images not listed keep theirs.

    A note says how many images the file lists.

    Raises:
        DataError: the file has no columns path and split, or lists none of the images.
    """
    table = read_table(path)
    table.require("path", "split")
    splits = parse_splits(table, table.column("split"))
    split_of = dict(zip(table.column("path"), splits.tolist(), strict=True))
    listed = np.array([split_of.get(name, UNASSIGNED) for name in index.names], dtype=np.int8)
    n = int((listed != UNASSIGNED).sum())
    if not n:
        raise DataError(f'"{path}" names none of the images, such as {index.names[0]}.')
    previous = np.where(index.splits == UNASSIGNED, TRAIN, index.splits).astype(np.int8)
    note = f'"{path}" gives the split of {n:,} of {count_of(len(index), "image")}'
    note += "." if n == len(index) else ": the others keep their split, and those without one are for training."
    splits = np.where(listed == UNASSIGNED, previous, listed).astype(np.int8)
    return dataclasses.replace(index, splits=splits, notes=(*index.notes, note), split_source=f'"{path.name}"')
