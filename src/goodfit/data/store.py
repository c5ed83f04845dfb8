"""Stores: where the images lie, and how each one is read."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from goodfit.data.files import open_file

Array = NDArray[Any]


class Store(ABC):
    """Reads the image of a row: an encoded file, or an array [H, W] or [H, W, C]."""

    @abstractmethod
    def read(self, row: int) -> bytes | Array:
        """Read the image as encoded bytes or as an array."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash the paths and stamps of the files: equal fingerprints mean equal images."""

    def location(self) -> str:
        """Hash what stays of the fingerprint where only inodes or change times do not: equal ones may mean other images."""
        return self.fingerprint()

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | Array | OSError]:
        """Read the images of rows, one after the other; in place of one that cannot be read comes its error."""
        return _try_each(self.read, rows)

    def open_many(self, rows: Sequence[int]) -> Iterator[BinaryIO | Array | OSError]:
        """Open the images of rows to read their headers, one after the other; in place of one that cannot be read comes its error."""
        return (io.BytesIO(image) if isinstance(image, bytes) else image for image in self.read_many(rows))


def _try_each(function: Callable[[int], Any], rows: Sequence[int]) -> Iterator[Any]:
    for row in rows:
        try:
            yield function(row)
        except OSError as error:
            yield error


def hash_fields(*fields: str | bytes) -> str:
    """Hash texts and bytes to 32 hexadecimal digits; each field's length is hashed too, so that no two lists of fields collide."""
    total = hashlib.sha256()
    for field in fields:
        content = field.encode(errors="surrogatepass") if isinstance(field, str) else field
        total.update(len(content).to_bytes(8, "little"))
        total.update(content)
    return total.hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class FileStat:
    """A file's path relative to the data's root, its size in bytes, and its stamp, by which a change of its content is noticed.

    The stamp is the times of its last modification and its last change of any kind, in nanoseconds, and its inode: whoever writes a file
    may set the first back, but not the second; and a file that was moved into the place of another has another inode. The size is -1, and
    the stamp empty, if it cannot be read, or is no regular file.
    """

    name: str
    size: int = -1
    stamp: tuple[int, ...] = ()

    @staticmethod
    def of(name: str, root: Path) -> FileStat:
        try:
            return FileStat.from_stat(name, (root / name).stat())
        except (OSError, ValueError):  # ValueError: a NUL byte in the name
            return FileStat(name)

    @staticmethod
    def from_stat(name: str, found: os.stat_result) -> FileStat:
        is_regular = stat.S_ISREG(found.st_mode)
        return FileStat(name, found.st_size, (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)) if is_regular else FileStat(name)


def hash_file_stats(root: Path, files: Sequence[FileStat]) -> str:
    """Hash the paths, sizes and stamps of files below a root."""
    return hash_fields(str(root.resolve()), "\n".join(f"{file.name}\0{file.size}\0{file.stamp}" for file in files))


class FileStore(Store):
    """One encoded image per file."""

    def __init__(self, root: Path, files: Sequence[FileStat]) -> None:
        self.root, self.files = root, files

    def read(self, row: int) -> bytes:
        with self._open(row) as file:
            return file.read()

    def open_many(self, rows: Sequence[int]) -> Iterator[BinaryIO | Array | OSError]:
        return _try_each(self._open, rows)

    def _open(self, row: int) -> BinaryIO:
        return open_file(os.path.join(self.root, self.files[row].name))  # noqa: PTH118  a Path costs more than the open

    def fingerprint(self) -> str:
        return hash_file_stats(self.root, self.files)

    def location(self) -> str:
        return hash_file_stats(self.root, [dataclasses.replace(file, stamp=file.stamp[:1]) for file in self.files])


class ArrayStore(Store):
    """Images [N, H, W] or [N, H, W, C] from a few files, loaded when the first one is read."""

    def __init__(self, load: Callable[[], Array], fingerprint: str) -> None:
        self._load, self._fingerprint = load, fingerprint
        self._images: Array | None = None
        self._lock = threading.Lock()

    def read(self, row: int) -> Array:
        with self._lock:  # one thread loads
            if self._images is None:
                self._images = self._load()
        image: Array = self._images[row]
        return image

    def fingerprint(self) -> str:
        return self._fingerprint


class SubsetStore(Store):
    """Some rows of another store."""

    def __init__(self, store: Store, rows: Array) -> None:
        self.store, self.rows = store, rows

    def read(self, row: int) -> bytes | Array:
        return self.store.read(int(self.rows[row]))

    def read_many(self, rows: Sequence[int]) -> Iterator[bytes | Array | OSError]:
        return self.store.read_many(self.rows[rows].tolist())

    def open_many(self, rows: Sequence[int]) -> Iterator[BinaryIO | Array | OSError]:
        return self.store.open_many(self.rows[rows].tolist())

    def fingerprint(self) -> str:
        return hash_fields(self.store.fingerprint(), self.rows.astype(np.int64).tobytes())

    def location(self) -> str:
        return hash_fields(self.store.location(), self.rows.astype(np.int64).tobytes())
