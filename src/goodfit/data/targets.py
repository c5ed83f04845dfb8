"""Targets: from the labels or numbers that a format has of each image to a table [N, K], and what splits are stratified by."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from goodfit.core.errors import DataError
from goodfit.core.figures import TaskName
from goodfit.core.words import count_of, list_some, natural_order
from goodfit.data.index import FloatArray, Index, IntArray
from goodfit.data.labels import CONTAINERS, encode_labels
from goodfit.data.store import Array, Store

STRATA = 5  # of numbers: groups of as many images, by the first number
NO_LABEL = "images without a label"


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What was read of N images: the names of the classes, labels or numbers, and as in `Index` `labels` [N] and `targets` [N, K]."""

    task: TaskName
    classes: tuple[str, ...]
    labels: IntArray
    targets: FloatArray | None = None
    stratum_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def index(
        self, name: str, splits: Array, images: Sequence[str], store: Store, notes: tuple[str, ...] = (), split_source: str = ""
    ) -> Index:
        """The index of these images."""
        return Index(
            name, self.classes, self.labels, splits, images, store, notes, split_source, self.task, self.targets, self.stratum_names
        )


def make_answers(task: TaskName, names: Sequence[str], targets: FloatArray, notes: Sequence[str] = ()) -> Answers:
    """The answers of a task other than classes, by their targets [N, K]."""
    labels, strata = stratify(task, names, targets)
    return Answers(task, tuple(names), labels, targets, strata, tuple(notes))


def stratify(task: TaskName, names: Sequence[str], targets: FloatArray) -> tuple[IntArray, tuple[str, ...]]:
    """Group images for splits that are alike: by the rarest label of each, or by the fifth in which its first number lies.

    Returns the group [N] of each image and the names of the groups. Source: the first step of Sechidis et al. 2011 (the label of the
    fewest images is dealt out first).
    """
    if task == "labels":
        counts = targets.sum(0)
        rarest = np.where(targets > 0, counts, np.inf).argmin(1)
        groups, group_names = np.where(targets.any(1), rarest, len(names)), (*names, NO_LABEL)
    else:
        edges = np.quantile(targets[:, 0], [k / STRATA for k in range(1, STRATA)]) if len(targets) else np.zeros(0)
        groups = np.searchsorted(edges, targets[:, 0], side="left")
        group_names = tuple(f"fifth {k + 1} of {names[0]}" for k in range(STRATA))
    present, labels = np.unique(groups, return_inverse=True)
    return labels.reshape(-1).astype(np.int64), tuple(group_names[k] for k in present)


def encode_rows(task: TaskName, names: Sequence[str], rows: Sequence[Sequence[Any]] | Array, classes: Sequence[str], place: str) -> Answers:
    """Turn rows [N] of values, one for each of the columns `names`, into the answers of labels or numbers.

    Labels are lists in one column, of names or of places among the `classes` that the data lists, or 0 and 1 in several. Numbers are one
    in each column, or a list of the same length in one.

    Raises:
        DataError: they are not.
    """
    if len(names) == 1 and len(rows) and isinstance(rows[0][0], CONTAINERS):
        lists = [list(row[0]) for row in rows]
        if task == "labels":
            return encode_label_lists(lists, classes, place)
        names, rows = [f"{names[0]} {k + 1}" for k in range(len(lists[0]))], lists
        if uneven := next((k for k, row in enumerate(rows) if len(row) != len(names)), 0):
            raise DataError(f"Expected {count_of(len(names), 'number')} an image in {place}, found {len(rows[uneven])} in row {uneven}.")
    return encode_values(task, classes if len(classes) == len(names) else names, rows, place)


def encode_values(task: TaskName, names: Sequence[str], rows: Sequence[Sequence[Any]] | Array, place: str) -> Answers:
    """Turn values [N, K], numbers or 0 and 1 for labels, into answers.

    Raises:
        DataError: they are none, or not finite.
    """
    try:
        targets = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    except (ValueError, TypeError) as error:
        raise DataError(f"Expected {task} in {place} that are {_kind(task)}, found {reprlib.repr(rows[0])}.") from error
    wrong = ~np.isfinite(targets) if task == "numbers" else ~np.isin(targets, (0, 1))
    if wrong.any():
        row, k = np.argwhere(wrong)[0]
        hint = ' (a list of labels goes into one column, "cat;dog")' if task == "labels" else ": leave out images without one"
        raise DataError(
            f"Expected {task} in {place} that are {_kind(task)}, found {targets[row, k]:g} for {names[k]}, as in row {row}{hint}."
        )
    return make_answers(task, names, targets)


def _kind(task: TaskName) -> str:
    return "finite numbers" if task == "numbers" else "0 or 1 for each label"


def encode_label_lists(lists: Sequence[Sequence[Any]], classes: Sequence[str], place: str, notes: Sequence[str] = ()) -> Answers:
    """Turn a list of labels for each of N images, names or places among the `classes` that the data lists, into answers.

    Raises:
        DataError: a label is none.
    """
    flat = [value for labels in lists for value in labels]
    if not flat:
        raise DataError(f"Expected labels in {place}, found none.")
    found, numbers = encode_labels(flat, place)
    if classes and all(name.isdecimal() and int(name) < len(classes) for name in found):
        names, places = list(classes), [int(name) for name in found]
    else:
        names = sorted(found, key=natural_order)
        places = [names.index(name) for name in found]
    targets = np.zeros((len(lists), len(names)))
    rows = np.repeat(np.arange(len(lists)), [len(labels) for labels in lists])
    targets[rows, np.array(places)[numbers]] = 1
    return make_answers("labels", names, targets, notes)


def check_targets(index: Index, data: str) -> None:
    """Refuse labels or numbers that cannot be learned.

    Raises:
        DataError: two have one name, or all numbers of one kind are equal.
    """
    assert index.targets is not None
    names = [" ".join(name.split()) for name in index.classes]
    if twice := [name for name in names if not name or names.count(name) > 1]:
        raise DataError(f'"{data}" has {index.task} of the same name, or of none: "{twice[0]}"; give each a name of its own.')
    if index.task == "numbers":
        constant = [name for name, values in zip(index.classes, index.targets.T, strict=True) if values.min() == values.max()]
    else:
        constant = [name for name, values in zip(index.classes, index.targets.T, strict=True) if values.all()]
    if constant:
        what = "the same number" if index.task == "numbers" else "the label"
        raise DataError(f'All images in "{data}" have {what} {list_some(constant)}: there is nothing to learn; leave it out by --targets.')
