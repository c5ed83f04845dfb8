"""Decides which images train, validate and test: the data's own splits are kept, missing ones are stratified and seeded by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.escapes import escape_name, format_csv
from goodfit.core.files import atomic_writer
from goodfit.core.words import count_of, format_percent, list_some
from goodfit.data.duplicates import choose_duplicates_to_drop, describe_duplicates, differ_among_duplicates, find_first_places
from goodfit.data.index import SPLITS, TEST, TRAIN, UNASSIGNED, VALIDATION, Index, IntArray, draw_sort_keys
from goodfit.data.store import hash_fields
from goodfit.data.table import parse_splits, read_table

LINES_AT_ONCE = 10_000  # of the table of splits, which are in memory


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The rows of each split, in ascending order; `notes` has a sentence for each split made here, `digest` hashes names and splits."""

    train: IntArray
    validation: IntArray
    test: IntArray
    notes: tuple[str, ...]
    digest: str
    leaked: int = 0  # validation images that are training images too, byte for byte


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """How splits that the data lacks are made: the shares of each class held out, the seed, and whether duplicates are dropped before."""

    validation: float
    seed: int
    test: float = 0.2
    drop_duplicates: bool = False


def make_splits(index: Index, usable: NDArray[np.bool_], rule: SplitRule, originals: IntArray | None = None) -> Splits:
    """Split the `usable` [N] images.

    A split that the data has is kept. If it has no validation images, a share of the training images of each class is taken; if it has
    neither test nor validation images, another share is taken before that. The choice follows from the rule's seed and each image's name,
    so adding an image moves at most one other per class. `originals` [N] (`duplicates.find_originals`) keeps duplicates of an image in
    one split, those with several labels in training.

    Raises:
        DataError: a class has no training image.
    """
    notes: list[str] = []
    originals = np.arange(len(index)) if originals is None else originals
    if rule.drop_duplicates:
        dropped = choose_duplicates_to_drop(index, originals)
        usable, originals = usable & ~dropped, np.arange(len(index))
        notes.append(f"Left out {count_of(int(dropped.sum()), 'duplicate')}.")
    splits = np.where(index.splits == UNASSIGNED, TRAIN, index.splits).astype(np.int8)
    splits[~usable] = UNASSIGNED
    has_validation, has_test = bool((index.splits == VALIDATION).any()), bool((index.splits == TEST).any())
    if not has_test and not has_validation:
        notes += _hold_out(index, splits, TEST, rule.test, rule.seed, originals)
    if not has_validation:
        notes += _hold_out(index, splits, VALIDATION, rule.validation, rule.seed, originals)
    counts, judged = (index.count_outputs(np.flatnonzero(splits == k)) for k in (TRAIN, VALIDATION))
    if not counts.all():
        raise DataError(f"No training image is left for {list_some([index.classes[k] for k in np.flatnonzero(counts == 0)])}.")
    if has_validation and len(absent := np.flatnonzero(judged == 0)):
        notes.append(f"No validation image is of {list_some([index.classes[k] for k in absent])}: how well these are told is not measured.")
    notes += describe_duplicates(index, splits, originals)
    train, validating, testing = (np.flatnonzero(splits == k) for k in (TRAIN, VALIDATION, TEST))
    leaked = int(np.isin(originals[validating], originals[train]).sum())
    return Splits(train, validating, testing, tuple(notes), hash_fields("\0".join(index.names), splits.tobytes()), leaked)


def _hold_out(index: Index, splits: NDArray[np.int8], target: int, share: float, seed: int, originals: IntArray) -> list[str]:
    """Move a share of each class's training rows to the split `target`, at least one if a class has two or more; return notes."""
    if share <= 0:
        return []
    rows = np.flatnonzero(splits == TRAIN)
    places = find_first_places(originals[rows])
    is_agreed = ~differ_among_duplicates(index.answers[rows], places)
    rows, first = rows[is_agreed], rows[places][is_agreed]  # the first of the same bytes, so that those of one picture have one key
    keys = draw_sort_keys([index.names[int(row)] for row in first], seed, SPLITS[target])
    rows = rows[np.lexsort((originals[rows], keys, index.labels[rows]))]
    counts = np.bincount(index.labels[rows], minlength=len(index.strata))
    shares = np.clip(np.rint(counts * share).astype(np.int64), np.minimum(counts // 2, 1), np.maximum(counts - 1, 0))
    by_class = np.split(rows, np.cumsum(counts)[:-1])
    moved = [part[_pick_whole_groups(originals[part], n)] for part, n in zip(by_class, shares.tolist(), strict=True)]
    splits[np.concatenate(moved)] = target
    short = [name for name, part, chosen in zip(index.strata, by_class, moved, strict=True) if len(part) and not len(chosen)]
    images = count_of(sum(map(len, moved)), "image")
    of = {"classes": "of each class", "labels": "with like labels", "numbers": f"of each fifth of {index.classes[0]}"}[index.task]
    notes = [f"The data has no {SPLITS[target]} split: {format_percent(share, 0)} {of}, {images}, are held out by seed {seed}."]
    return [*notes, f"Too few images for {SPLITS[target]} ones of: {list_some(short)}."] if short else notes


def _pick_whole_groups(originals: IntArray, n: int) -> NDArray[np.bool_]:
    """Pick rows [N], those with the same bytes standing together: from the first on the groups that fit into `n` rows.

    Where none fits it is the smallest, if no more than half of the rows are of it.
    """
    starts = np.flatnonzero(np.r_[True, originals[1:] != originals[:-1]][: len(originals)])
    ends, picked, left = np.r_[starts[1:], len(originals)], np.zeros(len(originals), dtype=bool), n
    for start, end in zip(starts.tolist(), ends.tolist(), strict=False):
        if end - start <= left:
            picked[start:end] = True
            left -= end - start
    if left == n > 0:
        smallest = int((ends - starts).argmin())
        picked[starts[smallest] : ends[smallest]] = 2 * (ends - starts)[smallest] <= len(originals)
    return picked


def write_splits(path: Path, index: Index, splits: Splits) -> None:
    """Write path, label and split of every used image to a CSV, in the order of the index.

    `assign_splits` reads it, and `index_table` where the task is classes; several labels or numbers stand in one cell, for people.
    """
    split_of = np.full(len(index), UNASSIGNED, dtype=np.int8)
    for split, word in enumerate(SPLITS):
        split_of[getattr(splits, word)] = split
    used = np.flatnonzero(split_of != UNASSIGNED)
    with atomic_writer(path) as file:
        file.write((format_csv([("path", "label", "split")]) + "\n").encode())
        for rows in np.array_split(used, range(LINES_AT_ONCE, len(used), LINES_AT_ONCE)):
            lines = [
                (escape_name(index.names[row]), escape_name(index.describe_answer(row)), SPLITS[split_of[row]]) for row in rows.tolist()
            ]
            file.write((format_csv(lines) + "\n").encode(errors="backslashreplace") if lines else b"")


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
