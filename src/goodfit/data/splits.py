"""Which images train, validate and test: given splits are kept, missing ones are made stratified and seeded by the images' names."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.files import write_atomic
from goodfit.core.words import count_of, format_percent, list_some
from goodfit.data.store import SPLIT_NAMES, SPLIT_WORDS, TEST, TRAIN, UNASSIGNED, VALIDATION, Index, hashed, name_scores

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Rows of each split, in ascending order; `made` has a sentence for each split that was made here, `digest` hashes names and splits."""

    train: Rows
    validation: Rows
    test: Rows
    made: tuple[str, ...]
    digest: str


def split(index: Index, good: NDArray[np.bool_], validation: float, seed: int, test: float = 0.2) -> Splits:
    """The splits of the images that are `good` [N].

    A split the data has is kept. Where it has no validation images, a share `validation` of the training images of each class is taken;
    where it has neither test nor validation images, a share `test` before that. Which ones follows from `seed` and each image's name, so
    one image more moves at most one other a class.

    Raises:
        DataError: a class has no training image.
    """
    own = np.where(index.splits == UNASSIGNED, TRAIN, index.splits).astype(np.int8)
    own[~good] = UNASSIGNED
    made: list[str] = []
    has_validation, has_test = bool((index.splits == VALIDATION).any()), bool((index.splits == TEST).any())
    if not has_test and not has_validation:
        made += _take(index, own, TEST, test, seed)
    if not has_validation:
        made += _take(index, own, VALIDATION, validation, seed)
    counts = np.bincount(index.labels[own == TRAIN], minlength=len(index.classes))
    if not counts.all():
        raise DataError(f"No training image is left for {list_some([index.classes[k] for k in np.flatnonzero(counts == 0)])}.")
    train, held, tested = (np.flatnonzero(own == k) for k in (TRAIN, VALIDATION, TEST))
    return Splits(train, held, tested, tuple(made), hashed("\0".join(index.names), own.tobytes()))


def _take(index: Index, own: NDArray[np.int8], which: int, share: float, seed: int) -> list[str]:
    """Move a share of each class's training rows to another split, at least one where a class has two or more."""
    if share <= 0:
        return []
    rows = np.flatnonzero(own == TRAIN)
    scores = name_scores([index.names[int(row)] for row in rows], seed, SPLIT_NAMES[which])
    order = np.lexsort((scores, index.labels[rows]))
    counts = np.bincount(index.labels[rows], minlength=len(index.classes))
    wanted = np.clip(np.rint(counts * share).astype(np.int64), np.minimum(counts // 2, 1), np.maximum(counts - 1, 0))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    moved = [order[start : start + n] for start, n in zip(starts, wanted, strict=True)]
    own[rows[np.concatenate(moved)]] = which
    few = [index.classes[k] for k in np.flatnonzero((wanted == 0) & (counts > 0))]
    sentence = f"The {SPLIT_NAMES[which]} split is made: {format_percent(share, 0)} of each class, {count_of(int(wanted.sum()), 'image')}, by seed {seed}."
    return [sentence, *([f"Too few images for {SPLIT_NAMES[which]} ones of: {list_some(few)}."] if few else [])]


def write_csv(path: Path, index: Index, splits: Splits) -> None:
    """Write path, label and split of every image that is used, in the order of the index; `find` and `assign` read it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "label", "split"))
    words = {int(row): word for word in ("train", "validation", "test") for row in getattr(splits, word)}
    table.writerows((index.names[row], index.classes[index.labels[row]], words[row]) for row in sorted(words))
    write_atomic(path, text.getvalue())


def assign(index: Index, path: Path) -> Index:
    """The index with the splits that a file of `write_csv` gives its images; the others keep their own. A note says how many it names.

    Raises:
        DataError: the file has no columns path and split, or names none of the images.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if not {"path", "split"} <= set(table.fieldnames or ()):
                raise DataError(
                    f'Expected the columns path and split in "{path}", found: {", ".join(table.fieldnames or ()) or "nothing"}.'
                )
            words = {row["path"]: row["split"] or "" for row in table}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'"{path}" cannot be read as a table of splits: {error}.') from error
    wrong = sorted({word for word in words.values() if word and word.lower() not in SPLIT_WORDS})
    if wrong:
        raise DataError(f'Expected splits of train, validation or test in "{path}", found: {list_some(wrong)}.')
    given = np.array([SPLIT_WORDS.get(words.get(name, "").lower(), UNASSIGNED) for name in index.names], dtype=np.int8)
    named = int((given != UNASSIGNED).sum())
    if not named:
        raise DataError(f'"{path}" names none of the images, such as {index.names[0]}.')
    own = np.where(index.splits == UNASSIGNED, TRAIN, index.splits).astype(np.int8)
    note = f'"{path}" gives the split of {named:,} of {count_of(len(index), "image")}'
    note += "." if named == len(index) else ": the others stay where they were, those that were nowhere are for training."
    return dataclasses.replace(index, splits=np.where(given == UNASSIGNED, own, given).astype(np.int8), notes=(*index.notes, note))
