"""Prepared images by row: from a memory map, from re-encoded JPEGs, or decoded on the fly."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodfit.data.decode import COLORSPACES
from goodfit.data.preprocess import Preprocess
from goodfit.data.store import Store

Rows = Tensor | NDArray[np.int64]
QUALITY = 95
ENCODED_AS = {1: ("GRAY", "Gray"), 3: ("RGB", "444"), 4: ("CMYK", "444")}  # four plain channels, whatever they mean


class Pixels(ABC):
    """All images of a data set at one size; `shape` is (N, H, W, C). Safe to read from several threads."""

    shape: tuple[int, int, int, int]

    @abstractmethod
    def rows(self, rows: Rows) -> Tensor:
        """uint8 [n, H, W, C] for int64 rows [n]."""

    @abstractmethod
    def exact(self, rows: Rows) -> Tensor:
        """The same, bit-equal with `Preprocess.decode` of the source."""


class RawPixels(Pixels):
    """Pixels in one file, mapped into memory read-only."""

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

    def __init__(self, store: Store, preprocess: Preprocess, n: int, workers: int = 0) -> None:
        self.shape = (n, *preprocess.box, preprocess.channels)
        self._store, self._preprocess = store, preprocess
        self._pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="goodfit-decode")

    def rows(self, rows: Rows) -> Tensor:
        return self.exact(rows)

    def exact(self, rows: Rows) -> Tensor:
        return self._each(self._decode, rows)

    def _each(self, one: Any, rows: Rows) -> Tensor:
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)

        def fill(item: tuple[int, int]) -> None:
            images[item[0]] = one(item[1])

        for _ in self._pool.map(fill, enumerate(np.asarray(rows).tolist())):
            pass
        return torch.from_numpy(images)

    def _decode(self, row: int) -> NDArray[np.uint8]:
        return self._preprocess.decode(self._store.read(row))


class JpegPixels(FilePixels):
    """Images re-encoded as JPEG at their final size, in one file; `exact` goes back to the source."""

    def __init__(self, path: Path, offsets: NDArray[np.int64], source: tuple[Store, Preprocess], workers: int = 0) -> None:
        super().__init__(*source, len(offsets) - 1, workers)
        self._blob = np.memmap(path, dtype=np.uint8, mode="r")
        self._offsets = offsets

    def rows(self, rows: Rows) -> Tensor:
        return self._each(self._reread, rows)

    def _reread(self, row: int) -> NDArray[np.uint8]:
        encoded = self._blob[self._offsets[row] : self._offsets[row + 1]]
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "CMYK" if self.shape[3] == 4 else COLORSPACES[self.shape[3]])
        return pixels


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A box [H, W, C] as JPEG, its colors at full resolution."""
    space, sampling = ENCODED_AS[pixels.shape[2]]
    content: bytes = simplejpeg.encode_jpeg(pixels, QUALITY, space, sampling)
    return content
