"""What every source of images gives: a store that reads each image, and an index that says what each one is."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TRAIN, VALIDATION, TEST, UNASSIGNED = 0, 1, 2, -1
SPLIT_WORDS = {"train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
SPLIT_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test", UNASSIGNED: ""}


class Store(ABC):
    """Where the images are: row -> an encoded file, or an array [H, W] or [H, W, C]."""

    @abstractmethod
    def read(self, row: int) -> bytes | Array:
        """The image as encoded bytes or as an array."""

    @abstractmethod
    def stamp(self) -> str:
        """A hash of the paths, sizes and times of what is read: equal stamps mean equal images."""

    def open(self, row: int) -> BinaryIO | Array:
        """The image for a look at its header only."""
        image = self.read(row)
        return image if isinstance(image, np.ndarray) else io.BytesIO(image)


def hashed(*words: str | bytes) -> str:
    """32 hex digits for texts and bytes, each with its length so that no two lists collide."""
    total = hashlib.sha256()
    for word in words:
        content = word.encode() if isinstance(word, str) else word
        total.update(len(content).to_bytes(8, "little"))
        total.update(content)
    return total.hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class File:
    """A file's path (relative to the data's root), its size in bytes and its time in nanoseconds; -1 where it cannot be asked."""

    name: str
    size: int
    time: int

    @staticmethod
    def of(name: str, root: Path) -> File:
        try:
            facts = (root / name).stat()
        except OSError:
            return File(name, -1, -1)
        return File(name, facts.st_size, facts.st_mtime_ns)


def files_stamp(root: Path, files: Sequence[File]) -> str:
    """One hash for files under a root."""
    return hashed(str(root.resolve()), "\n".join(f"{file.name}\0{file.size}\0{file.time}" for file in files))


class Files(Store):
    """One encoded image a file."""

    def __init__(self, root: Path, files: Sequence[File]) -> None:
        self.root, self.files = root, files

    def read(self, row: int) -> bytes:
        with self.open(row) as file:
            return file.read()

    def open(self, row: int) -> BinaryIO:
        return open(os.path.join(self.root, self.files[row].name), "rb")  # noqa: PTH118, PTH123  a Path costs more than the open

    def stamp(self) -> str:
        return files_stamp(self.root, self.files)


class Arrays(Store):
    """Images [N, H, W] or [N, H, W, C] out of a few files, loaded when the first is read."""

    def __init__(self, load: Callable[[], Array], stamp: str) -> None:
        self._load, self._stamp = load, stamp
        self._images: Array | None = None

    def read(self, row: int) -> Array:
        if self._images is None:
            self._images = self._load()  # two threads may both load: the same arrays, so no lock
        image: Array = self._images[row]
        return image

    def stamp(self) -> str:
        return self._stamp


class Taken(Store):
    """Some rows of another store."""

    def __init__(self, store: Store, rows: Array) -> None:
        self.store, self.rows = store, rows

    def read(self, row: int) -> bytes | Array:
        return self.store.read(int(self.rows[row]))

    def open(self, row: int) -> BinaryIO | Array:
        return self.store.open(int(self.rows[row]))

    def stamp(self) -> str:
        return hashed(self.store.stamp(), self.rows.astype(np.int64).tobytes())


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The table of images: `labels` [N] int64 into `classes`, `splits` [N] int8 (TRAIN, VALIDATION, TEST or UNASSIGNED).

    `names` are stable and relative to the data's root ("cat/1.jpg", "train.parquet#17", "digits#3"); `name` is short, for run names;
    `notes` are sentences for the user.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    names: Sequence[str]
    store: Store
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def stamp(self) -> str:
        """A hash of the images' paths, sizes and times, and of their labels."""
        return hashed(self.store.stamp(), "\0".join(self.classes), self.labels.tobytes(), "\0".join(self.names))

    def take(self, rows: NDArray[np.int64]) -> Index:
        """Some of its rows, with the same classes."""
        names = [self.names[row] for row in rows]
        store = Taken(self.store, rows)
        return dataclasses.replace(self, labels=self.labels[rows], splits=self.splits[rows], names=names, store=store)


def numbered(values: Sequence[Any] | Array) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names and int64 labels for label values: numbers keep their order, text is sorted by name."""
    column = np.asarray(values)
    if column.dtype.kind in "iub":
        found, labels = np.unique(column, return_inverse=True)
        return tuple(str(int(x)) for x in found), labels.reshape(-1).astype(np.int64)
    texts = [x.decode() if isinstance(x, bytes) else str(x) for x in column.tolist()]
    whole = all(text.removeprefix("-").isdecimal() for text in texts)
    classes = sorted(set(texts), key=(lambda text: (int(text), text)) if whole else None)
    place = {name: k for k, name in enumerate(classes)}
    return tuple(classes), np.array([place[text] for text in texts], dtype=np.int64)


def name_scores(names: Sequence[str], seed: int, purpose: str) -> NDArray[np.uint64]:
    """A random 64-bit number for each image, from its name alone: adding an image changes no other's."""
    key = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:16]
    digests = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
