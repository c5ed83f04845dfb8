"""Indexes images listed in a CSV or TSV file with the columns path and label, and maybe split."""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import functools
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.escapes import restore_name
from goodfit.core.memory import check_memory
from goodfit.core.words import count_of, list_some
from goodfit.data.files import open_data_file
from goodfit.data.index import NAMES_OF_FILES, SPLITS, TRAIN, UNASSIGNED, Index
from goodfit.data.labels import encode_labels
from goodfit.data.names import find_splits
from goodfit.data.opening import IMAGE_SUFFIXES
from goodfit.data.store import FileStat, FileStore

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
    """A CSV or TSV file: its `header` in lower case, and the cells of the rows that are not blank, with their line numbers."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

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
                hint = "of one-hot columns, make one with the names of the classes"
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
        table = Table(path, [word.strip().lower() for word in next(rows, (0, []))[1]], [])
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


def index_table(path: Path) -> Index:
    """Index the images that a table lists; their paths are relative to the table's folder.

    Raises:
        DataError: a column is missing, a row has no path or label, a split is unknown, or files do not exist.
    """
    index = _index_tables(path, [read_table(path)])
    others = [file.name for file in find_split_tables(path.parent) if file != path] if find_name_split(path) == TRAIN else []
    beside = (f'{list_some(others)} beside "{path.name}" {"is" if len(others) == 1 else "are"} not read: name the folder to read all.',)
    return dataclasses.replace(index, notes=index.notes + beside) if others else index


def index_split_tables(folder: Path, paths: Sequence[Path]) -> Index:
    """Index the images that several tables of a folder list, as `index_table` does; those without labels are left out.

    Raises:
        DataError: as `index_table`.
    """
    tables = [read_table(path) for path in paths]
    used = [table for table in tables if table.has_column("label") or find_name_split(table.path) == TRAIN]
    index = _index_tables(folder, used)
    notes = [f'"{table.path.name}" has no labels: left out.' for table in tables if table not in used]
    return dataclasses.replace(index, notes=(*index.notes, *notes))


def _index_tables(path: Path, tables: Sequence[Table]) -> Index:
    """Index the images of tables in one folder; the split of an image is that of its row, else that of its table's name."""
    images: list[str] = []
    labels: list[str] = []
    files: list[FileStat] = []
    splits: list[NDArray[np.int8]] = []
    notes: list[str] = []
    sources: list[str] = []
    for table in tables:
        table.require("path", "label")
        words, column = table.splits()
        paths, names = ([cell.strip() for cell in table.column(name)] for name in ("path", "label"))
        for (line, _), image, label in zip(table.rows, paths, names, strict=True):
            if not image or not label:
                raise DataError(f'Line {line} of "{table.path}" has no {"label" if image else "path"}: every image needs both.')
        found, more = _find_files(table, paths)
        split = find_name_split(table.path)
        images, labels, files, notes = [*images, *paths], [*labels, *names], [*files, *found], [*notes, *more]
        splits.append(parse_splits(table, words) if column else np.full(len(paths), split, dtype=np.int8))
        sources += [f'the column "{column}"'] if column else [] if split == UNASSIGNED else [NAMES_OF_FILES]
    classes, numbers = encode_labels(labels, f'"{path}"')
    root, source = tables[0].path.parent, " and ".join(dict.fromkeys(sources))
    return Index(path.stem, classes, numbers, np.concatenate(splits), images, FileStore(root, files), tuple(notes), source)


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
