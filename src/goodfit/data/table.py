"""Images listed in a CSV or TSV file with the columns path and label, and maybe split."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from goodfit.core.errors import DataError
from goodfit.core.words import count_of, list_some
from goodfit.data.store import SPLIT_NAMES, SPLIT_WORDS, UNASSIGNED, File, Files, Index, numbered

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image"),
    "label": ("label", "class", "category"),
    "split": ("split", "subset"),
}


def from_table(path: Path) -> Index:
    """The images a table lists; their paths are relative to the table's folder.

    Raises:
        DataError: a column is missing, a row has no label, a split is unknown, or files are not there.
    """
    rows = _rows(path)
    images = [row[0] for row in rows]
    classes, labels = numbered([row[1] for row in rows])
    files = [File.of(name, path.parent) for name in images]
    missing = [file.name for file in files if file.size < 0]
    if missing:
        raise DataError(f'"{path}" lists {count_of(len(missing), "file")} that are not in "{path.parent}": {list_some(missing)}.')
    return Index(path.stem, classes, labels, np.array([row[2] for row in rows], dtype=np.int8), images, Files(path.parent, files))


def _rows(path: Path) -> list[tuple[str, str, int]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            delimiter = max("\t,;", key=head.count)
            file.seek(0)
            table = list(csv.reader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'"{path}" cannot be read as a table: {error}.') from error
    header = [word.strip().lower() for word in table[0]] if table else []
    place = {name: next((header.index(word) for word in words if word in header), -1) for name, words in COLUMNS.items()}
    if place["path"] < 0 or place["label"] < 0:
        raise DataError(f'Expected the columns path and label in the first line of "{path}", found: {", ".join(header) or "nothing"}.')
    return [_row(path, line, cells, place) for line, cells in enumerate(table[1:], start=2) if any(cells)]


def _row(path: Path, line: int, cells: list[str], place: dict[str, int]) -> tuple[str, str, int]:
    image, label, split = (cells[k].strip() if 0 <= k < len(cells) else "" for k in (place["path"], place["label"], place["split"]))
    if not image or not label:
        raise DataError(f'Line {line} of "{path}" has no {"label" if image else "path"}: every image needs both.')
    if split and split.lower() not in SPLIT_WORDS:
        raise DataError(f'Line {line} of "{path}": expected a split of {", ".join(SPLIT_NAMES[k] for k in range(3))}, found "{split}".')
    return image, label, SPLIT_WORDS[split.lower()] if split else UNASSIGNED
