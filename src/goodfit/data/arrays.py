"""Indexes images in arrays: .npz files, and IDX files (MNIST's format, gzipped too)."""

from __future__ import annotations

import contextlib
import functools
import gzip
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from goodfit.core.errors import DataError
from goodfit.core.memory import check_memory
from goodfit.core.words import list_some
from goodfit.data.files import explain_faults, open_data_file
from goodfit.data.index import NAMES_OF_FILES, SPLIT_WORDS, TEST, TRAIN, UNASSIGNED, Index, repeat_splits
from goodfit.data.labels import encode_labels, match_labels, read_class_names
from goodfit.data.levels import PixelScale, find_scale_notes, infer_scales, to_channels_last, to_pixels
from goodfit.data.store import Array, ArrayStore, FileStat, hash_file_stats
from goodfit.data.table_targets import CLASSES, TargetSpec
from goodfit.data.targets import Answers, encode_values

NPZ_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))  # of the images and labels of a split; MedMNIST has the latter
MNIST_FILES = (("train-images-idx3-ubyte", "train-labels-idx1-ubyte", TRAIN), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", TEST))


def concatenate_images(parts: Sequence[Array], scales: Sequence[PixelScale] = ()) -> Array:
    """Concatenate the images of several splits as uint8 or uint16, channels last, each from its own scale."""
    scales = scales or infer_scales(parts)
    pixels = [to_pixels(to_channels_last(part) if part.ndim == 4 else part, scale) for part, scale in zip(parts, scales, strict=True)]
    return np.concatenate(pixels) if len(pixels) > 1 else pixels[0]


# ---- .npz ----------------------------------------------------------------------------------------------------------------------


def index_npz(path: Path, spec: TargetSpec = CLASSES) -> Index:
    """Index arrays x_train, y_train, x_test, y_test (and x_val, y_val), the same as train_images, train_labels ..., or images and labels;
    `classes` may hold the names. Labels are [N, K] of 0 and 1, numbers [N] or [N, K].

    Raises:
        DataError: the file is damaged, arrays are missing or of other shapes, or images and labels differ in number.
    """
    with explain_faults(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        keys = _find_npz_keys(path, [name.removesuffix(".npy") for name in archive.namelist()])
        headers = {name: _read_npy_header(path, archive, name) for x, y, _ in keys for name in (x, y)}
        _check_shapes(path, [(x, headers[x].shape, y, headers[y].shape) for x, y, _ in keys])
        for x, _, _ in keys:
            if headers[x].dtype.kind not in "fiub":
                raise DataError(f'"{path}": expected images of integers or floats, found {x} of {headers[x].dtype}.')
        check_memory(sum(header.n_bytes for header in headers.values()), f'"{path}"')
        labels = [_read_labels(path, archive, y) for _, y, _ in keys]
        classes = read_class_names(_read_array(path, archive, "classes"), f'"{path}"') if "classes.npy" in archive.namelist() else ()
        if spec.task != "classes":
            answers = _read_npz_targets(path, spec, labels, classes)
        elif classes:
            numbers = np.concatenate([match_labels(part, classes, f'"{path}" ({y})') for (_, y, _), part in zip(keys, labels, strict=True)])
            answers = Answers("classes", classes, numbers)
        else:
            answers = Answers("classes", *encode_labels(np.concatenate(labels), f'"{path}"'))
    load, notes = _prepare_npz_images(path, tuple(x for x, _, _ in keys), [headers[x].dtype for x, _, _ in keys])
    image_names = [f"{x}#{k}" for (x, _, _), part in zip(keys, labels, strict=True) for k in range(len(part))]
    store = ArrayStore(load, hash_file_stats(path.parent, [FileStat.of(path.name, path.parent)]))
    splits = repeat_splits(labels, [split for _, _, split in keys])
    return answers.index(path.stem, splits, image_names, store, notes, "the names of its arrays")


def _read_npz_targets(path: Path, spec: TargetSpec, parts: Sequence[Array], names: Sequence[str]) -> Answers:
    """Turn arrays of labels or numbers [n] or [n, K], one for each split, into answers; `names` are those that the file has for them.

    Raises:
        DataError: they are none, or differ in K.
    """
    if spec.columns:
        raise DataError(f'"{path}" has no columns, so --targets cannot choose any: name the {spec.task} in an array "classes".')
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1 or len(shapes[0]) > 1:
        raise DataError(f'Expected {spec.task} [N, K] in "{path}", of the same K in each split, found {list_some(list(map(str, shapes)))}.')
    values = np.concatenate([part.reshape(len(part), -1) for part in parts])
    if names and len(names) != values.shape[1]:
        raise DataError(f'"{path}" names {len(names)} {spec.task} in classes, and has {values.shape[1]} an image.')
    kind = spec.task.removesuffix("s")
    numbered = [kind] if values.shape[1] == 1 else [f"{kind} {k + 1}" for k in range(values.shape[1])]
    return encode_values(spec.task, names or numbered, values, f'"{path}"')


def _find_npz_keys(path: Path, names: list[str]) -> list[tuple[str, str, int]]:
    """Find (images, labels, split) among the names of the arrays."""
    pairs = [[(x.format(word), y.format(word), split) for word, split in SPLIT_WORDS.items()] for x, y in NPZ_NAMES]
    keys = next(filter(None, ([pair for pair in some if {*pair[:2]} <= set(names)] for some in pairs)), [])
    keys = keys or [("images", "labels", UNASSIGNED)] if {"images", "labels"} <= set(names) else keys
    if not keys:
        arrays = list_some(names, 10) or "nothing"
        raise DataError(f'Expected arrays x_train, y_train, x_test, y_test or images, labels in "{path}", found: {arrays}.')
    return keys


class _NpyHeader(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _read_npy_header(path: Path, archive: zipfile.ZipFile, name: str) -> _NpyHeader:
    """Read the shape and dtype of an array without its content.

    Raises:
        DataError: it holds Python objects, or the file has more or fewer bytes than the shape says.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        header = _NpyHeader(shape, dtype)
        if dtype.hasobject:
            raise DataError(f'"{path}" cannot be read: {name} holds Python objects; save texts with .astype(str), images as one array.')
        if min(shape, default=0) < 0 or file.tell() + header.n_bytes != info.file_size:
            raise DataError(f'"{path}" is damaged: {name} {list(shape)} needs {header.n_bytes:,} bytes, but has {info.file_size:,}.')
        return header


def _read_array(path: Path, archive: zipfile.ZipFile, name: str) -> Array:
    check_memory(_read_npy_header(path, archive, name).n_bytes, f'"{path}"')
    with archive.open(f"{name}.npy") as file:
        array: Array = npy.read_array(file, allow_pickle=False)
        return array


def _read_labels(path: Path, archive: zipfile.ZipFile, name: str) -> Array:
    """Read labels [N] or [N, 1] as [N]."""
    labels = _read_array(path, archive, name)
    return labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _check_shapes(path: Path, parts: Sequence[tuple[str, Sequence[int], str, Sequence[int]]]) -> None:
    """Check the shapes of images and labels, each with its name.

    Raises:
        DataError: they are not those of images with a label for each, or differ between the parts.
    """
    for x, shape, y, label_shape in parts:
        if len(shape) not in (3, 4) or not label_shape or shape[0] != label_shape[0]:
            raise DataError(
                f'"{path}": expected images [N, H, W] or [N, H, W, C] and a label for each, '
                f"found {x} {list(shape)} and {y} {list(label_shape)}."
            )
        if not all(shape[1:]):
            raise DataError(f'"{path}": expected images with pixels, found {x} {list(shape)}.')
        if list(shape[1:]) != list(parts[0][1][1:]):
            raise DataError(f'"{path}": expected images of one size, found {parts[0][0]} {list(parts[0][1])} and {x} {list(shape)}.')


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
    with explain_faults(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        return [_read_array(path, archive, key) for key in keys]


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
    shapes = [(images.name, _read_idx_shape(images, 3), file.name, _read_idx_shape(file, 1)) for images, file, _ in pairs]
    _check_shapes(path, shapes)
    labels = [read_idx(file, 1) for _, file, _ in pairs]
    classes, numbers = encode_labels(np.concatenate(labels), f'"{path}"')
    names = [f"{images.name.removesuffix('.gz')}#{k}" for (images, _, _), part in zip(pairs, labels, strict=True) for k in range(len(part))]
    root = path if path.is_dir() else path.parent
    fingerprint = hash_file_stats(root, [FileStat.of(file.name, root) for pair in pairs for file in pair[:2]])
    store = ArrayStore(functools.partial(_read_idx_images, [images for images, _, _ in pairs]), fingerprint)
    splits = repeat_splits(labels, [split for _, _, split in pairs])
    return Index(name or path.stem, classes, numbers, splits, names, store, split_source=NAMES_OF_FILES)


def _read_idx_images(files: list[Path]) -> Array:
    return concatenate_images([read_idx(file, 3) for file in files])


def _read_idx_shape(path: Path, axes: int) -> list[int]:
    with _open_idx(path) as file:
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
    size = math.prod(shape)
    check_memory(size, f'"{path}"')
    with _open_idx(path) as file:
        content = file.read(4 + 4 * axes + size + 1)[4 + 4 * axes :]  # one more, to notice what is too long
    if len(content) != size:
        found = f"{len(content):,}" if len(content) < size else "more"
        raise DataError(f'"{path}" is cut short or damaged: expected {size:,} values, found {found}.')
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


@contextlib.contextmanager
def _open_idx(path: Path) -> Iterator[BinaryIO]:
    """Open an IDX file, gzipped or not; what is wrong with it within the block becomes a DataError."""
    with explain_faults(path, "an IDX file"), open_data_file(path) as file:
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
