"""Folds: which images validate in each of K trainings, every class dealt out evenly and no group of images in two folds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from goodfit.core.errors import DataError, UsageError
from goodfit.core.words import count_of, list_some
from goodfit.data.duplicates import find_first_places
from goodfit.data.index import Index, IntArray, draw_sort_keys
from goodfit.data.splits import Splits
from goodfit.data.store import hash_fields
from goodfit.data.table import read_table

GROUP_COLUMN = "group"
FOLDS_FILE = "folds.json"  # the results, in a folder of folds


@dataclasses.dataclass(frozen=True, eq=False)
class Folds:
    """The `fold` [n] int64 of each of the `rows` [n] of an index that train or validate; `test` rows stay test rows in every fold."""

    rows: IntArray
    fold: IntArray
    test: IntArray

    @property
    def count(self) -> int:
        """The number of folds."""
        return int(self.fold.max()) + 1

    def splits(self, fold: int) -> Splits:
        """The splits of one training: the fold validates, the others train."""
        train, validation = self.rows[self.fold != fold], self.rows[self.fold == fold]
        return Splits(train, validation, self.test, (), hash_fields(train.tobytes(), validation.tobytes(), self.test.tobytes()))


def make_folds(
    index: Index,
    splits: Splits,
    folds: int,
    seed: int,
    groups: Mapping[str, str] | None = None,
    originals: IntArray | None = None,
) -> Folds:
    """Deal the training and validation images of some splits into folds; the test images are left alone.

    `groups` gives the group of an image by its name, empty or missing where it is a group of its own: images of one group (a patient,
    a scene, a burst) are in one fold; without groups, those with the same `originals` [N] (`duplicates.find_originals`) are. Which images
    go where follows from `seed` and their names.

    Raises:
        UsageError: there are fewer than two folds.
        DataError: there are fewer images or groups than folds, or a class would be missing from some training.
    """
    if folds < 2:
        raise UsageError(f"Expected 2 folds or more, received {folds}.")
    rows = np.sort(np.concatenate([splits.train, splits.validation]))
    names, labels = [index.names[row] for row in rows], index.labels[rows]
    if groups is None:
        first = np.arange(len(rows)) if originals is None else find_first_places(originals[rows])
        alone, fold = np.unique(first), np.empty(len(rows), dtype=np.int64)
        fold[alone] = deal_stratified(labels[alone], [names[place] for place in alone], folds, seed)
        fold, what = fold[first], "image"
    else:
        group = [groups.get(name) or f"\0{name}" for name in names]  # no text of a table holds a NUL: none meets a group's name
        fold, what = deal_groups(labels, group, folds, seed), "group"
    if len(np.unique(fold)) < folds:
        raise DataError(f"Expected {folds} {what}s or more to train and validate on for {folds} folds, found fewer.")
    for k in range(folds):
        missing = np.flatnonzero((index.count_outputs(rows) > 0) & (index.count_outputs(rows[fold != k]) == 0))
        if len(missing):
            rule = f"its images must be 2 {what}s or more" + (", which go to different folds" if groups else "")
            raise DataError(f"Fold {k + 1} holds every image of {list_some([index.classes[c] for c in missing])}: {rule}.")
    return Folds(rows, fold, splits.test)


def deal_stratified(labels: IntArray, names: Sequence[str], folds: int, seed: int) -> IntArray:
    """Deal images into folds [n]: every class, in a random order, evenly, each starting where the class before it ended."""
    order = np.lexsort((draw_sort_keys(names, seed, "folds"), labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def deal_groups(labels: IntArray, groups: Sequence[str], folds: int, seed: int) -> IntArray:
    """Deal images into folds [n], whole groups at a time: each group, those of the most uneven classes first, goes where the shares of
    the classes then differ least between the folds.

    Source: the greedy rule of scikit-learn's StratifiedGroupKFold.
    """
    group_names, group_of = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    classes, labels = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(group_names), len(classes)))
    np.add.at(counts, (group_of, labels), 1)
    shares = counts / counts.sum(0)
    fold_shares = np.zeros((folds, len(classes)))
    fold_sizes = np.zeros(folds)
    fold = np.empty(len(group_names), dtype=np.int64)
    for group in np.lexsort((draw_sort_keys(group_names.tolist(), seed, "folds"), -counts.std(1))):
        shares_if_taken = fold_shares[None] + np.eye(folds)[:, :, None] * shares[group]  # [the fold that takes it, fold, class]
        unevenness = shares_if_taken.std(1).mean(1)
        chosen = min(range(folds), key=lambda k: (round(float(unevenness[k]), 12), fold_sizes[k]))
        fold[group] = chosen
        fold_shares[chosen] += shares[group]
        fold_sizes[chosen] += counts[group].sum()
    result: IntArray = fold[group_of]
    return result


def read_groups(path: Path) -> dict[str, str] | None:
    """Read the group of each image, by name, from a CSV or TSV file with the columns path and group; None if it has no such column.

    Raises:
        DataError: the file cannot be read, or has no column path.
    """
    table = read_table(path)
    if not table.has_column(GROUP_COLUMN):
        return None
    table.require("path", GROUP_COLUMN)
    return {name.strip(): group.strip() for name, group in zip(table.column("path"), table.column(GROUP_COLUMN), strict=True)}


def find_groups(index: Index, data: str, file: Path | None) -> dict[str, str] | None:
    """The groups that a file, or else the table that lists the images, gives; None where there are none.

    Raises:
        UsageError: the file is not there.
        DataError: it has no column group, or names none of the images.
    """
    if file is None:
        table = Path(data).expanduser()
        return read_groups(table) if table.suffix.lower() in (".csv", ".tsv") and table.is_file() else None
    if not file.is_file():
        raise UsageError(f'Expected --groups to be a CSV with the columns path and {GROUP_COLUMN}, found no file "{file}".')
    groups = read_groups(file)
    if groups is None:
        raise DataError(f'Expected the columns path and {GROUP_COLUMN} in "{file}", found no {GROUP_COLUMN}.')
    if not any(name in groups for name in index.names):
        raise DataError(f'"{file}" names none of the images, such as {index.names[0]}.')
    return groups


def describe_folds(folds: Folds, groups: Mapping[str, str] | None) -> str:
    """Describe the folds in a sentence."""
    sizes = np.bincount(folds.fold)
    between = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
    note = ", no group in two" if groups is not None else ""
    return f"{folds.count} folds of {between} images, stratified{note}; {count_of(len(folds.test), 'test image')} left alone."
