"""Indexes images listed in CSV or TSV files, with their classes, labels or numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.words import count_of, list_some
from goodfit.data.index import NAMES_OF_FILES, TRAIN, UNASSIGNED, Index
from goodfit.data.opening import IMAGE_SUFFIXES
from goodfit.data.store import FileStat, FileStore
from goodfit.data.table import Table, find_name_split, find_split_tables, parse_splits, read_table
from goodfit.data.table_targets import CLASSES, TargetSpec, read_table_answers


def index_table(path: Path, spec: TargetSpec = CLASSES) -> Index:
    """Index the images that a table lists; their paths are relative to the table's folder. `spec` says what is read of each.

    Raises:
        DataError: a column is missing, a row has no path or label, a split is unknown, or files do not exist.
    """
    index = _index_tables(path, [read_table(path)], spec)
    others = [file.name for file in find_split_tables(path.parent) if file != path] if find_name_split(path) == TRAIN else []
    beside = (f'{list_some(others)} beside "{path.name}" {"is" if len(others) == 1 else "are"} not read: name the folder to read all.',)
    return dataclasses.replace(index, notes=index.notes + beside) if others else index


def index_split_tables(folder: Path, paths: Sequence[Path], spec: TargetSpec = CLASSES) -> Index:
    """Index the images that several tables of a folder list, as `index_table` does; those without labels are left out.

    Raises:
        DataError: as `index_table`.
    """
    tables = [read_table(path) for path in paths]
    used = [table for table in tables if spec.are_in(table) or find_name_split(table.path) == TRAIN]
    index = _index_tables(folder, used, spec)
    notes = [f'"{table.path.name}" has no labels: left out.' for table in tables if table not in used]
    return dataclasses.replace(index, notes=(*index.notes, *notes))


def _index_tables(path: Path, tables: Sequence[Table], spec: TargetSpec) -> Index:
    """Index the images of tables in one folder; the split of an image is that of its row, else that of its table's name."""
    images: list[str] = []
    files: list[FileStat] = []
    splits: list[NDArray[np.int8]] = []
    notes: list[str] = []
    sources: list[str] = []
    for table in tables:
        table.require("path", *spec.required_columns)
        words, column = table.splits()
        paths = [cell.strip() for cell in table.column("path")]
        if line := next((line for (line, _), image in zip(table.rows, paths, strict=True) if not image), 0):
            raise DataError(f'Line {line} of "{table.path}" has no path: every image needs {spec.needs}.')
        found, more = _find_files(table, paths)
        split = find_name_split(table.path)
        images, files, notes = [*images, *paths], [*files, *found], [*notes, *more]
        splits.append(parse_splits(table, words) if column else np.full(len(paths), split, dtype=np.int8))
        sources += [f'the column "{column}"'] if column else [] if split == UNASSIGNED else [NAMES_OF_FILES]
    answers = read_table_answers(tables, spec, f'"{path}"')
    root, source = tables[0].path.parent, " and ".join(dict.fromkeys(sources))
    store = FileStore(root, files)
    return answers.index(path.stem, np.concatenate(splits), images, store, (*answers.notes, *notes), source)


def _find_files(table: Table, images: Sequence[str]) -> tuple[list[FileStat], tuple[str, ...]]:
    """Find the files that paths name, also with Windows' separators or without their suffix; a note says that they are written so.

    Raises:
        DataError: files are not there.
    """
    root = table.path.parent
    files = [FileStat.of(image, root) for image in images]
    absent = [k for k, file in enumerate(files) if file.size < 0]
    if not absent:
        return files, ()
    list_folder = functools.cache(functools.partial(_list_images, root))
    for k in absent:
        folder, _, stem = images[k].replace("\\", "/").rpartition("/")
        found = list_folder(folder).get(stem, [])
        files[k] = FileStat.of(found[0], root) if len(found) == 1 else files[k]
    unread = [k for k in absent if files[k].size < 0]  # what is there, but no file, is a broken image
    if missing := [images[k] for k in unread if not os.path.exists(root / images[k])]:  # noqa: PTH110  Path.exists raises on long names
        line = table.rows[images.index(missing[0])][0]
        if re.match(r"[a-z][a-z0-9+.-]*://", missing[0], re.IGNORECASE):
            raise DataError(f'Line {line} of "{table.path}" gives an address, "{missing[0]}": download the images, and give their paths.')
        are = "file that is" if len(missing) == 1 else "files that are"
        elsewhere = next((file for file in sorted(root.glob("*/*")) if file.name == Path(missing[0]).name), None)
        hint = f' There is "{elsewhere.relative_to(root).as_posix()}": write the paths so.' if elsewhere else ""
        raise DataError(
            f'"{table.path}" lists {len(missing):,} {are} not in "{root}", the first in line {line}: {list_some(missing)}.{hint}'
        )
    first = next((k for k in absent if files[k].size >= 0), None)
    n = len(absent) - len(unread)
    return files, () if first is None else (f'Read {count_of(n, "path")} such as "{images[first]}" as "{files[first].name}".',)


def _list_images(root: Path, folder: str) -> dict[str, list[str]]:
    """The paths of the images in a folder, by their file names with and without their suffix."""
    paths: dict[str, list[str]] = {}
    with contextlib.suppress(OSError, ValueError):  # ValueError: a NUL byte in its name
        for name in os.listdir(root / folder):  # noqa: PTH208  Path.iterdir makes a Path of each
            stem, suffix = os.path.splitext(name)  # noqa: PTH122  likewise
            if suffix.lower() in IMAGE_SUFFIXES:
                for key in (name, stem):
                    paths.setdefault(key, []).append(f"{folder}/{name}".removeprefix("/"))
    return paths
