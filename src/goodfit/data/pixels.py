"""The prepared images by row: from a memory map, from re-encoded JPEGs, or decoded on the fly."""

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

from goodfit.data.decode import JPEG_COLORSPACES
from goodfit.data.preprocess import Preprocess
from goodfit.data.store import Store

Rows = Tensor | NDArray[np.int64]
Storage = Literal["raw", "jpeg", "files"]
JPEG_QUALITY = 95
MAX_IMAGES_PER_TASK = 8  # handed to a thread at once: handing over a single image costs a tenth of decoding it
JPEG_ENCODINGS = {1: ("GRAY", "Gray"), 3: ("RGB", "444"), 4: ("CMYK", "444")}  # CMYK: four channels that are stored unchanged


class Pixels(ABC):
    """All images of a dataset at one size: `shape` is (N, H, W, C), `storage` is how they are kept. Safe to read from several threads."""

    storage: ClassVar[Storage]
    shape: tuple[int, int, int, int]

    @abstractmethod
    def read(self, rows: Rows) -> Tensor:
        """Read uint8 [n, H, W, C] for int64 rows [n]."""

    @abstractmethod
    def read_exact(self, rows: Rows) -> Tensor:
        """Read the same images, bit-equal with `Preprocess.decode` of their source."""

    def read_for_training(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        """Read what training sees of int64 rows [n], which are at `places` [n] in the order of an epoch; here it is always the same."""
        return self.read(rows)


class RawPixels(Pixels):
    """Pixels in one file, mapped into memory read-only."""

    storage: ClassVar[Storage] = "raw"

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape
        self._flat = np.memmap(path, dtype=np.uint8, mode="r", shape=(shape[0], shape[1] * shape[2] * shape[3]))

    def read(self, rows: Rows) -> Tensor:
        # NumPy copies whole rows in this thread without the GIL; torch would start a second set of OpenMP threads in each reader.
        return torch.from_numpy(np.take(self._flat, np.asarray(rows), axis=0)).view(-1, *self.shape[1:])

    def read_exact(self, rows: Rows) -> Tensor:
        return self.read(rows)


class FilePixels(Pixels):
    """Images decoded from their source each time, in threads."""

    storage: ClassVar[Storage] = "files"

    def __init__(self, store: Store, preprocess: Preprocess, n: int, workers: int = 0) -> None:
        self.shape = (n, *preprocess.box, preprocess.channels)
        self._store, self._preprocess = store, preprocess
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="goodfit-decode")

    def read(self, rows: Rows) -> Tensor:
        return self.read_exact(rows)

    def read_exact(self, rows: Rows) -> Tensor:
        return self.map_sources(lambda source, place: self._preprocess.decode(source), rows, self.shape[1:])

    def map_sources(
        self, function: Callable[[bytes | NDArray[Any], int], NDArray[np.uint8]], rows: Rows, shape: tuple[int, int, int]
    ) -> Tensor:
        """Call `function(source, place)` in threads for the source of each row and its place among the rows [n]: uint8 [n, *shape]."""
        return self._map_rows(lambda row, place: function(self._store.read(row), place), rows, shape)

    def _map_rows(self, function: Callable[[int, int], NDArray[np.uint8]], rows: Rows, shape: tuple[int, int, int]) -> Tensor:
        images = np.empty((len(rows), *shape), dtype=np.uint8)
        numbers = np.asarray(rows).tolist()
        per_task = max(1, min(MAX_IMAGES_PER_TASK, len(numbers) // (2 * self._workers)))

        def fill(start: int) -> None:
            for place, row in enumerate(numbers[start : start + per_task], start):
                images[place] = function(row, place)

        for _ in self._pool.map(fill, range(0, len(numbers), per_task)):
            pass
        return torch.from_numpy(images)


class JpegPixels(FilePixels):
    """Images re-encoded as JPEG at their final size, in one file; `read_exact` goes back to the source."""

    storage: ClassVar[Storage] = "jpeg"

    def __init__(self, path: Path, offsets: NDArray[np.int64], source: tuple[Store, Preprocess], workers: int = 0) -> None:
        super().__init__(*source, len(offsets) - 1, workers)
        self._blob = np.memmap(path, dtype=np.uint8, mode="r")
        self._offsets = offsets

    def read(self, rows: Rows) -> Tensor:
        return self._map_rows(self._decode_stored, rows, self.shape[1:])

    def _decode_stored(self, row: int, place: int) -> NDArray[np.uint8]:
        encoded = self._blob[self._offsets[row] : self._offsets[row + 1]]
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "CMYK" if self.shape[3] == 4 else JPEG_COLORSPACES[self.shape[3]])
        return pixels


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a box [H, W, C] as JPEG, its colors at full resolution."""
    colorspace, subsampling = JPEG_ENCODINGS[pixels.shape[2]]
    content: bytes = simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, colorspace, subsampling)
    return content
