"""Indexes images in arrays: .npz files, and IDX files (MNIST's format, gzipped too)."""

from __future__ import annotations

import functools
import gzip
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.data.index import NAMES_OF_FILES, SPLIT_WORDS, TEST, TRAIN, UNASSIGNED, Index, encode_labels, repeat_splits
from goodfit.data.levels import PixelScale, find_scale_notes, infer_scales, to_channels_last, to_pixels
from goodfit.data.store import Array, ArrayStore, FileStat, hash_file_stats

MNIST_FILES = (("train-images-idx3-ubyte", "train-labels-idx1-ubyte", TRAIN), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", TEST))


def concatenate_images(parts: Sequence[Array], scales: Sequence[PixelScale] = ()) -> Array:
    """Concatenate the images of several splits as uint8 or uint16, channels last, each from its own scale."""
    scales = scales or infer_scales(parts)
    pixels = [to_pixels(to_channels_last(part) if part.ndim == 4 else part, scale) for part, scale in zip(parts, scales, strict=True)]
    return np.concatenate(pixels) if len(pixels) > 1 else pixels[0]


# ---- .npz ----------------------------------------------------------------------------------------------------------------------


def index_npz(path: Path) -> Index:
    """Index arrays x_train, y_train, x_test, y_test (and x_val, y_val), or images and labels; `classes` may hold the names.

    Raises:
        DataError: the arrays are missing, or images and labels differ in number.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = _find_npz_keys(path, file.files)
            labels = [_flatten_labels(path, y, file[y]) for _, y, _ in keys]
            names = [str(name) for name in file["classes"]] if "classes" in file.files else []
        headers = [_read_npy_header(path, x) for x, _, _ in keys]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    for (x, y, _), (shape, _), part in zip(keys, headers, labels, strict=True):
        if len(shape) not in (3, 4) or shape[0] != len(part):
            raise DataError(
                f'"{path}": expected images [N, H, W] or [N, H, W, C] and a label for each, found {x} {list(shape)} and {y} [{len(part)}].'
            )
    classes, numbers = encode_labels(np.concatenate(labels))
    if names:
        classes, numbers = tuple(names), np.concatenate(labels).astype(np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
            raise DataError(f'"{path}" names {len(names)} classes, but has labels from {numbers.min()} to {numbers.max()}.')
    load, notes = _prepare_npz_images(path, tuple(x for x, _, _ in keys), [dtype for _, dtype in headers])
    image_names = [f"{x}#{k}" for (x, _, _), part in zip(keys, labels, strict=True) for k in range(len(part))]
    store = ArrayStore(load, hash_file_stats(path.parent, [FileStat.of(path.name, path.parent)]))
    splits = repeat_splits(labels, [split for _, _, split in keys])
    return Index(path.stem, classes, numbers, splits, image_names, store, notes, split_source="the names of its arrays")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f'"{path}" cannot be read as an .npz file: {error}.')


def _find_npz_keys(path: Path, names: list[str]) -> list[tuple[str, str, int]]:
    """Find (images, labels, split) among the names of the arrays."""
    keys = [(f"x_{word}", f"y_{word}", split) for word, split in SPLIT_WORDS.items() if {f"x_{word}", f"y_{word}"} <= set(names)]
    keys = keys or [("images", "labels", UNASSIGNED)] if {"images", "labels"} <= set(names) else keys
    if not keys:
        arrays = ", ".join(names) or "nothing"
        raise DataError(f'Expected arrays x_train, y_train, x_test, y_test or images, labels in "{path}", found: {arrays}.')
    return keys


def _flatten_labels(path: Path, name: str, labels: Array) -> Array:
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.dtype.kind == "f" and np.array_equal(flat, np.rint(flat)):
        flat = flat.astype(np.int64)
    if flat.ndim != 1 or flat.dtype.kind not in "iubUS":
        raise DataError(f'"{path}": expected one label per image in {name}, found {labels.dtype} {list(labels.shape)}.')
    return flat


def _read_npy_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and dtype of an array without its content."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        return shape, dtype


def _prepare_npz_images(path: Path, keys: tuple[str, ...], dtypes: list[np.dtype[Any]]) -> tuple[Callable[[], Array], tuple[str, ...]]:
    """Return a function that loads the images, and notes; all but bytes are read at once, since their scale depends on all of them."""
    if all(dtype in (np.uint8, bool) for dtype in dtypes):
        return lambda: concatenate_images(_read_npz(path, keys)), ()
    parts = _read_npz(path, keys)
    try:
        scales = infer_scales(parts)
    except DataError as error:
        text = str(error)
        raise DataError(f'"{path}": {text[:1].lower()}{text[1:]}') from error
    images = concatenate_images(parts, scales)
    return lambda: images, find_scale_notes(scales)


def _read_npz(path: Path, keys: tuple[str, ...]) -> list[Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[key] for key in keys]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


# ---- IDX -----------------------------------------------------------------------------------------------------------------------


def find_idx_files(path: Path) -> list[tuple[Path, Path, int]]:
    """Find (images file, labels file, split): MNIST's four files in a folder, or one images file with its neighbor; else an empty list.

    Raises:
        DataError: the labels of an images file are missing.
    """
    if path.is_dir():
        pairs = [(_find_variant(path, images), _find_variant(path, labels), split) for images, labels, split in MNIST_FILES]
        return [(images, labels, split) for images, labels, split in pairs if images and labels]
    if "images" not in path.name or "idx" not in path.name:
        return []
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    labels = _find_variant(path.parent, name)
    if labels is None:
        raise DataError(f'Expected the labels of "{path}" in "{name}" beside it, found no such file.')
    return [(path, labels, UNASSIGNED)]


def _find_variant(folder: Path, name: str) -> Path | None:
    """Find an IDX file that may be gzipped or have a dot in place of the dash."""
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
    return next((folder / n for n in names if (folder / n).is_file()), None)


def index_idx(path: Path, pairs: list[tuple[Path, Path, int]], name: str = "") -> Index:
    """Index the images of IDX files (LeCun's MNIST format).

    Raises:
        DataError: a file is damaged, or images and labels differ in number.
    """
    labels = [read_idx(file, 1) for _, file, _ in pairs]
    for (images, _, _), part in zip(pairs, labels, strict=True):
        n = _read_idx_shape(images, 3)[0]
        if n != len(part):
            raise DataError(f'"{images}" has {n} images, but its labels file has {len(part)} labels.')
    classes, numbers = encode_labels(np.concatenate(labels))
    names = [f"{images.name.removesuffix('.gz')}#{k}" for (images, _, _), part in zip(pairs, labels, strict=True) for k in range(len(part))]
    root = path if path.is_dir() else path.parent
    fingerprint = hash_file_stats(root, [FileStat.of(file.name, root) for pair in pairs for file in pair[:2]])
    store = ArrayStore(functools.partial(_read_idx_images, [images for images, _, _ in pairs]), fingerprint)
    splits = repeat_splits(labels, [split for _, _, split in pairs])
    return Index(name or path.stem, classes, numbers, splits, names, store, split_source=NAMES_OF_FILES)


def _read_idx_images(files: list[Path]) -> Array:
    return concatenate_images([read_idx(file, 3) for file in files])


def _read_idx_shape(path: Path, axes: int) -> list[int]:
    with _open_maybe_gzipped(path) as file:
        header = file.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes or header[:3] != b"\0\0\x08" or header[3] != axes:
        raise DataError(f'"{path}" is not an IDX file of unsigned bytes with {axes} axes.')
    return [int.from_bytes(header[4 + 4 * k : 8 + 4 * k], "big") for k in range(axes)]


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read the uint8 array of an IDX file with `axes` axes, gzipped or not.

    Raises:
        DataError: the file has another format, or is cut short.
    """
    shape = _read_idx_shape(path, axes)
    try:
        with _open_maybe_gzipped(path) as file:
            content = file.read()[4 + 4 * axes :]
    except (OSError, EOFError) as error:
        raise DataError(f'"{path}" is damaged: {error}.') from error
    if len(content) != int(np.prod(shape)):
        raise DataError(f'"{path}" is cut short or damaged: expected {int(np.prod(shape))} values, found {len(content)}.')
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _open_maybe_gzipped(path: Path) -> Any:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")
