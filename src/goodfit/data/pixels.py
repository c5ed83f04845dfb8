"""The prepared images by row: from a memory map, from re-encoded JPEGs, or decoded on the fly."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodfit.core.errors import DataError
from goodfit.data.decode import JPEG_COLORSPACES
from goodfit.data.index import Index, IntArray
from goodfit.data.opening import BrokenImage, explain_decode_error
from goodfit.data.preprocess import Preprocess
from goodfit.data.row_checks import RowChecks

Rows = Tensor | NDArray[np.int64]
Storage = Literal["raw", "jpeg", "files", "stream"]
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
    """Pixels in one file, mapped into memory read-only; with `checks`, each image is checked when it is first read."""

    storage: ClassVar[Storage] = "raw"

    def __init__(self, path: Path, shape: tuple[int, int, int, int], checks: RowChecks | None = None) -> None:
        self.shape, self._checks = shape, checks
        self._flat = np.memmap(path, dtype=np.uint8, mode="r", shape=(shape[0], shape[1] * shape[2] * shape[3]))

    def read(self, rows: Rows) -> Tensor:
        # NumPy copies whole rows in this thread without the GIL; torch would start a second set of OpenMP threads in each reader.
        numbers = np.asarray(rows)
        images = np.take(self._flat, numbers, axis=0)
        if self._checks is not None:
            self._checks.check_all(numbers, images)
        return torch.from_numpy(images).view(-1, *self.shape[1:])

    def read_exact(self, rows: Rows) -> Tensor:
        return self.read(rows)


class FilePixels(Pixels):
    """Images decoded from their source each time, in threads.

    Reading them raises a DataError with the name of an image that is gone, or broken, since they were read first.
    """

    storage: ClassVar[Storage] = "files"

    def __init__(self, index: Index, preprocess: Preprocess, workers: int = 0) -> None:
        self.shape = (len(index), *preprocess.box, preprocess.channels)
        self._index, self._preprocess = index, preprocess
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

        def read_and_apply(row: int, place: int) -> NDArray[np.uint8]:
            with explain_lost_image(self._index.names[row]):
                return function(self._index.store.read(row), place)

        return self._map_rows(read_and_apply, rows, shape)

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

    def __init__(self, path: Path, offsets: IntArray, checks: RowChecks, index: Index, preprocess: Preprocess, workers: int = 0) -> None:
        super().__init__(index, preprocess, workers)
        self._blob = np.memmap(path, dtype=np.uint8, mode="r")
        self._offsets, self._checks = offsets, checks

    def read(self, rows: Rows) -> Tensor:
        return self._map_rows(self._decode_stored, rows, self.shape[1:])

    def _decode_stored(self, row: int, place: int) -> NDArray[np.uint8]:
        encoded = self._checks.check(row, self._blob[self._offsets[row] : self._offsets[row + 1]])
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "CMYK" if self.shape[3] == 4 else JPEG_COLORSPACES[self.shape[3]])
        return pixels


@contextlib.contextmanager
def explain_lost_image(name: str) -> Iterator[None]:
    """Name the image that cannot be read within the block, though it could before.

    Raises:
        DataError: it is gone, or broken.
    """
    try:
        yield
    except (BrokenImage, OSError) as error:
        reason = error.reason if isinstance(error, BrokenImage) else explain_decode_error(error)
        raise DataError(f'The image "{name}" was read before, but now {reason}: restore it, or start anew without it.') from error


def store_images(images: NDArray[np.uint8], storage: Storage, broken: set[int]) -> list[bytes]:
    """The stored bytes of images [N, H, W, C]; broken ones are black if pixels are kept, and nothing elsewhere."""
    if storage == "jpeg":
        return [b"" if place in broken else encode_jpeg(image) for place, image in enumerate(images)]
    return [image.tobytes() if storage == "raw" else b"" for image in images]


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a box [H, W, C] as JPEG, its colors at full resolution."""
    colorspace, subsampling = JPEG_ENCODINGS[pixels.shape[2]]
    content: bytes = simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, colorspace, subsampling)
    return content
