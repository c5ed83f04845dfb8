"""Indexes images listed in a CSV or TSV file with the columns path and label, and maybe split."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.escapes import restore_name
from goodfit.core.words import count_of, list_some
from goodfit.data.index import SPLITS, TRAIN, UNASSIGNED, Index, encode_labels
from goodfit.data.names import find_splits
from goodfit.data.store import FileStat, FileStore

COLUMN_NAMES = {
    "path": ("path", "file", "filename", "file_name", "image"),
    "label": ("label", "class", "category"),
    "split": ("split", "subset"),
    "group": ("group",),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV or TSV file: its `header` in lower case, and the cells of the rows that are not blank, with their line numbers."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def has_column(self, name: str) -> bool:
        """Whether a column stands under this or another name for it."""
        return any(word in self.header for word in COLUMN_NAMES[name])

    def column(self, name: str) -> list[str]:
        """The cells of a column, empty where a row is too short or the column is missing."""
        place = next((self.header.index(word) for word in COLUMN_NAMES[name] if word in self.header), None)
        return ["" for _ in self.rows] if place is None else self.cells(place)

    def cells(self, place: int) -> list[str]:
        """The cells of the column at a place, empty where a row is too short."""
        return [cells[place] if place < len(cells) else "" for _, cells in self.rows]

    def splits(self) -> tuple[list[str], str]:
        """The cells of the column of splits, by its name or because all its cells are words such as train and PublicTest; its name."""
        if self.has_column("split"):
            return self.column("split"), next(word for word in COLUMN_NAMES["split"] if word in self.header)
        known = {word for words in COLUMN_NAMES.values() for word in words}
        for place, name in enumerate(self.header):
            cells = [cell.strip() for cell in self.cells(place)]
            splits = [find_splits(cell) for cell in cells]
            if name not in known and all(len(found) == 1 for found in splits) and {TRAIN} in splits and len({*map(min, splits)}) > 1:
                return cells, name
        return ["" for _ in self.rows], ""

    def require(self, *names: str) -> None:
        """Check that columns are there.

        Raises:
            DataError: one of them is not.
        """
        if not all(self.has_column(name) for name in names):
            columns = ", ".join(self.header) or "nothing"
            raise DataError(f'Expected the columns {" and ".join(names)} in the first line of "{self.path}", found: {columns}.')


def read_table(path: Path) -> Table:
    """Read a CSV or TSV file; the first line tells whether tabs, commas or semicolons separate its cells.

    Names in it may be escaped as `escape_name` does.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first_line = file.readline()
            file.seek(0)
            lines = list(csv.reader(file, delimiter=max("\t,;", key=first_line.count)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'"{path}" cannot be read as a table: {error}.') from error
    header = [word.strip().lower() for word in lines[0]] if lines else []
    return Table(path, header, [(number, [*map(restore_name, cells)]) for number, cells in enumerate(lines[1:], start=2) if any(cells)])


def index_table(path: Path) -> Index:
    """Index the images that a table lists; their paths are relative to the table's folder.

    Raises:
        DataError: a column is missing, a row has no path or label, a split is unknown, or files do not exist.
    """
    table = read_table(path)
    table.require("path", "label")
    words, column = table.splits()
    images, labels = ([cell.strip() for cell in table.column(name)] for name in ("path", "label"))
    for (line, _), image, label in zip(table.rows, images, labels, strict=True):
        if not image or not label:
            raise DataError(f'Line {line} of "{path}" has no {"label" if image else "path"}: every image needs both.')
    classes, numbers = encode_labels(labels)
    files = [FileStat.of(name, path.parent) for name in images]
    missing = [file.name for file in files if file.size < 0]
    if missing:
        raise DataError(f'"{path}" lists {count_of(len(missing), "file")} that are not in "{path.parent}": {list_some(missing)}.')
    source = f'the column "{column}"' if column else ""
    return Index(path.stem, classes, numbers, parse_splits(table, words), images, FileStore(path.parent, files), split_source=source)


def parse_splits(table: Table, words: Sequence[str]) -> NDArray[np.int8]:
    """Turn the split words [N] of a table's rows into splits [N]; an empty word is UNASSIGNED.

    Raises:
        DataError: a word is no split.
    """
    found = [find_splits(word) for word in words]
    for (line, _), word, splits in zip(table.rows, words, found, strict=True):
        if word.strip() and len(splits) != 1:
            raise DataError(f'Line {line} of "{table.path}": expected a split of {", ".join(SPLITS)}, found "{word}".')
    return np.array([min(splits, default=UNASSIGNED) for splits in found], dtype=np.int8)
