"""Indexes images in parquet files with Hugging Face's columns: a struct of bytes and path, and a label."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from goodfit.core.errors import DataError, first_line
from goodfit.core.memory import check_memory
from goodfit.core.words import count_of, list_some, natural_order
from goodfit.data.files import explain_faults, read_file
from goodfit.data.index import NAMES_OF_FILES, SPLITS, UNASSIGNED, Index, repeat_splits
from goodfit.data.labels import encode_labels, match_labels, read_class_names
from goodfit.data.names import find_splits, is_data
from goodfit.data.store import Array, FileStat, Store, hash_file_stats
from goodfit.data.table_targets import CLASSES, TargetSpec
from goodfit.data.targets import Answers, encode_rows

MAX_CACHED_ROW_GROUPS = 4  # all readers are near the same place, so a few suffice
BYTES_PER_ROW = 200  # of memory, for the name and the label
NUMBER_TYPES = ("int", "uint", "float", "double", "halffloat", "bool")
LABEL_COLUMNS = ("label", "labels", "class", "category", "fine_label")


def index_parquet(path: Path, spec: TargetSpec = CLASSES) -> Index:
    """Index the images of a parquet file, or of all below a folder; its name or that of its folder says the split. `spec` says what is read
    of each image.

    Raises:
        DataError: pyarrow is not installed, or a file has no image or label column.
    """
    parquet = import_pyarrow(path)
    root = path if path.is_dir() else path.parent
    relative = _list_files(path) if path.is_dir() else [path.name]
    files = [read_labels(root / name, parquet, spec) for name in relative]
    for name, file in zip(relative, files, strict=True):
        if file[:3] != files[0][:3]:
            raise DataError(f'"{root / name}" and "{root / relative[0]}" have different image, label or class columns: give one of them.')
    columns = [file.labels for file in files]
    are_arrays = all(isinstance(column, np.ndarray) for column in columns)
    if spec.task != "classes":
        rows = list(itertools.chain.from_iterable(columns))
        answers = encode_rows(spec.task, files[0].names, rows, files[0].classes, f'"{path}"')
    elif classes := files[0].classes:
        places = [f'"{root / name}"' for name in relative]
        labels = np.concatenate([match_labels(column, classes, place) for column, place in zip(columns, places, strict=True)])
        answers = Answers("classes", classes, labels)
    else:
        values = np.concatenate(columns) if are_arrays else list(itertools.chain.from_iterable(columns))
        answers = Answers("classes", *encode_labels(values, f'"{path}"'))
    names = [f"{name}#{k}" for name, column in zip(relative, columns, strict=True) for k in range(len(column))]
    store = ParquetStore(root, [FileStat.of(name, root) for name in relative], [file.sizes for file in files], files[0].image)
    splits = repeat_splits(columns, [parse_split(name) for name in relative])
    return answers.index(path.stem, splits, names, store, split_source=NAMES_OF_FILES)


def _list_files(folder: Path) -> list[str]:
    """The paths of the parquet files below a folder, in natural order.

    Raises:
        DataError: there are none.
    """
    files = [file for file in folder.rglob("*.parquet") if file.is_file()]
    names = [name for file in files if all(map(is_data, (name := file.relative_to(folder)).parts))]
    if not names:
        raise DataError(f'Expected parquet files in "{folder}", found none that is a file.')
    return sorted((name.as_posix() for name in names), key=natural_order)


def import_pyarrow(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f'Reading "{path}" needs pyarrow: pip install "goodfit[parquet]".') from error
    return parquet


class ParquetLabels(NamedTuple):
    """The names of its image and label columns, its class names, empty if it names none, its labels, and the sizes of its row groups.

    Of labels or numbers, each of the `labels` is a row of the values of several columns.
    """

    image: str
    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Array | list[Any]
    sizes: list[int]


def read_labels(file: Path, parquet: Any, spec: TargetSpec, source: BinaryIO | None = None) -> ParquetLabels:
    """Read what a file says of its images, but not these; `source` is the file where it is open.

    Raises:
        DataError: it is damaged, has no image or label column, or a label is missing.
    """
    with explain_faults(file, "parquet"), parquet.ParquetFile(source or file) as reader:
        features = _read_features(reader.schema_arrow)
        image, *labels = _find_columns(file, reader.schema_arrow, features, spec)
        listed = _read_class_list(features.get(labels[0], {}))
        classes = read_class_names(listed, f'"{file}"') if listed else ()
        check_memory(BYTES_PER_ROW * len(labels) * reader.metadata.num_rows, f'"{file}"')
        columns = [reader.read(columns=[label]).column(0) for label in labels]
        for name, values in zip(labels, columns, strict=True):
            if values.null_count:
                row, what = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))), "label" if spec.task == "classes" else name
                raise DataError(f'"{file}" has {count_of(values.null_count, "row")} without a {what}, such as row {row}: leave them out.')
        values = columns[0]
        sizes = [reader.metadata.row_group(k).num_rows for k in range(reader.num_row_groups)]
        if sum(sizes) != len(values):
            raise DataError(f'"{file}" is damaged: its row groups say that they have {sum(sizes):,} rows, found {len(values):,} labels.')
        if spec.task != "classes":
            rows = list(zip(*(column.to_pylist() for column in columns), strict=True))
            return ParquetLabels(image, tuple(labels), classes, rows, sizes)
        has_numbers = str(values.type).startswith(NUMBER_TYPES)
        return ParquetLabels(image, tuple(labels), classes, values.to_numpy() if has_numbers else values.to_pylist(), sizes)


def _read_class_list(feature: Any) -> Any:
    """The class names in Hugging Face's description of a column, of a list's items too; None where it has none."""
    inner = feature.get("feature") if isinstance(feature, dict) else feature[0] if isinstance(feature, list) and feature else None
    return (feature.get("names") if isinstance(feature, dict) else None) or (inner.get("names") if isinstance(inner, dict) else None)


def _read_features(schema: Any) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns that are there, by their names; empty where there is none."""
    found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    features = found.items() if isinstance(found, dict) else ()
    return {name: feature for name, feature in features if isinstance(feature, dict) and name in schema.names}


def _find_columns(file: Path, schema: Any, features: dict[str, dict[str, Any]], spec: TargetSpec) -> tuple[str, ...]:
    """Find the names of the image column and of those of labels or numbers, of classes one.

    Raises:
        DataError: one of them is missing.
    """
    types = {field.name: field.type for field in schema}
    image = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    image += sorted(types, key=lambda name: _is_bytes(types[name]))  # structs first
    image = [n for n in image if _is_bytes(types[n]) or any(x.name == "bytes" and _is_bytes(x.type) for x in fields_of(types[n]))]
    label = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    label = sorted(label, key=lambda name: LABEL_COLUMNS.index(name) if name in LABEL_COLUMNS else len(LABEL_COLUMNS))
    label += [name for name in LABEL_COLUMNS if name in types]
    label = label[:1] if spec.task == "classes" else _find_target_columns(file, types, spec)
    if not image or not label:
        missing = "image column (bytes, or a struct of bytes and path)" if not image else "label column"
        found = list_some([f"{name} ({str(kind)[:40]})" for name, kind in types.items()])
        raise DataError(
            f'Expected Hugging Face\'s columns image and label in "{file}", found no {missing} among: {found}; '
            "paths of images are read from a CSV with the columns path and label."
        )
    return image[0], *label


def _find_target_columns(file: Path, types: dict[str, Any], spec: TargetSpec) -> list[str]:
    """Find the columns of labels or numbers: those that are named, else one named label or so, else all of numbers (or of 0 and 1, which
    reading shows).

    Raises:
        DataError: a column that is named is not there.
    """
    if missing := [name for name in spec.columns if name not in types]:
        raise DataError(f'Expected the columns {list_some(missing)} in "{file}", found: {list_some(list(types))}.')
    named = list(spec.columns) or [name for name in LABEL_COLUMNS if name in types][:1]
    return named or [name for name, kind in types.items() if str(kind).startswith(NUMBER_TYPES)]


def _is_bytes(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def fields_of(kind: Any) -> list[Any]:
    """The fields of a struct, none of another type."""
    return list(kind) if str(kind).startswith("struct<") else []


def parse_split(name: str) -> int:
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
        self._starts = np.cumsum([0, *itertools.chain.from_iterable(sizes)])  # of the groups' rows, and the end of the last
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._fingerprint = ""

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        contents, paths = self._read_group(group)
        place = row - int(self._starts[group])
        content = contents[place].as_py()
        return content if content is not None else self._read_referenced(paths, place)

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | OSError]:
        groups = (np.searchsorted(self._starts, rows, side="right") - 1).tolist()
        for group, members in itertools.groupby(zip(groups, rows, strict=True), key=lambda pair: pair[0]):
            start = int(self._starts[group])
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
        return read_file(self.root / path)

    def _read_group(self, group: int) -> Any:
        """Read the contents and the paths (or None) of a row group.

        Raises:
            OSError: it cannot be read, or is damaged.
        """
        with self._lock:  # one reader per group: the others wait for it instead of reading the same
            if group not in self._cache:
                try:
                    self._cache[group] = self._open_group(group)
                except Exception as error:  # pyarrow raises nearly anything on what is damaged
                    raise OSError(f"its row group is damaged: {first_line(error)}") from error
                while len(self._cache) > MAX_CACHED_ROW_GROUPS:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]

    def _open_group(self, group: int) -> tuple[Any, Any]:
        file, k = self._groups[group]
        with import_pyarrow(self.root).ParquetFile(self.root / self.files[file].name, pre_buffer=True) as reader:
            column = reader.read_row_group(k, columns=[self.column], use_threads=False).column(0).combine_chunks()
        if len(column) != (n := self._starts[group + 1] - self._starts[group]):
            raise ValueError(f"expected {n} images, found {len(column)}")
        fields = {field.name: str(field.type) for field in fields_of(column.type)}
        contents = column.field("bytes") if fields else column
        return contents, column.field("path") if fields.get("path") in ("string", "large_string") else None

    def fingerprint(self) -> str:
        if not self._fingerprint:
            referenced = [FileStat.of(path, self.root) for path in self._referenced_files()]
            self._fingerprint = hash_file_stats(self.root, [*self.files, *referenced])
        return self._fingerprint

    def _referenced_files(self) -> Iterator[str]:
        """Yield the files that rows without bytes point to; row groups whose statistics count no such row are not read."""
        for file, members in itertools.groupby(enumerate(self._groups), key=lambda pair: pair[1][0]):
            path = self.root / self.files[file].name
            with explain_faults(path, "parquet"), import_pyarrow(self.root).ParquetFile(path) as reader:
                unsure = [group for group, (_, k) in members if not self._has_all_bytes(reader, k)]
            for group in unsure:
                with contextlib.suppress(OSError):  # its images count as broken when they are read
                    contents, paths = self._read_group(group)
                    for row in np.flatnonzero(contents.is_null().to_numpy(zero_copy_only=False)) if paths is not None else ():
                        if path := paths[int(row)].as_py():
                            yield path

    def _has_all_bytes(self, reader: Any, k: int) -> bool:
        """Whether the statistics of a row group say that no image is without its bytes."""
        paths = [reader.schema.column(leaf).path for leaf in range(len(reader.schema))]
        leaves = [leaf for leaf, path in enumerate(paths) if path in (self.column, f"{self.column}.bytes")]
        columns = [reader.metadata.row_group(k).column(leaf) for leaf in leaves]  # no others: pyarrow aborts on some that are damaged
        statistics = [column.statistics if column.physical_type == "BYTE_ARRAY" else None for column in columns]
        return all(s is not None and s.has_null_count and s.null_count == 0 for s in statistics)
