"""Images in parquet files with Hugging Face's columns: a struct of bytes and path, and a label."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from goodfit.core.errors import DataError
from goodfit.data.store import SPLIT_WORDS, UNASSIGNED, File, Index, Store, files_stamp, numbered

GROUPS_KEPT = 4  # row groups in memory at once: readers go forward together
LABELS = ("label", "labels", "class", "category", "fine_label")


def from_parquet(path: Path) -> Index:
    """The images of a parquet file, or of every one below a folder; the split is the first word of the file's (or its folder's) name.

    Raises:
        DataError: pyarrow is not installed, or a file has no image or label column.
    """
    parquet = _pyarrow(path)
    root = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    names: list[str] = []
    splits: list[int] = []
    columns: list[Any] = []
    sizes: list[list[int]] = []
    schema = _schema(files[0], parquet)
    for file in files:
        own = _schema(file, parquet)
        if own[1:] != schema[1:]:
            raise DataError(f'"{file}" and "{files[0]}" have different image, label or class columns: give one of them.')
        reader = own[0]
        values = reader.read(columns=[schema[2]]).column(0)
        if values.null_count:
            raise DataError(f'"{file}" has {values.null_count} rows without a label.')
        columns.append(values.to_numpy() if schema[3] or str(values.type).startswith("int") else np.array(values.to_pylist()))
        sizes.append([reader.metadata.row_group(k).num_rows for k in range(reader.num_row_groups)])
        relative = file.relative_to(root).as_posix()
        names += [f"{relative}#{k}" for k in range(len(values))]
        splits += [_split(relative)] * len(values)
    values = np.concatenate(columns)
    classes, labels = (schema[3], values.astype(np.int64)) if schema[3] else numbered(values)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f'"{path}" has labels from {labels.min()} to {labels.max()}, but names {len(classes)} classes.')
    store = ParquetRows(root, [File.of(f.relative_to(root).as_posix(), root) for f in files], sizes, schema[1])
    return Index(path.stem, tuple(classes), labels, np.array(splits, dtype=np.int8), names, store)


def _pyarrow(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f'Reading "{path}" needs pyarrow: pip install "goodfit[parquet]".') from error
    return parquet


def _schema(file: Path, parquet: Any) -> tuple[Any, str, str, tuple[str, ...]]:
    """The open file, the names of its image and label columns, and its class names (empty when it has none)."""
    try:
        reader = parquet.ParquetFile(file)
    except Exception as error:  # pyarrow has its own family of errors
        raise DataError(f'"{file}" cannot be read as parquet: {error}.') from error
    schema = reader.schema_arrow
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = told.get("info", {}).get("features", {})
    image = [name for name, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "Image"]
    image += [field.name for field in schema if str(field.type).startswith("struct") and "bytes: binary" in str(field.type)]
    image += [field.name for field in schema if str(field.type) in ("binary", "large_binary")]
    label = [name for name, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"]
    label = sorted(label, key=lambda name: LABELS.index(name) if name in LABELS else len(LABELS))
    label += [name for name in LABELS if name in schema.names]
    if not image or not label:
        missing = "image column (struct of bytes and path)" if not image else "label column"
        raise DataError(
            f'Expected Hugging Face\'s columns image and label in "{file}", found no {missing} among: {", ".join(schema.names)}.'
        )
    classes = features.get(label[0], {}).get("names", ())
    return reader, image[0], label[0], tuple(classes)


def _split(name: str) -> int:
    """ "train-00000-of-00001.parquet" or "train/0000.parquet" -> TRAIN."""
    for word in reversed(Path(name).with_suffix("").parts):
        for separator in ("-", "_", ".", " "):
            if (first := word.split(separator)[0].lower()) in SPLIT_WORDS:
                return SPLIT_WORDS[first]
    return UNASSIGNED


class ParquetRows(Store):
    """Encoded images out of parquet files, a row group at a time."""

    def __init__(self, root: Path, files: Sequence[File], sizes: Sequence[Sequence[int]], column: str) -> None:
        self.root: Path = root
        self.files, self.column = files, column
        self._groups = [(place, k) for place, groups in enumerate(sizes) for k in range(len(groups))]
        self._ends = np.cumsum([n for groups in sizes for n in groups])
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._stamp = ""

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self._ends, row, side="right"))
        contents, paths = self._columns(group)
        place = row - (int(self._ends[group - 1]) if group else 0)
        content = contents[place].as_py()
        if content is not None:
            return bytes(content)
        path = paths[place].as_py() if paths is not None else None
        if not path:
            raise OSError("the row has neither bytes nor a path")
        return Path(self.root, path).read_bytes()

    def _columns(self, group: int) -> Any:
        """The contents and the paths (or None) of a row group."""
        with self._lock:  # one reader a group; the others wait for it instead of reading the same
            if group not in self._kept:
                place, k = self._groups[group]
                reader = _pyarrow(self.root).ParquetFile(self.root / self.files[place].name)
                column = reader.read_row_group(k, columns=[self.column]).column(0).combine_chunks()
                names = [field.name for field in column.type] if str(column.type).startswith("struct") else []
                contents = column.field("bytes") if names else column
                self._kept[group] = contents, column.field("path") if "path" in names else None
                while len(self._kept) > GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]

    def stamp(self) -> str:
        self._stamp = self._stamp or files_stamp(self.root, [*self.files, *(File.of(path, self.root) for path in self._pointed())])
        return self._stamp

    def _pointed(self) -> Iterator[str]:
        """The files that rows without bytes point to; row groups whose statistics count no such row are not read."""
        parquet = _pyarrow(self.root)
        readers = [parquet.ParquetFile(self.root / file.name) for file in self.files]
        for group, (place, k) in enumerate(self._groups):
            facts = readers[place].metadata.row_group(k)
            columns = [facts.column(j) for j in range(facts.num_columns)]
            counted = [c.statistics for c in columns if c.path_in_schema in (self.column, f"{self.column}.bytes")]
            if not all(found is not None and found.has_null_count and found.null_count == 0 for found in counted):
                contents, paths = self._columns(group)
                for row in np.flatnonzero(contents.is_null().to_numpy(zero_copy_only=False)) if paths is not None else ():
                    if path := paths[int(row)].as_py():
                        yield path
