"""Indexes images in parquet files with Hugging Face's columns: a struct of bytes and path, and a label."""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from goodfit.core.errors import DataError
from goodfit.data.index import NAMES_OF_FILES, SPLITS, UNASSIGNED, Index, encode_labels, repeat_splits
from goodfit.data.names import find_splits
from goodfit.data.store import FileStat, Store, hash_file_stats

MAX_CACHED_ROW_GROUPS = 4  # all readers are near the same place, so a few suffice
LABEL_COLUMNS = ("label", "labels", "class", "category", "fine_label")


def index_parquet(path: Path) -> Index:
    """Index the images of a parquet file, or of all below a folder; its name or that of its folder says the split.

    Raises:
        DataError: pyarrow is not installed, or a file has no image or label column.
    """
    parquet = _import_pyarrow(path)
    root = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    relative = [file.relative_to(root).as_posix() for file in files]
    columns: list[Any] = []
    sizes: list[list[int]] = []
    first = _open_file(files[0], parquet)
    for file in files:
        opened = _open_file(file, parquet)
        if opened[1:] != first[1:]:
            raise DataError(f'"{file}" and "{files[0]}" have different image, label or class columns: give one of them.')
        values = opened.reader.read(columns=[opened.label]).column(0)
        if values.null_count:
            raise DataError(f'"{file}" has {values.null_count} rows without a label.')
        has_numbers = opened.classes or str(values.type).startswith("int")
        columns.append(values.to_numpy() if has_numbers else np.array(values.to_pylist()))
        sizes.append([opened.reader.metadata.row_group(k).num_rows for k in range(opened.reader.num_row_groups)])
    values = np.concatenate(columns)
    classes, labels = (first.classes, values.astype(np.int64)) if first.classes else encode_labels(values)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f'"{path}" has labels from {labels.min()} to {labels.max()}, but names {len(classes)} classes.')
    names = [f"{name}#{k}" for name, column in zip(relative, columns, strict=True) for k in range(len(column))]
    store = ParquetStore(root, [FileStat.of(name, root) for name in relative], sizes, first.image)
    splits = repeat_splits(columns, [_parse_split(name) for name in relative])
    return Index(path.stem, classes, labels, splits, names, store, split_source=NAMES_OF_FILES)


def _import_pyarrow(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f'Reading "{path}" needs pyarrow: pip install "goodfit[parquet]".') from error
    return parquet


class _ParquetFile(NamedTuple):
    """An open parquet file, the names of its image and label columns, and its class names, empty if it names none."""

    reader: Any
    image: str
    label: str
    classes: tuple[str, ...]


def _open_file(file: Path, parquet: Any) -> _ParquetFile:
    try:
        reader = parquet.ParquetFile(file)
    except Exception as error:  # pyarrow has its own family of errors
        raise DataError(f'"{file}" cannot be read as parquet: {error}.') from error
    schema = reader.schema_arrow
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = metadata.get("info", {}).get("features", {})
    image = [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "Image"]
    image += [field.name for field in schema if str(field.type).startswith("struct") and "bytes: binary" in str(field.type)]
    image += [field.name for field in schema if str(field.type) in ("binary", "large_binary")]
    label = [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"]
    label = sorted(label, key=lambda name: LABEL_COLUMNS.index(name) if name in LABEL_COLUMNS else len(LABEL_COLUMNS))
    label += [name for name in LABEL_COLUMNS if name in schema.names]
    if not image or not label:
        missing = "image column (struct of bytes and path)" if not image else "label column"
        raise DataError(
            f'Expected Hugging Face\'s columns image and label in "{file}", found no {missing} among: {", ".join(schema.names)}.'
        )
    return _ParquetFile(reader, image[0], label[0], tuple(features.get(label[0], {}).get("names", ())))


def _parse_split(name: str) -> int:
    """The split that a file's name speaks of, else the innermost of its folders: TRAIN of "flowers-train-0.parquet" or "train/0.parquet".

    Raises:
        DataError: it speaks of several.
    """
    for part in reversed(Path(name).with_suffix("").parts):
        if len(splits := find_splits(part)) > 1:
            raise DataError(
                f'"{name}" could be of the splits {" and ".join(SPLITS[k] for k in sorted(splits))}: rename it to say of which.'
            )
        if splits:
            return min(splits)
    return UNASSIGNED


class ParquetStore(Store):
    """Encoded images in parquet files, read a row group at a time."""

    def __init__(self, root: Path, files: Sequence[FileStat], sizes: Sequence[Sequence[int]], column: str) -> None:
        self.root, self.files, self.column = root, files, column
        self._groups = [(file, k) for file, groups in enumerate(sizes) for k in range(len(groups))]
        self._ends = np.cumsum([n for groups in sizes for n in groups])
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._fingerprint = ""

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self._ends, row, side="right"))
        contents, paths = self._read_group(group)
        place = row - (int(self._ends[group - 1]) if group else 0)
        content = contents[place].as_py()
        return content if content is not None else self._read_referenced(paths, place)

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | OSError]:
        groups = np.searchsorted(self._ends, rows, side="right").tolist()
        for group, members in itertools.groupby(zip(groups, rows, strict=True), key=lambda pair: pair[0]):
            start = int(self._ends[group - 1]) if group else 0
            places = [row - start for _, row in members]
            low = min(places)
            try:
                contents, paths = self._read_group(group)
            except OSError as error:
                yield from [error] * len(places)
                continue
            several = contents.slice(low, max(places) + 1 - low).to_pylist()  # a tenth of the time of one after the other
            for place in places:
                try:
                    yield several[place - low] if several[place - low] is not None else self._read_referenced(paths, place)
                except OSError as error:
                    yield error

    def _read_referenced(self, paths: Any, place: int) -> bytes:
        """Read the file that a row without bytes points to."""
        path = paths[place].as_py() if paths is not None else None
        if not path:
            raise OSError("the row has neither bytes nor a path")
        return Path(self.root, path).read_bytes()

    def _read_group(self, group: int) -> Any:
        """Read the contents and the paths (or None) of a row group.

        Raises:
            OSError: it cannot be read, or is damaged.
        """
        with self._lock:  # one reader per group: the others wait for it instead of reading the same
            if group not in self._cache:
                file, k = self._groups[group]
                try:
                    reader = _import_pyarrow(self.root).ParquetFile(self.root / self.files[file].name, pre_buffer=True)
                    column = reader.read_row_group(k, columns=[self.column], use_threads=False).column(0).combine_chunks()
                except ValueError as error:  # pyarrow's own kind for what is damaged
                    raise OSError(f"its row group is damaged: {error}") from error
                fields = [field.name for field in column.type] if str(column.type).startswith("struct") else []
                contents = column.field("bytes") if fields else column
                self._cache[group] = contents, column.field("path") if "path" in fields else None
                while len(self._cache) > MAX_CACHED_ROW_GROUPS:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]

    def fingerprint(self) -> str:
        if not self._fingerprint:
            referenced = [FileStat.of(path, self.root) for path in self._referenced_files()]
            self._fingerprint = hash_file_stats(self.root, [*self.files, *referenced])
        return self._fingerprint

    def _referenced_files(self) -> Iterator[str]:
        """Yield the files that rows without bytes point to; row groups whose statistics count no such row are not read."""
        parquet = _import_pyarrow(self.root)
        readers = [parquet.ParquetFile(self.root / file.name) for file in self.files]
        for group, (file, k) in enumerate(self._groups):
            metadata = readers[file].metadata.row_group(k)
            columns = [metadata.column(j) for j in range(metadata.num_columns)]
            statistics = [c.statistics for c in columns if c.path_in_schema in (self.column, f"{self.column}.bytes")]
            if not all(s is not None and s.has_null_count and s.null_count == 0 for s in statistics):
                contents, paths = self._read_group(group)
                for row in np.flatnonzero(contents.is_null().to_numpy(zero_copy_only=False)) if paths is not None else ():
                    if path := paths[int(row)].as_py():
                        yield path
