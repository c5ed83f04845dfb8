"""The records of a parquet shard: its images one after the other, as if they stood in one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from goodfit.data.files import explain_faults
from goodfit.data.labels import encode_labels, match_labels
from goodfit.data.parquet import ParquetLabels, fields_of, import_pyarrow, read_labels
from goodfit.data.shards.records import Record
from goodfit.data.table_targets import CLASSES

ROWS_AT_ONCE = 64  # read into memory
NO_BYTES = "the row has no bytes: shards hold the images themselves"


def read_parquet(file: BinaryIO, place: str) -> tuple[tuple[str, ...], Iterator[Record]]:
    """Read the class names that a parquet file lists, if any, and its records; `place` names it in errors.

    The offset of a record is where its image lies in `copy_images`.

    Raises:
        DataError: it is damaged, has no image or label column, or a label is missing or of no class.
    """
    found = read_labels(Path(place), import_pyarrow(Path(place)), CLASSES, file)
    return found.classes, _read_records(file, place, found)


def _read_records(file: BinaryIO, place: str, found: ParquetLabels) -> Iterator[Record]:
    if classes := found.classes:
        labels = match_labels(found.labels, classes, f'"{place}"')
    else:
        classes, labels = encode_labels(found.labels, f'"{place}"')
    offset = 0
    for row, (content, label) in enumerate(zip(_read_images(file, place, found.image), labels.tolist(), strict=True)):
        yield Record(f"#{row}", classes[label], offset, content, "" if content else NO_BYTES)
        offset += len(content)


def copy_images(file: BinaryIO, place: str) -> Iterator[bytes]:
    """Yield the bytes of the images of a parquet file, one after the other; raises as `read_parquet`."""
    return _read_images(file, place, read_labels(Path(place), import_pyarrow(Path(place)), CLASSES, file).image)


def _read_images(file: BinaryIO, place: str, column: str) -> Iterator[bytes]:
    with explain_faults(Path(place), "parquet"), import_pyarrow(Path(place)).ParquetFile(file) as reader:
        for batch in reader.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column], use_threads=False):
            values = batch.column(0)
            contents = values.field("bytes") if fields_of(values.type) else values
            yield from (content or b"" for content in contents.to_pylist())
