"""The table of images that every format is read into: names, labels, splits, and the store that reads each image."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence, Sized
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from goodfit.data.store import Store, SubsetStore, hash_fields

IntArray = NDArray[np.int64]
SplitName = Literal["train", "validation", "test"]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
TRAIN, VALIDATION, TEST, UNASSIGNED = 0, 1, 2, -1  # the first three are positions in SPLITS
NAMES_OF_FILES = "the names of its files"  # what splits are read from
SPLIT_WORDS = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "dev": VALIDATION, "test": TEST,
    "testing": TEST,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The table of images: `labels` [N] int64 into `classes`, `splits` [N] int8 (TRAIN, VALIDATION, TEST or UNASSIGNED).

    `names` are stable and relative to the data's root ("cat/1.jpg", "train.parquet#17", "digits#3"); `name` is short, for run names;
    `notes` are sentences for the user, `split_source` says what the splits were read from ("the names of its files"), if any were.
    """

    name: str
    classes: tuple[str, ...]
    labels: IntArray
    splits: NDArray[np.int8]
    names: Sequence[str]
    store: Store
    notes: tuple[str, ...] = ()
    split_source: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Hash the images' names and labels, and the paths and stamps of their files."""
        return hash_fields(self.store.fingerprint(), "\0".join(self.classes), self.labels.tobytes(), "\0".join(self.names))

    def take(self, rows: IntArray) -> Index:
        """Keep only the given rows; the classes stay."""
        names = [self.names[row] for row in rows]
        store = SubsetStore(self.store, rows)
        return dataclasses.replace(self, labels=self.labels[rows], splits=self.splits[rows], names=names, store=store)


def repeat_splits(labels: Sequence[Sized], splits: Sequence[int]) -> NDArray[np.int8]:
    """Repeat the split of each part of the images as often as the part has labels: int8 [N]."""
    return np.repeat(np.array(splits, dtype=np.int8), [len(part) for part in labels])


def draw_sort_keys(names: Sequence[str], seed: int, purpose: str) -> NDArray[np.uint64]:
    """Draw a 64-bit number [N] for each image from its name alone, so that adding an image changes no other's number."""
    key = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:16]
    digests = b"".join(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8, key=key).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
