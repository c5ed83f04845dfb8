"""Reads every image's header before anything is decoded: sizes, channels, bits, and which images are broken."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from goodfit.core.cached import read_cached, write_cached
from goodfit.core.errors import DataError
from goodfit.core.files import cache_folder
from goodfit.core.reporter import Reporter
from goodfit.core.words import count_of
from goodfit.data.index import Index, IntArray
from goodfit.data.opening import (
    DECODER_VERSIONS,
    UNREADABLE,
    BrokenImage,
    Header,
    explain_decode_error,
    is_16_bit,
    max_pixels,
    open_image,
    read_header,
)
from goodfit.data.store import Array, Store, hash_fields

VERSION = "3"  # raise it when what is read of a header changes
WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits
IMAGES_PER_PIECE = 64  # read by a thread at once


@dataclasses.dataclass(frozen=True, eq=False)
class ImageHeaders:
    """The headers of all images: `widths`, `heights`, `channels` (1, 3 or 4) and `bits` (8 or 16), each [N], 0 if an image is broken.

    `broken` gives the reason for each broken row; `white_level` is the value that counts as white in 16-bit images; `forced_channels`, if
    not 0, are the channels that all images are converted to.
    """

    index: Index
    widths: IntArray
    heights: IntArray
    channels: IntArray
    bits: IntArray
    broken: dict[int, str]
    white_level: int
    notes: tuple[str, ...]
    forced_channels: int = 0

    def with_white_level(self, level: int) -> ImageHeaders:
        """The same headers with another value of white."""
        result = dataclasses.replace(self, white_level=level)
        return dataclasses.replace(result, notes=_notes(result))

    def take(self, rows: IntArray) -> ImageHeaders:
        """The headers of the given rows, all of which are good."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("widths", "heights", "channels", "bits")}
        return dataclasses.replace(self, index=self.index.take(rows), broken={}, notes=(), forced_channels=self.model_channels, **columns)

    @property
    def has_16_bits(self) -> bool:
        """Whether any image has 16 bits."""
        return bool((self.bits == 16).any())

    @property
    def usable(self) -> NDArray[np.bool_]:
        """bool [N]: not broken."""
        return self.channels > 0

    @property
    def median_side(self) -> int:
        """The median of the shorter sides of the images that are not broken, in pixels."""
        return int(np.median(np.minimum(self.widths, self.heights)[self.usable]))

    @property
    def model_channels(self) -> int:
        """The forced channels if any, else 1 if every image is gray, 4 if every image has an alpha channel, else 3."""
        if self.forced_channels:
            return self.forced_channels
        kinds = set(np.unique(self.channels[self.usable]).tolist())
        return kinds.pop() if kinds in ({1}, {4}) else 3


def read_headers(index: Index, workers: int = 0, reporter: Reporter | None = None) -> ImageHeaders:
    """Read the headers of all images, in threads (0: as many as cores); they are kept in the cache folder until a file changes.

    It is reported if what was kept there is damaged; then they are read again.

    Raises:
        DataError: every image is broken.
    """
    path = cache_folder() / "surveys" / f"{hash_fields(VERSION, DECODER_VERSIONS, str(max_pixels()), index.fingerprint())}.npz"
    cached = _load(path, reporter)
    if cached is None:
        headers = _read_all(index.store, len(index), workers)
        broken = {row: header for row, header in enumerate(headers) if isinstance(header, str)}
        rows = [(h.width, h.height, h.channels, h.bits) if isinstance(h, Header) else (0, 0, 0, 0) for h in headers]
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        cached = table, broken, _infer_white_level(index.store, np.flatnonzero(table[:, 3] == 16))
        if not any(reason.startswith(UNREADABLE) for reason in broken.values()):  # that may change without the file's time changing
            _save(path, *cached)
    table, broken, white_level = cached
    check_any_usable(index, broken)
    widths, heights, channels, bits = table.T.copy()
    result = ImageHeaders(index, widths, heights, channels, bits, broken, white_level, ())
    return dataclasses.replace(result, notes=_notes(result))


def check_any_usable(index: Index, broken: dict[int, str]) -> None:
    """Refuse data whose images are all broken.

    Raises:
        DataError: they are.
    """
    if len(broken) == len(index):
        row = min(broken)
        raise DataError(f"All {len(index)} images are broken; the first, {index.names[row]}: {broken[row]}.")


def _read_all(store: Store, n: int, workers: int) -> list[Header | str]:
    """Read the header of each image, or the reason why it is broken."""
    pieces = [range(start, min(start + IMAGES_PER_PIECE, n)) for start in range(0, n, IMAGES_PER_PIECE)]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(itertools.chain.from_iterable(pool.map(lambda rows: [*map(_try_header, store.open_many(rows))], pieces)))


def _try_header(source: BinaryIO | Array | OSError) -> Header | str:
    """The header of an image that was opened, or the reason why it is broken."""
    try:
        if isinstance(source, OSError):
            raise source
        with contextlib.nullcontext(source) if isinstance(source, np.ndarray) else source as opened:
            return read_header(opened)
    except BrokenImage as error:
        return error.reason
    except OSError as error:
        return explain_decode_error(error)


def _infer_white_level(store: Store, rows: IntArray) -> int:
    """Infer the smallest usual white level that covers the maximum of the 16-bit images `rows`.

    Without any it is the largest white level, for 16-bit images that may come in prediction.
    """
    if not len(rows):
        return WHITE_LEVELS[-1]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        maximum = max(pool.map(lambda row: _read_maximum(store, row), rows.tolist()))
    return choose_white_level(maximum)


def choose_white_level(maximum: int) -> int:
    """The smallest usual white level that covers the maximum of 16-bit images."""
    return next((level for level in WHITE_LEVELS if maximum <= level), WHITE_LEVELS[-1])


def _read_maximum(store: Store, row: int) -> int:
    try:
        return find_maximum(store.read(row))
    except Exception:  # a damaged image is reported while packing; here it does not count
        return 0


def find_maximum(source: bytes | Array) -> int:
    """The largest value of an array or of a 16-bit image; 0 for any other image."""
    if isinstance(source, np.ndarray):
        return int(source.max(initial=0))
    with open_image(io.BytesIO(source)) as image:
        return int(np.asarray(image).max(initial=0)) if is_16_bit(image.mode) else 0


def _notes(headers: ImageHeaders) -> tuple[str, ...]:
    notes = []
    kinds = Counter(headers.channels[headers.usable].tolist())
    if len(kinds) > 1:
        words = {1: "gray", 3: "color", 4: "with alpha"}
        notes.append(f"The images are mixed: {', '.join(f'{n:,} {words[kind]}' for kind, n in sorted(kinds.items()))}.")
    if n_16_bit := int((headers.bits == 16).sum()):
        notes.append(f"{count_of(n_16_bit, '16-bit image')}: values from 0 to {headers.white_level} become 0 to 255.")
    return tuple(notes)


def _load(path: Path, reporter: Reporter | None) -> tuple[IntArray, dict[int, str], int] | None:
    if (content := read_cached(path, reporter)) is None:
        return None
    with np.load(io.BytesIO(content)) as file:
        table, facts = file["table"], json.loads(file["facts"].tobytes())
    return table, {int(row): reason for row, reason in facts["broken"]}, facts["white"]


def _save(path: Path, table: IntArray, broken: dict[int, str], white_level: int) -> None:
    facts = np.frombuffer(json.dumps({"broken": list(broken.items()), "white": white_level}).encode(), dtype=np.uint8)
    file = io.BytesIO()
    np.savez(file, table=table, facts=facts)
    write_cached(path, file.getvalue())
