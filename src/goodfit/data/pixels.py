"""Prepared images by row: from a memory map, from re-encoded JPEGs, or decoded on the fly."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodfit.data.decode import COLORSPACES
from goodfit.data.preprocess import Preprocess
from goodfit.data.store import Store

Rows = Tensor | NDArray[np.int64]
Kind = Literal["raw", "jpeg", "files"]
QUALITY = 95
TOGETHER = 8  # images at most that are handed to a thread at once: handing over a single one costs a tenth of decoding it
ENCODED_AS = {1: ("GRAY", "Gray"), 3: ("RGB", "444"), 4: ("CMYK", "444")}  # four plain channels, whatever they mean


class Pixels(ABC):
    """All images of a data set at one size; `shape` is (N, H, W, C), `kind` is how they are kept. Safe to read from several threads."""

    kind: ClassVar[Kind]
    shape: tuple[int, int, int, int]

    @abstractmethod
    def rows(self, rows: Rows) -> Tensor:
        """uint8 [n, H, W, C] for int64 rows [n]."""

    @abstractmethod
    def exact(self, rows: Rows) -> Tensor:
        """The same, bit-equal with `Preprocess.decode` of the source."""

    def drawn(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        """What training sees of int64 rows [n], which are at `places` [n] in the order of an epoch: here the same at each."""
        return self.rows(rows)


class RawPixels(Pixels):
    """Pixels in one file, mapped into memory read-only."""

    kind: ClassVar[Kind] = "raw"

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape
        self._flat = np.memmap(path, dtype=np.uint8, mode="r", shape=(shape[0], shape[1] * shape[2] * shape[3]))

    def rows(self, rows: Rows) -> Tensor:
        # NumPy copies whole rows in this thread without the GIL; torch would start a second set of OpenMP threads in each reader.
        return torch.from_numpy(np.take(self._flat, np.asarray(rows), axis=0)).view(-1, *self.shape[1:])

    def exact(self, rows: Rows) -> Tensor:
        return self.rows(rows)


class FilePixels(Pixels):
    """Images decoded from their source each time, in threads."""

    kind: ClassVar[Kind] = "files"

    def __init__(self, store: Store, preprocess: Preprocess, n: int, workers: int = 0) -> None:
        self.shape = (n, *preprocess.box, preprocess.channels)
        self._store, self._preprocess = store, preprocess
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="goodfit-decode")

    def rows(self, rows: Rows) -> Tensor:
        return self.exact(rows)

    def exact(self, rows: Rows) -> Tensor:
        return self.each(lambda source, place: self._preprocess.decode(source), rows, self.shape[1:])

    def each(self, one: Callable[[bytes | NDArray[Any], int], NDArray[np.uint8]], rows: Rows, shape: tuple[int, int, int]) -> Tensor:
        """uint8 [n, *shape]: what `one` makes of the source of each row, given with its place among the rows [n], in threads."""
        return self._filled(lambda row, place: one(self._store.read(row), place), rows, shape)

    def _filled(self, one: Callable[[int, int], NDArray[np.uint8]], rows: Rows, shape: tuple[int, int, int]) -> Tensor:
        images = np.empty((len(rows), *shape), dtype=np.uint8)
        numbers = np.asarray(rows).tolist()
        together = max(1, min(TOGETHER, len(numbers) // (2 * self._workers)))

        def fill(start: int) -> None:
            for place, row in enumerate(numbers[start : start + together], start):
                images[place] = one(row, place)

        for _ in self._pool.map(fill, range(0, len(numbers), together)):
            pass
        return torch.from_numpy(images)


class JpegPixels(FilePixels):
    """Images re-encoded as JPEG at their final size, in one file; `exact` goes back to the source."""

    kind: ClassVar[Kind] = "jpeg"

    def __init__(self, path: Path, offsets: NDArray[np.int64], source: tuple[Store, Preprocess], workers: int = 0) -> None:
        super().__init__(*source, len(offsets) - 1, workers)
        self._blob = np.memmap(path, dtype=np.uint8, mode="r")
        self._offsets = offsets

    def rows(self, rows: Rows) -> Tensor:
        return self._filled(self._reread, rows, self.shape[1:])

    def _reread(self, row: int, place: int) -> NDArray[np.uint8]:
        encoded = self._blob[self._offsets[row] : self._offsets[row + 1]]
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "CMYK" if self.shape[3] == 4 else COLORSPACES[self.shape[3]])
        return pixels


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A box [H, W, C] as JPEG, its colors at full resolution."""
    space, sampling = ENCODED_AS[pixels.shape[2]]
    content: bytes = simplejpeg.encode_jpeg(pixels, QUALITY, space, sampling)
    return content
