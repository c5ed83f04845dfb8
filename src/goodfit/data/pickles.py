"""CIFAR-10 and CIFAR-100 in their Python version, through an unpickler that builds arrays, dictionaries, lists and texts only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from goodfit.core.errors import DataError
from goodfit.data.store import TEST, TRAIN, Array, Arrays, File, Index, files_stamp

TEN = [(f"data_batch_{k}", TRAIN) for k in range(1, 6)] + [("test_batch", TEST)]
HUNDRED = [("train", TRAIN), ("test", TEST)]


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes; nothing but Latin-1 is meant by it."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {encoding} is not allowed")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Any]:
    from numpy._core.multiarray import _reconstruct, scalar

    arrays = {
        (f"numpy.{core}.multiarray", name): value
        for core in ("core", "_core")
        for name, value in (("_reconstruct", _reconstruct), ("scalar", scalar))
    }
    return {**arrays, ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _encode}


class _Plain(pickle.Unpickler):
    """Refuses every class and function but those NumPy arrays are made of, so a downloaded pickle cannot run anything."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _allowed()
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return allowed[module, name]


def unpickle(file: BinaryIO, path: Path) -> dict[str, Any]:
    """The dictionary in a pickle, its keys as text.

    Raises:
        DataError: it is damaged, no dictionary, or asks for anything but plain data.
    """
    try:
        content = _Plain(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(f'"{path}" is not a pickle of plain arrays: {error}.') from error
    if not isinstance(content, dict):
        raise DataError(f'Expected a dictionary in "{path}", found {type(content).__name__}.')
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR's Python files."""
    return (folder / "data_batch_1").is_file() or ((folder / "meta").is_file() and (folder / "train").is_file())


def from_cifar(folder: Path, name: str = "") -> Index:
    """The images of cifar-10-batches-py or cifar-100-python (its 100 fine classes).

    Raises:
        DataError: a file is missing or damaged.
    """
    ten = (folder / "data_batch_1").is_file()
    batches, meta = (TEN, "batches.meta") if ten else (HUNDRED, "meta")
    parts = []
    for file, split in batches:
        content = _batch(folder / file, "labels" if ten else "fine_labels")
        parts.append((file, split, *content))
    images: Array = np.concatenate([x for _, _, x, _ in parts])
    labels = np.concatenate([y for _, _, _, y in parts])
    classes = tuple(_text(word) for word in _read(folder / meta)["label_names" if ten else "fine_label_names"])
    if not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f'"{folder}" names {len(classes)} classes, but has labels from {labels.min()} to {labels.max()}.')
    splits = np.concatenate([np.full(len(y), split, dtype=np.int8) for _, split, _, y in parts])
    names = [f"{file}#{k}" for file, _, x, _ in parts for k in range(len(x))]
    stamp = files_stamp(folder, [File.of(file, folder) for file, _ in [*batches, (meta, 0)]])
    return Index(name or folder.resolve().name, classes, labels, splits, names, Arrays(lambda: images, stamp))


def _text(word: bytes | str) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return unpickle(file, path)
    except OSError as error:
        raise DataError(f'"{path}" cannot be read: {error.strerror}.') from error


def _batch(path: Path, key: str) -> tuple[Array, Array]:
    content = _read(path)
    pixels, labels = content.get("data"), content.get(key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != 3072
        or not isinstance(labels, list)
    ):
        raise DataError(f'Expected CIFAR\'s data [N, 3072] and {key} in "{path}".')
    if len(labels) != len(pixels):
        raise DataError(f'"{path}" has {len(pixels)} images and {len(labels)} labels.')
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)
