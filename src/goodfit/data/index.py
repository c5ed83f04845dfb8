"""The table of images that every format is read into: names, labels, splits, and the store that reads each image."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence, Sized
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from goodfit.core.figures import TaskName
from goodfit.data.store import Store, SubsetStore, hash_fields

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
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

    Of another `task` than classes, `classes` are the names of the labels or numbers, `targets` [N, K] has 1 where an image has a label, or
    the numbers, and `labels` are what splits are stratified by: places in `strata` (see `targets.stratify`).
    """

    name: str
    classes: tuple[str, ...]
    labels: IntArray
    splits: NDArray[np.int8]
    names: Sequence[str]
    store: Store
    notes: tuple[str, ...] = ()
    split_source: str = ""
    task: TaskName = "classes"
    targets: FloatArray | None = None
    stratum_names: tuple[str, ...] = ()

    @property
    def strata(self) -> tuple[str, ...]:
        """The names of what splits are stratified by: the classes, or groups of images with like labels or numbers."""
        return self.stratum_names or self.classes

    @property
    def answers(self) -> IntArray:
        """int64 [N] that are equal for images of the same class, labels or numbers."""
        return self.labels if self.targets is None else np.unique(self.targets, axis=0, return_inverse=True)[1].reshape(-1)

    def describe_answer(self, row: int) -> str:
        """The class of an image; its labels, `cat;dog`; or its numbers, `1.5;20`."""
        if self.targets is None:
            return str(self.classes[self.labels[row]])
        values = self.targets[row].tolist()
        words = (
            [name for name, x in zip(self.classes, values, strict=True) if x] if self.task == "labels" else [f"{x:.10g}" for x in values]
        )
        return ";".join(words)

    def count_outputs(self, rows: NDArray[Any]) -> IntArray:
        """The images [K] of each class, or with each label, among some rows; of numbers, all of them."""
        return count_outputs(self.task, self.labels[rows] if self.targets is None else self.targets[rows], len(self.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Hash the images' names and labels, and the paths and stamps of their files."""
        targets = () if self.targets is None else (self.task, self.targets.tobytes())
        return hash_fields(self.store.fingerprint(), "\0".join(self.classes), self.labels.tobytes(), "\0".join(self.names), *targets)

    def take(self, rows: IntArray) -> Index:
        """Keep only the given rows; the classes stay."""
        names = [self.names[row] for row in rows]
        store, targets = SubsetStore(self.store, rows), None if self.targets is None else self.targets[rows]
        return dataclasses.replace(self, labels=self.labels[rows], splits=self.splits[rows], names=names, store=store, targets=targets)


def count_outputs(task: TaskName, values: NDArray[Any], outputs: int) -> IntArray:
    """The images [K] of each class by their labels [n], or with each label by their targets [n, K]; of numbers, all images for each."""
    if task == "classes":
        return np.bincount(values, minlength=outputs)
    counts: IntArray = (values > 0).sum(0) if task == "labels" else np.full(outputs, len(values))
    return counts


def repeat_splits(labels: Sequence[Sized], splits: Sequence[int]) -> NDArray[np.int8]:
    """Repeat the split of each part of the images as often as the part has labels: int8 [N]."""
    return np.repeat(np.array(splits, dtype=np.int8), [len(part) for part in labels])


def draw_sort_keys(names: Sequence[str], seed: int, purpose: str) -> NDArray[np.uint64]:
    """Draw a 64-bit number [N] for each image from its name alone, so that adding an image changes no other's number."""
    key = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:16]
    digests = b"".join(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8, key=key).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
