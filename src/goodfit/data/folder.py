"""Images in folders: train|val|validation|valid|test/<class>/ or <class>/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from goodfit.core.errors import DataError
from goodfit.core.words import count_of, list_some
from goodfit.data.store import SPLIT_NAMES, SPLIT_WORDS, UNASSIGNED, File, Files, Index

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))


def from_folder(root: Path) -> Index:
    """The images of a folder, classes sorted by name.

    Raises:
        DataError: there are no class folders, or a class has no images.
    """
    homes = _homes(root)
    per_class: dict[str, list[tuple[int, File]]] = {}
    notes = _left_out(root, homes)
    strange: Counter[str] = Counter()
    empty: list[tuple[str, str]] = []
    for split, home in homes:
        for folder in _class_folders(home):
            files = sorted(_walk(folder.path, root, strange, set()), key=lambda file: file.name)
            per_class.setdefault(folder.name, []).extend((split, file) for file in files)
            if not files:
                empty.append((folder.name, os.path.relpath(folder.path, root)))
    if not any(per_class.values()):
        _nothing(root, per_class)
    for name, where in empty:
        if not per_class[name]:
            raise DataError(f'The class folder "{root / where}" has no images: put some in, or remove the folder.')
        notes.append(f'"{where}" has no images.')
    if strange:
        kinds = list_some([f"{n} x {suffix}" for suffix, n in strange.most_common()], 4)
        notes.append(f"Left out {count_of(strange.total(), 'file')} not named like an image ({kinds}).")
    classes = tuple(sorted(per_class))
    rows = [(k, split, file) for k, name in enumerate(classes) for split, file in per_class[name]]
    files = [file for _, _, file in rows]
    return Index(
        name=root.resolve().name or "images",
        classes=classes,
        labels=np.array([k for k, _, _ in rows], dtype=np.int64),
        splits=np.array([split for _, split, _ in rows], dtype=np.int8),
        names=[file.name for file in files],
        store=Files(root, files),
        notes=tuple(notes),
    )


def _homes(root: Path) -> list[tuple[int, Path]]:
    """The folders that hold class folders, each with its split. A folder called "train" with no folders inside is a class of its own."""
    splits = [
        (SPLIT_WORDS[folder.name.lower()], Path(folder.path))
        for folder in _subfolders(root)
        if folder.name.lower() in SPLIT_WORDS and _subfolders(Path(folder.path))
    ]
    return splits or [(UNASSIGNED, root)]


def _left_out(root: Path, homes: list[tuple[int, Path]]) -> list[str]:
    """Notes on images beside the class folders, and on folders with images beside those of the splits."""
    loose = sum(_is_image(entry.name) for home in {root, *(home for _, home in homes)} for entry in _entries(home) if not entry.is_dir())
    notes = [f"Left out {count_of(loose, 'image')} beside the class folders."] if loose else []
    used = {home for _, home in homes}
    others = [] if root in used else [folder for folder in _subfolders(root) if Path(folder.path) not in used]
    named = [f'"{folder.name}"' for folder in others if next(_walk(folder.path, root, Counter(), set()), None)]
    splits = ", ".join(f'"{home.name}"' for _, home in homes)
    has = "has" if len(named) == 1 else "have"
    if named:
        notes.append(f"Left out, because only {splits} are read: {list_some(named)}, which {has} images.")
    return notes


def _nothing(root: Path, classes: dict[str, list[tuple[int, File]]]) -> None:
    if classes:
        raise DataError(
            f'No images in "{root}": its class folders ({list_some(sorted(classes))}) hold none of {" ".join(sorted(SUFFIXES))}.'
        )
    loose = sum(_is_image(entry.name) for entry in _entries(root))
    found = f"{count_of(loose, 'image')} but no class folders" if loose else "nothing to train on"
    raise DataError(
        f'Expected one folder per class in "{root}" (or {"/, ".join(SPLIT_NAMES[k] for k in range(3))}/ with them), found {found}.'
    )


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f'The folder "{folder}" cannot be read: {error.strerror}.') from error


def _subfolders(folder: Path | str) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _class_folders(home: Path) -> list[os.DirEntry[str]]:
    """The subfolders, without those of runs, which have images for their reports."""

    def of_runs(folder: os.DirEntry[str]) -> bool:
        return any(Path(place.path, "recipe.toml").is_file() for place in (folder, *_subfolders(folder.path)))

    return [folder for folder in _subfolders(home) if not of_runs(folder)]


def _is_image(name: str) -> bool:
    """Whether a file's name is that of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  a Path per file costs more than its stat


def _walk(folder: str, root: Path, strange: Counter[str], seen: set[str]) -> Iterator[File]:
    """Image files below a folder; links to folders are followed, once each."""
    here = os.path.realpath(folder)
    if here in seen:
        return
    seen.add(here)
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry.path, root, strange, seen)
        elif _is_image(entry.name):
            name = entry.path[len(str(root)) :].lstrip(os.sep).replace(os.sep, "/")
            try:
                facts = entry.stat()
                yield File(name, facts.st_size, facts.st_mtime_ns)
            except OSError:  # a link to nothing: named with the broken images when it is read
                yield File(name, -1, -1)
        else:
            strange[Path(entry.name).suffix.lower() or "no suffix"] += 1
