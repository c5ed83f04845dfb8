"""Reads tables: CSV and TSV files with the columns path and label, and maybe split."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.escapes import restore_name
from goodfit.core.memory import check_memory
from goodfit.core.words import list_some
from goodfit.data.files import open_data_file
from goodfit.data.index import SPLITS, TRAIN, UNASSIGNED
from goodfit.data.names import find_splits
from goodfit.data.opening import IMAGE_SUFFIXES

COLUMN_NAMES = {  # other names of columns, without spaces, "_" and "-"
    "path": (
        "path", "file", "filename", "image", "imagepath", "filepath", "imagename", "imagefile", "imageid", "img", "imgpath", "imgname",
    ),
    "label": ("label", "class", "category", "target", "labels", "classname", "classlabel"),
    "split": ("split", "subset"),
    "group": ("group",),
}  # fmt: skip
DELIMITERS = "\t,;|"
ENCODINGS = (  # by what a file starts with; the first two bytes of UTF-32 are those of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
ARCHIVE_REASONS = {
    b"\x1f\x8b": "it is gzipped: unpack it",
    b"PK\3\4": "it is an Excel file or a zip archive: save the sheet as CSV, or unpack it",
}
MEMORY_PER_BYTE = 12  # of a table's text, when its cells are read
PIXEL_COLUMNS = 64  # with fewer, no image can be marker from a table of other things


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV or TSV file: its `header` in lower case, and the cells of the rows that are not blank, with their line numbers.

    `names` are the words of the header as they are written.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]
    names: tuple[str, ...] = ()

    def find_column(self, name: str) -> int | None:
        """The place of the column that stands under this or another name for it."""
        words = [re.sub(r"[\s_-]", "", word) for word in self.header]
        return next((words.index(word) for word in COLUMN_NAMES[name] if word in words), None)

    def has_column(self, name: str) -> bool:
        """Whether a column stands under this or another name for it."""
        return self.find_column(name) is not None

    def column(self, name: str) -> list[str]:
        """The cells of a column, empty where a row is too short or the column is missing."""
        place = self.find_column(name)
        return ["" for _ in self.rows] if place is None else self.cells(place)

    def cells(self, place: int) -> list[str]:
        """The cells of the column at a place, empty where a row is too short."""
        return [cells[place] if place < len(cells) else "" for _, cells in self.rows]

    def splits(self) -> tuple[list[str], str]:
        """The cells of the column of splits, by its name or because all its cells are words such as train and PublicTest; its name."""
        if (named := self.find_column("split")) is not None:
            return self.cells(named), self.header[named]
        known = {self.find_column(name) for name in COLUMN_NAMES}
        for place, name in enumerate(self.header):
            cells = self.cells(place)
            words = {cell.strip() for cell in cells}
            if place not in known and all(len(find_splits(word)) == 1 for word in words - {""}):
                splits = {min(find_splits(word)) for word in words - {""}}
                if TRAIN in splits and len(splits) > 1:
                    return cells, name
        return ["" for _ in self.rows], ""

    def require(self, *names: str) -> None:
        """Check that columns are there.

        Raises:
            DataError: one of them is not.
        """
        if not all(self.has_column(name) for name in names):
            columns = list_some([word[:40] for word in self.header], 10) or "nothing"
            others = [f"for {name} {', '.join(COLUMN_NAMES[name][1:5])}" for name in names if len(COLUMN_NAMES[name]) > 1]
            hint = f"other names are {'; '.join(others)}"
            if any(word.endswith(tuple(IMAGE_SUFFIXES)) for word in self.header):
                hint = f"put a line with {','.join(names)} above it"
            elif self.has_column("path") and self.rows and all({*cells[1:]} <= {"0", "1", " 0", " 1"} for _, cells in self.rows):
                hint = "of one-hot columns, make one with the names of the classes, or read several labels an image by --task labels"
            raise DataError(f'Expected the columns {" and ".join(names)} in the first line of "{self.path}", found: {columns}; {hint}.')


def read_table(path: Path) -> Table:
    """Read a CSV or TSV file, in UTF-8 or with a mark of its encoding; the first line tells what separates its cells.

    Names in it may be escaped as `escape_name` does.

    Raises:
        DataError: the file cannot be read, or holds pixels.
    """
    text = _read_text(path)
    marker = re.match(r'"?sep=([,;|\t])"?(\r\n|\r|\n)', text)  # Excel's own first line
    text = text[marker.end() :] if marker else text
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=marker[1] if marker else _find_delimiter(text))
        rows = ((reader.line_num + bool(marker), [*map(restore_name, cells)]) for cells in reader if any(map(str.strip, cells)))
        names = tuple(word.strip() for word in next(rows, (0, []))[1])
        table = Table(path, [name.lower() for name in names], [], names)
        _refuse_pixels(table)  # before as many cells are read
        return dataclasses.replace(table, rows=list(rows))
    except csv.Error as error:
        raise DataError(f'"{path}" cannot be read as a table: {error}.') from error


def _read_text(path: Path) -> str:
    with open_data_file(path) as file:
        start = file.read(1000)
        encoding = next((name for mark, name in ENCODINGS if start.startswith(mark)), "utf-8")
        reason = next((reason for mark, reason in ARCHIVE_REASONS.items() if start.startswith(mark)), "")
        if encoding.startswith("utf-8") and b"\0" in start:
            reason = reason or "it holds NUL bytes, which no text has: save it as UTF-8"
        if reason:
            raise DataError(f'"{path}" cannot be read as a table: {reason}.')
        check_memory(MEMORY_PER_BYTE * path.stat().st_size, f'"{path}"')
        content = start + file.read()
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start : error.start + 1]
        letter = f', in Windows-1252 "{guess}"' if (guess := byte.decode("cp1252", "ignore")) else ""
        raise DataError(
            f'"{path}" cannot be read as a table: its line {line} is not {encoding.upper()} (byte 0x{byte.hex()}{letter}); '
            'save it as UTF-8, in Excel as "CSV UTF-8".'
        ) from error


def _find_delimiter(text: str) -> str:
    """Find what separates the cells: that by which most names of columns are found in the first line, then that which stands there most."""
    line = next((line for line in text[:100_000].splitlines() if line.strip()), "")

    def count(delimiter: str) -> tuple[int, int]:
        table = Table(Path(), [word.strip().strip('"').lower() for word in line.split(delimiter)], [])
        return sum(map(table.has_column, COLUMN_NAMES)), line.count(delimiter)

    return max(DELIMITERS, key=count)


def _refuse_pixels(table: Table) -> None:
    """Refuse tables with a column for each pixel.

    Raises:
        DataError: it is one.
    """
    n, label, has_names = len(table.header) - 1, table.find_column("label"), not all(map(str.isdecimal, table.header))
    if n < PIXEL_COLUMNS or table.has_column("path") or (has_names and label is None):
        return
    side = math.isqrt(n)
    shape = f"{side}, {side}" if side * side == n else "height, width"
    images, labels = ("t[:, :-1]", "t[:, -1]") if label == n else ("t[:, 1:]", "t[:, 0]")
    raise DataError(
        f'"{table.path}" has {n + 1} columns and none with paths, as tables of pixels have: make an .npz file of it with NumPy, by '
        f't = np.loadtxt("{table.path.name}", delimiter=",", skiprows={int(has_names)}, dtype=np.uint8); '
        f'np.savez("{table.path.stem}.npz", images={images}.reshape(-1, {shape}), labels={labels}).'
    )


def find_split_tables(folder: Path) -> list[Path]:
    """Find the tables of a folder that are named after splits, such as train.csv and test.csv; none if there is no other beside train."""
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".csv", ".tsv") and find_name_split(file) != UNASSIGNED)
    splits = {find_name_split(file) for file in tables}
    return tables if TRAIN in splits and len(splits) > 1 else []


def find_name_split(path: Path) -> int:
    """The split that the name of a table says, UNASSIGNED if it says none or several."""
    splits = find_splits(path.stem)
    return min(splits) if len(splits) == 1 else UNASSIGNED


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
