"""Turns what the user typed into a checked index of images, whatever their format."""

from __future__ import annotations

import dataclasses
import difflib
import glob
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError, find_nearest
from goodfit.core.fetch import Say
from goodfit.core.words import list_some
from goodfit.data.arrays import find_idx_files, index_idx, index_npz
from goodfit.data.builtin import BUILTIN_NAMES, index_builtin
from goodfit.data.cifar import index_cifar, is_cifar_folder
from goodfit.data.folder import index_folder
from goodfit.data.index import SPLITS, TRAIN, UNASSIGNED, Index, IntArray, draw_sort_keys
from goodfit.data.labels import check_classes
from goodfit.data.opening import IMAGE_SUFFIXES
from goodfit.data.parquet import index_parquet
from goodfit.data.shards.places import is_shard_pattern, is_url
from goodfit.data.table import find_split_tables
from goodfit.data.table_index import index_split_tables, index_table
from goodfit.data.table_targets import CLASSES, TargetSpec
from goodfit.data.targets import check_targets

ARCHIVES = (".zip", ".tar", ".tgz", ".bz2", ".xz", ".rar", ".7z")


def index_images(data: str, limit: int = 0, seed: int = 0, say: Say = lambda text: None, spec: TargetSpec = CLASSES) -> Index:
    """Index the images at a path (folder, CSV, TSV, parquet, npz, IDX, CIFAR pickles), or those of a built-in dataset.

    `limit` keeps at most that many images per class and split (0: all), chosen by `seed` and the images' names; `say` gets a line
    when something is fetched, and `spec` says what is read of each image.

    Raises:
        DataError: the path does not exist, or its images cannot be trained on.
    """
    path = find_data(data)
    if path is None and data not in BUILTIN_NAMES:
        raise DataError(f'"{data}" is of shards, which are streamed: read them by a recipe, as goodfit train does.')
    index = index_builtin(data, say) if path is None else _index_path(path, spec)
    if index.task != spec.task:
        raise DataError(
            f'"{data}" has one class for each image, no {spec.task}: these are read from a CSV or TSV file, a folder with a labels.csv,'
            " parquet files or an .npz file."
        )
    check_trainable(index, data)
    return _limit_images(index, limit, seed) if limit else index


def find_data(data: str) -> Path | None:
    """The path that data names; None for a built-in dataset, and for shards at a URL or of a pattern.

    Raises:
        DataError: there is nothing of that name.
    """
    path = Path(data).expanduser()
    try:
        if path.exists():
            return path
    except OSError as error:
        raise DataError(f'"{data}" cannot be read: {error.strerror}.') from error
    if data not in BUILTIN_NAMES and not is_url(data) and not is_shard_pattern(data):
        raise DataError(_explain_missing(path))
    return None


def _index_path(path: Path, spec: TargetSpec) -> Index:
    name = path.name.lower().removesuffix(".gz")
    if path.is_dir():
        if is_cifar_folder(path):
            return index_cifar(path)
        if pairs := find_idx_files(path):
            return index_idx(path, pairs)
        return index_parquet(path, spec) if _holds_parquet(path) else _index_folder(path, spec)
    if not path.is_file():
        raise DataError(f'Expected a file or a folder, found a pipe or a device at "{path}".')
    if name.endswith((".csv", ".tsv")):
        return index_table(path, spec)
    if name.endswith(".parquet"):
        return index_parquet(path, spec)
    if name.endswith(".npz"):
        return index_npz(path, spec)
    if pairs := find_idx_files(path):
        return index_idx(path, pairs)
    unpack = "; unpack it first" if name.endswith(ARCHIVES) else ""
    raise DataError(f'Expected a folder of images, a .csv, .tsv, .parquet, .npz or IDX images file, received "{path}"{unpack}.')


def _index_folder(path: Path, spec: TargetSpec) -> Index:
    """Index class folders, or where there are none, tables named after splits; labels and numbers by a table labels.csv or such tables."""
    if spec.task != "classes":
        if table := next((file for file in (path / "labels.csv", path / "labels.tsv") if file.is_file()), None):
            return dataclasses.replace(index_table(table, spec), name=path.resolve().name or "images")
        if tables := find_split_tables(path):
            return index_split_tables(path, tables, spec)
        raise DataError(f'Expected a table labels.csv in "{path}" with the column path and the {spec.task} of each image, found none.')
    try:
        index = index_folder(path)
    except DataError:
        if tables := find_split_tables(path):
            return index_split_tables(path, tables)
        raise
    tables = find_split_tables(path) if len(index.classes) == 1 else []
    return index_split_tables(path, tables) if tables else index


def _holds_parquet(path: Path) -> bool:
    """Look for parquet files in the folder and up to two folders down, as the Hub lays them out (data/, <config>/<split>/)."""
    for pattern in ("*", "*/*", "*/*/*"):
        for file in path.glob(pattern):
            if file.suffix == ".parquet" and not file.name.startswith("."):
                return True
            if file.suffix.lower() in IMAGE_SUFFIXES:  # the first image decides, so that large folders are not listed twice
                return False
    return False


def _explain_missing(path: Path) -> str:
    if glob.has_magic(path.name) and path.parent.is_dir():
        return f'Expected a folder, file or name of data, received the pattern "{path}": did you mean "{path.parent}"?'
    parent = next((p for p in path.parents if p.is_dir()), Path())
    wanted = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else path.name
    try:
        neighbors = [p.name for p in parent.iterdir() if not p.name.startswith(".")]
    except OSError:
        neighbors = []
    similar = [str(parent / name) for name in difflib.get_close_matches(wanted, neighbors, n=3, cutoff=0.5)]
    similar += [name for name in (find_nearest(path.name, list(BUILTIN_NAMES)),) if name]
    hint = f" Did you mean {', '.join(similar)}?" if similar else ""
    return f'Expected images at "{path}", found nothing there, and it is not one of {", ".join(BUILTIN_NAMES)}.{hint}'


def check_trainable(index: Index, data: str) -> None:
    """Refuse data that cannot be trained on.

    Raises:
        DataError: no images, one class, classes without images or without training images, names that are none or look alike.
    """
    if not len(index):
        raise DataError(f'"{data}" lists no images.')
    if index.task == "classes" and len(index.classes) < 2:
        raise DataError(f'Expected at least two classes in "{data}", found one: {index.classes[0]}.')
    (check_classes if index.task == "classes" else check_targets)(index, data)
    counts = index.count_outputs(np.arange(len(index)))
    if not counts.all():
        raise DataError(f'"{data}" has no images of {list_some([index.classes[k] for k in np.flatnonzero(counts == 0)])}.')
    is_training = np.isin(index.splits, (TRAIN, UNASSIGNED))
    if not is_training.any():
        raise DataError(f'"{data}" has {" and ".join(SPLITS[k] for k in np.unique(index.splits))} images, but none to train on.')
    untrained = np.flatnonzero(index.count_outputs(np.flatnonzero(is_training)) == 0)
    if len(untrained):
        k = int(untrained[0])
        have = index.labels == k if index.targets is None else index.targets[:, k] > 0
        kind, split = "class" if index.task == "classes" else "label", SPLITS[index.splits[have][0]]
        raise DataError(f'The {kind} "{index.classes[k]}" in the {split} images of "{data}" has no training images.')


def _limit_images(index: Index, limit: int, seed: int) -> Index:
    groups = index.labels * 4 + index.splits
    rows = _lowest_per_group(groups, draw_sort_keys(index.names, seed, "limit"), limit)
    subset = index.take(np.sort(rows))
    note = f"At most {limit} images per class and split: {len(rows):,} of {len(index):,}."
    return dataclasses.replace(subset, notes=(*subset.notes, note))


def _lowest_per_group(groups: IntArray, keys: NDArray[np.uint64], n: int) -> IntArray:
    """Pick the rows with the `n` lowest keys of each group."""
    order = np.lexsort((keys, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    lowest: IntArray = order[rank < n]
    return lowest
