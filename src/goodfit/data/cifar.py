"""Indexes CIFAR-10 and CIFAR-100 in their Python version, through an unpickler that builds arrays, dictionaries, lists and texts only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from goodfit.core.errors import DataError, first_line
from goodfit.data.files import open_data_file
from goodfit.data.index import NAMES_OF_FILES, TEST, TRAIN, Index, repeat_splits
from goodfit.data.labels import match_labels, read_class_names
from goodfit.data.store import Array, ArrayStore, FileStat, hash_file_stats

CIFAR10_FILES = [(f"data_batch_{k}", TRAIN) for k in range(1, 6)] + [("test_batch", TEST)]
CIFAR100_FILES = [("train", TRAIN), ("test", TEST)]


def _latin1_encode(text: str, encoding: str) -> bytes:
    """Pickles of protocol 2 write bytes as text with this call; they use Latin-1 only."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {encoding} is not allowed")
    return text.encode("latin1")


def _allowed_globals() -> dict[tuple[str, str], Any]:
    from numpy._core.multiarray import _reconstruct, scalar

    arrays = {
        (f"numpy.{core}.multiarray", name): value
        for core in ("core", "_core")
        for name, value in (("_reconstruct", _reconstruct), ("scalar", scalar))
    }
    return {**arrays, ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _latin1_encode}


class _RestrictedUnpickler(pickle._Unpickler):  # the one in Python: a few damaged bytes make the one in C fill gigabytes with its memo
    """Refuses every class and function but those that NumPy arrays are made of, so that a downloaded pickle cannot run anything."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _allowed_globals()
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return allowed[module, name]


def unpickle(file: BinaryIO, path: Path) -> dict[str, Any]:
    """Read the dictionary in a pickle, its keys as text.

    Raises:
        DataError: the pickle is damaged, holds no dictionary, or asks for anything but plain data.
    """
    try:
        content = _RestrictedUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(f'"{path}" is damaged, or not a pickle of plain arrays ({first_line(error)}).') from error
    if not isinstance(content, dict):
        raise DataError(f'Expected a dictionary in "{path}", found {type(content).__name__}.')
    texts = {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return {key: value for key, value in texts.items() if isinstance(key, str)}


def is_cifar_folder(folder: Path) -> bool:
    """Whether a folder holds CIFAR's Python files."""
    return (folder / "data_batch_1").is_file() or ((folder / "meta").is_file() and (folder / "train").is_file())


def index_cifar(folder: Path, name: str = "") -> Index:
    """Index the images of cifar-10-batches-py or cifar-100-python (with its 100 fine classes).

    Raises:
        DataError: a file is missing or damaged.
    """
    is_cifar10 = (folder / "data_batch_1").is_file()
    batches, meta = (CIFAR10_FILES, "batches.meta") if is_cifar10 else (CIFAR100_FILES, "meta")
    prefix = "" if is_cifar10 else "fine_"
    images, labels = zip(*(_read_batch(folder / file, f"{prefix}labels") for file, _ in batches), strict=True)
    pixels, key = np.concatenate(images), f"{prefix}label_names"
    classes = read_class_names(_read_pickle(folder / meta).get(key), f'{key} of "{folder / meta}"')
    numbers = np.concatenate([match_labels(part, classes, f'"{folder / file}"') for (file, _), part in zip(batches, labels, strict=True)])
    names = [f"{file}#{k}" for (file, _), part in zip(batches, labels, strict=True) for k in range(len(part))]
    fingerprint = hash_file_stats(folder, [FileStat.of(file, folder) for file in [*(file for file, _ in batches), meta]])
    splits = repeat_splits(labels, [split for _, split in batches])
    store = ArrayStore(lambda: pixels, fingerprint)
    return Index(name or folder.resolve().name, classes, numbers, splits, names, store, split_source=NAMES_OF_FILES)


def _read_pickle(path: Path) -> dict[str, Any]:
    with open_data_file(path) as file:
        return unpickle(file, path)


def _read_batch(path: Path, key: str) -> tuple[Array, list[Any]]:
    """Read images [N, 32, 32, 3] and labels [N]."""
    content = _read_pickle(path)
    pixels, labels = content.get("data"), content.get(key)
    has_pixels = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (3072,)
    if pixels is None or not has_pixels or not isinstance(labels, list):
        raise DataError(f'Expected CIFAR\'s data [N, 3072] and {key} in "{path}".')
    if len(labels) != len(pixels):
        raise DataError(f'"{path}" has {len(pixels)} images and {len(labels)} labels.')
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
