"""Images as arrays: .npz files, IDX files (MNIST's format, gz too), and scikit-learn's digits."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.data.levels import Scale, channels_last, scale_of, to_pixels
from goodfit.data.store import TEST, TRAIN, UNASSIGNED, VALIDATION, Array, Arrays, File, Index, files_stamp, hashed, numbered

SETS = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
MNIST_FILES = (("train-images-idx3-ubyte", "train-labels-idx1-ubyte", TRAIN), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", TEST))


def stacked(parts: Sequence[Array], scale: Scale | None = None) -> Array:
    """One array of the images of several splits, as uint8 or uint16, channels last, all on one scale."""
    scale = scale or scale_of(parts)
    made = [to_pixels(channels_last(part) if part.ndim == 4 else part, scale) for part in parts]
    return np.concatenate(made) if len(made) > 1 else made[0]


# ---- .npz ----------------------------------------------------------------------------------------------------------------------


def from_npz(path: Path) -> Index:
    """Arrays x_train, y_train, x_test, y_test (and x_val, y_val), or images and labels; `classes` may hold the names.

    Raises:
        DataError: the arrays are not there, or images and labels differ in number.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = _npz_keys(path, file.files)
            labels = [_flat(path, y, file[y]) for _, y, _ in keys]
            names = [str(name) for name in file["classes"]] if "classes" in file.files else []
        heads = [_npy_head(path, x) for x, _, _ in keys]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f'"{path}" cannot be read as an .npz file: {error}.') from error
    for (x, y, _), (shape, _), values in zip(keys, heads, labels, strict=True):
        if len(shape) not in (3, 4) or shape[0] != len(values):
            raise DataError(
                f'"{path}": expected images [N, H, W(, C)] and as many labels, found {x} {list(shape)} and {y} [{len(values)}].'
            )
    classes, rows = numbered(np.concatenate(labels))
    if names:
        classes, rows = tuple(names), np.concatenate(labels).astype(np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(names):
            raise DataError(f'"{path}" names {len(names)} classes, but has labels from {rows.min()} to {rows.max()}.')
    splits = np.concatenate([np.full(len(values), split, dtype=np.int8) for values, (_, _, split) in zip(labels, keys, strict=True)])
    load, notes = _npz_images(path, tuple(x for x, _, _ in keys), [kind for _, kind in heads])
    image_names = [f"{x}#{k}" for (x, _, _), values in zip(keys, labels, strict=True) for k in range(len(values))]
    stamp = files_stamp(path.parent, [File.of(path.name, path.parent)])
    return Index(path.stem, classes, rows, splits, image_names, Arrays(load, stamp), notes)


def _npz_keys(path: Path, there: list[str]) -> list[tuple[str, str, int]]:
    keys = [(f"x_{word}", f"y_{word}", split) for word, split in SETS.items() if f"x_{word}" in there and f"y_{word}" in there]
    keys = keys or [("images", "labels", UNASSIGNED)] if {"images", "labels"} <= set(there) else keys
    if not keys:
        found = ", ".join(there) or "nothing"
        raise DataError(f'Expected arrays x_train, y_train, x_test, y_test or images, labels in "{path}", found: {found}.')
    return keys


def _flat(path: Path, name: str, labels: Array) -> Array:
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.dtype.kind == "f" and np.array_equal(flat, np.rint(flat)):
        flat = flat.astype(np.int64)
    if flat.ndim != 1 or flat.dtype.kind not in "iubUS":
        raise DataError(f'"{path}": expected one label per image in {name}, found {labels.dtype} {list(labels.shape)}.')
    return flat


def _npy_head(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        shape, _, kind = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        return shape, kind


def _npz_images(path: Path, keys: tuple[str, ...], kinds: list[np.dtype[Any]]) -> tuple[Callable[[], Array], tuple[str, ...]]:
    """What loads the images, and notes; floats are read at once, since only all of them together tell what they mean."""
    if not any(kind.kind == "f" for kind in kinds):
        return lambda: stacked(_read_npz(path, keys)), ()
    parts = _read_npz(path, keys)
    scale = scale_of(parts)
    images = stacked(parts, scale)
    return lambda: images, (scale.note,) if scale.note else ()


def _read_npz(path: Path, keys: tuple[str, ...]) -> list[Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[key] for key in keys]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f'"{path}" cannot be read as an .npz file: {error}.') from error


# ---- IDX -----------------------------------------------------------------------------------------------------------------------


def idx_files(path: Path) -> list[tuple[Path, Path, int]]:
    """Pairs of images and labels files with their split: MNIST's four in a folder, or one images file and its neighbor; else empty."""
    if path.is_dir():
        pairs = [(_either(path, images), _either(path, labels), split) for images, labels, split in MNIST_FILES]
        return [(images, labels, split) for images, labels, split in pairs if images and labels]
    if "images" not in path.name or "idx" not in path.name:
        return []
    labels = _either(path.parent, path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1"))
    if labels is None:
        raise DataError(f'The labels of "{path}" are not beside it: expected a file called like it, with "labels" for "images".')
    return [(path, labels, UNASSIGNED)]


def _either(folder: Path, name: str) -> Path | None:
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
    return next((folder / n for n in names if (folder / n).is_file()), None)


def from_idx(path: Path, pairs: list[tuple[Path, Path, int]], name: str = "") -> Index:
    """The images of IDX files (LeCun's MNIST format)."""
    labels = [read_idx(file, 1) for _, file, _ in pairs]
    for (images, _, _), values in zip(pairs, labels, strict=True):
        found = _idx_header(images, 3)
        if found[0] != len(values):
            raise DataError(f'"{images}" has {found[0]} images, but its labels file has {len(values)} labels.')
    classes, rows = numbered(np.concatenate(labels))
    splits = np.concatenate([np.full(len(values), split, dtype=np.int8) for values, (_, _, split) in zip(labels, pairs, strict=True)])
    names = [f"{images.name.removesuffix('.gz')}#{k}" for (images, _, _), v in zip(pairs, labels, strict=True) for k in range(len(v))]
    root = path if path.is_dir() else path.parent
    stamp = files_stamp(root, [File.of(file.name, root) for pair in pairs for file in pair[:2]])
    return Index(name or path.stem, classes, rows, splits, names, Arrays(functools.partial(_load_idx, [p[0] for p in pairs]), stamp))


def _load_idx(files: list[Path]) -> Array:
    return stacked([read_idx(file, 3) for file in files])


def _idx_header(path: Path, axes: int) -> list[int]:
    with _opened(path) as file:
        head = file.read(4 + 4 * axes)
    if len(head) < 4 + 4 * axes or head[:3] != b"\0\0\x08" or head[3] != axes:
        raise DataError(f'"{path}" is no IDX file of unsigned bytes with {axes} axes.')
    return [int.from_bytes(head[4 + 4 * k : 8 + 4 * k], "big") for k in range(axes)]


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The uint8 array of an IDX file with `axes` axes, gz or not.

    Raises:
        DataError: it is no such file, or it is cut short.
    """
    shape = _idx_header(path, axes)
    try:
        with _opened(path) as file:
            content = file.read()[4 + 4 * axes :]
    except (OSError, EOFError) as error:
        raise DataError(f'"{path}" is damaged: {error}.') from error
    if len(content) != int(np.prod(shape)):
        raise DataError(f'"{path}" is cut short or damaged: expected {int(np.prod(shape))} values, found {len(content)}.')
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


# ---- digits --------------------------------------------------------------------------------------------------------------------


def digits() -> Index:
    """scikit-learn's 1,797 handwritten digits, 8x8 gray; their 16 levels become 0..255."""
    levels, labels = _digits_table()
    images = np.rint(levels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    splits = np.full(len(labels), UNASSIGNED, dtype=np.int8)
    names = [f"digits#{k}" for k in range(len(labels))]
    store = Arrays(lambda: images, hashed("digits", images.tobytes()))
    return Index("digits", tuple(str(k) for k in range(10)), labels, splits, names, store)


def _digits_table() -> tuple[Array, NDArray[np.int64]]:
    """Levels [1797, 64] and labels, from scikit-learn's file where it lies as usual: importing all of scikit-learn takes a second."""
    found = importlib.util.find_spec("sklearn")
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz" if found and found.origin else Path()
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    return levels, labels.astype(np.int64)
