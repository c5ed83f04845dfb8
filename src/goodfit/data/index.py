"""Finds the images: from what the user typed to a checked table of them."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.fetch import Say
from goodfit.core.words import list_some
from goodfit.data.arrays import from_idx, from_npz, idx_files
from goodfit.data.folder import SUFFIXES, from_folder
from goodfit.data.named import NAMES, from_name
from goodfit.data.parquet import from_parquet
from goodfit.data.pickles import from_cifar, is_cifar
from goodfit.data.store import SPLIT_NAMES, TEST, TRAIN, UNASSIGNED, VALIDATION, Index, Store, name_scores
from goodfit.data.table import from_table

__all__ = ["TEST", "TRAIN", "UNASSIGNED", "VALIDATION", "Index", "Store", "find"]


def find(data: str, limit: int = 0, seed: int = 0, say: Say = lambda text: None) -> Index:
    """The images at a path (folder, CSV, TSV, parquet, npz, IDX, CIFAR pickles), or of a data set known by name.

    `limit` keeps at most that many images per class and split (0: all), chosen by `seed` and the images' names; `say` gets a line
    when something is fetched.

    Raises:
        DataError: there is nothing there, or it is nothing to train on.
    """
    path = Path(data).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        raise DataError(f'"{data}" cannot be read: {error.strerror}.') from error
    if there:
        index = _at(path)
    elif data in NAMES:
        index = from_name(data, say)
    else:
        raise DataError(_missing(path))
    _check(index, data)
    return _limited(index, limit, seed) if limit else index


def _at(path: Path) -> Index:
    kind = path.name.lower().removesuffix(".gz")
    if path.is_dir():
        if is_cifar(path):
            return from_cifar(path)
        if pairs := idx_files(path):
            return from_idx(path, pairs)
        return from_parquet(path) if _holds_parquet(path) else from_folder(path)
    if kind.endswith((".csv", ".tsv")):
        return from_table(path)
    if kind.endswith(".parquet"):
        return from_parquet(path)
    if kind.endswith(".npz"):
        return from_npz(path)
    if pairs := idx_files(path):
        return from_idx(path, pairs)
    raise DataError(f'Expected a folder of images, a .csv, .tsv, .parquet, .npz or IDX images file, found "{path}".')


def _holds_parquet(path: Path) -> bool:
    """Parquet files in the folder, or one or two folders down, as the Hub lays them out (data/, <config>/<split>/)."""
    for pattern in ("*", "*/*", "*/*/*"):
        for file in path.glob(pattern):
            if file.suffix == ".parquet" and not file.name.startswith("."):
                return True
            if file.suffix.lower() in SUFFIXES:  # the first image decides, so that large folders are not listed twice
                return False
    return False


def _missing(path: Path) -> str:
    parent = next((p for p in path.parents if p.is_dir()), Path())
    wanted = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else path.name
    try:
        there = [p.name for p in parent.iterdir() if not p.name.startswith(".")]
    except OSError:
        there = []
    near = [str(parent / name) for name in difflib.get_close_matches(wanted, there, n=3, cutoff=0.5)]
    near += difflib.get_close_matches(path.name, NAMES, n=2, cutoff=0.6)
    hint = f" Near it: {', '.join(near)}." if near else ""
    return f'Expected images at "{path}", found nothing there; nor is it one of {", ".join(NAMES)}.{hint}'


def _check(index: Index, data: str) -> None:
    """What training cannot do without.

    Raises:
        DataError: no images, one class, classes without images or without training images, names that differ only by case.
    """
    if not len(index):
        raise DataError(f'"{data}" lists no images.')
    if len(index.classes) < 2:
        raise DataError(f'Expected at least two classes in "{data}", found one: {index.classes[0]}.')
    lower: dict[str, str] = {}
    for name in index.classes:
        if (other := lower.setdefault(name.lower(), name)) != name:
            raise DataError(f'The classes "{other}" and "{name}" in "{data}" differ only by case: rename or join them.')
    counts = np.bincount(index.labels, minlength=len(index.classes))
    if not counts.all():
        raise DataError(f'"{data}" has no images of {list_some([index.classes[k] for k in np.flatnonzero(counts == 0)])}.')
    training = np.isin(index.splits, (TRAIN, UNASSIGNED))
    if not training.any():
        raise DataError(f'"{data}" has {" and ".join(SPLIT_NAMES[int(k)] for k in np.unique(index.splits))} images, but none to train on.')
    unknown = np.flatnonzero(np.bincount(index.labels[training], minlength=len(index.classes)) == 0)
    if len(unknown):
        k = int(unknown[0])
        where = SPLIT_NAMES[int(index.splits[index.labels == k][0])]
        raise DataError(f'The class "{index.classes[k]}" in the {where} images of "{data}" has no training images.')


def _limited(index: Index, limit: int, seed: int) -> Index:
    groups = index.labels * 4 + index.splits
    rows = lowest(groups, name_scores(index.names, seed, "limit"), limit)
    kept = index.take(np.sort(rows))
    return dataclasses.replace(kept, notes=(*kept.notes, f"At most {limit} images per class and split: {len(rows):,} of {len(index):,}."))


def lowest(groups: NDArray[np.int64], scores: NDArray[np.uint64], most: int) -> NDArray[np.int64]:
    """The rows with the `most` lowest scores of each group."""
    order = np.lexsort((scores, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    kept: NDArray[np.int64] = order[rank < most]
    return kept
