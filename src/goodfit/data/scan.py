"""A look at every image's header before anything is decoded: sizes, channels, bits, and which are broken."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from goodfit.core.errors import DataError
from goodfit.core.files import atomic_writer, cache_folder
from goodfit.core.words import count_of
from goodfit.data.decode import DECODERS, UNREADABLE, BrokenImage, Header, header, is_deep, said
from goodfit.data.store import Index, Store, hashed

VERSION = "1"
WHITES = (1023, 4095, 16383, 65535)  # 10, 12, 14 and 16 bits
SAMPLE = 256
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """What the headers say: `widths`, `heights`, `channels` (1, 3 or 4) and `bits` (8 or 16), each [N], 0 where an image is broken;
    `broken` gives the reason for each broken row; `white` is the value that counts as white in 16-bit images.
    `wanted` channels, if not 0, are what all images are brought to.
    """

    index: Index
    widths: Ints
    heights: Ints
    channels: Ints
    bits: Ints
    broken: dict[int, str]
    white: int
    notes: tuple[str, ...]
    wanted: int = 0

    @property
    def good(self) -> NDArray[np.bool_]:
        """bool [N]: not broken."""
        return self.channels > 0

    @property
    def model_channels(self) -> int:
        """What is `wanted`, else 1 if every image is gray, 4 if every image has an alpha channel, else 3."""
        if self.wanted:
            return self.wanted
        found = set(np.unique(self.channels[self.good]).tolist())
        return found.pop() if found in ({1}, {4}) else 3


def survey(index: Index, workers: int = 0) -> Survey:
    """The headers of all images, in threads (0: as many as cores), kept in the cache folder until a file changes.

    Raises:
        DataError: every image is broken.
    """
    path = cache_folder() / "surveys" / f"{hashed(VERSION, DECODERS, index.stamp())}.npz"
    kept = _kept(path, len(index))
    if kept is None:
        headers = _headers(index.store, len(index), workers)
        broken = {row: facts for row, facts in enumerate(headers) if isinstance(facts, str)}
        table = np.array([dataclasses.astuple(facts) if isinstance(facts, Header) else (0, 0, 0, 0) for facts in headers], dtype=np.int64)
        kept = table.reshape(-1, 4), broken, _white(index.store, np.flatnonzero(table.reshape(-1, 4)[:, 3] == 16))
        if not any(facts.startswith(UNREADABLE) for facts in broken.values()):  # that may change without the file's time changing
            _keep(path, *kept)
    table, broken, white = kept
    if len(broken) == len(index):
        row = min(broken)
        raise DataError(f"All {len(index)} images are broken; the first, {index.names[row]}: {broken[row]}.")
    widths, heights, channels, bits = table.T.copy()
    found = Survey(index, widths, heights, channels, bits, broken, white, ())
    return dataclasses.replace(found, notes=_notes(found))


def _headers(store: Store, n: int, workers: int) -> list[Header | str]:
    def look(row: int) -> Header | str:
        try:
            source = store.open(row)
            if isinstance(source, np.ndarray):
                return header(source)
            with source:
                return header(source)
        except BrokenImage as error:
            return error.reason
        except OSError as error:
            return said(error)

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(look, range(n), chunksize=64))


def _white(store: Store, deep: NDArray[np.int64]) -> int:
    """The smallest usual white that covers the largest value of a sample; without 16-bit images the largest there can be, for those
    that may come to be predicted.
    """
    if not len(deep):
        return WHITES[-1]
    sample = deep[np.unique(np.linspace(0, len(deep) - 1, SAMPLE).astype(int))]
    largest = max((_largest(store, int(row)) for row in sample), default=0)
    return next((white for white in WHITES if largest <= white), WHITES[-1])


def _largest(store: Store, row: int) -> int:
    try:
        source = store.read(row)
        if isinstance(source, np.ndarray):
            return int(source.max(initial=0))
        with Image.open(io.BytesIO(source)) as image:
            return int(np.asarray(image).max(initial=0)) if is_deep(image.mode) else 0
    except Exception:  # a damaged image is named while packing; here it has no say
        return 0


def _notes(found: Survey) -> tuple[str, ...]:
    notes = []
    kinds = Counter(found.channels[found.good].tolist())
    if len(kinds) > 1:
        words = {1: "gray", 3: "color", 4: "with alpha"}
        shares = ", ".join(f"{n:,} {words[kind]}" for kind, n in sorted(kinds.items()))
        notes.append(f"The images are mixed: {shares}.")
    if deep := int((found.bits == 16).sum()):
        notes.append(f"{count_of(deep, '16-bit image')}: values from 0 to {found.white} become 0 to 255.")
    return tuple(notes)


def _kept(path: Path, n: int) -> tuple[Any, dict[int, str], int] | None:
    try:
        with np.load(path) as file:
            table, facts = file["table"], json.loads(file["facts"].tobytes())
    except (OSError, ValueError, KeyError):
        return None
    return (table, {int(row): reason for row, reason in facts["broken"]}, facts["white"]) if table.shape == (n, 4) else None


def _keep(path: Path, table: Any, broken: dict[int, str], white: int) -> None:
    facts = np.frombuffer(json.dumps({"broken": list(broken.items()), "white": white}).encode(), dtype=np.uint8)
    with atomic_writer(path) as file:
        np.savez(file, table=table, facts=facts)
