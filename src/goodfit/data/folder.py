"""Indexes images in folders: those of splits with class folders inside (train/cat, seg_train/seg_train/cat), or class folders alone."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from goodfit.core.errors import DataError, UsageError
from goodfit.core.words import count_of, list_some, natural_order
from goodfit.data.index import SPLIT_WORDS, SPLITS, TRAIN, UNASSIGNED, Index
from goodfit.data.names import find_splits, is_data, is_fold
from goodfit.data.opening import IMAGE_SUFFIXES
from goodfit.data.store import FileStat, FileStore

DETECTION_FOLDERS = frozenset(("images", "jpegimages", "labels", "annotations", "masks"))


def index_folder(root: Path) -> Index:
    """Index the images of a folder, its classes in natural order.

    Raises:
        DataError: there are no class folders, what stands in their place looks like parts of the data, or a class has no images.
    """
    split_folders = _find_split_folders(root)
    images: dict[str, list[tuple[int, FileStat]]] = {}  # of each class, with their splits
    notes = _note_unread_images(root, split_folders)
    other_suffixes: Counter[str] = Counter()
    empty: list[tuple[str, str]] = []
    real_paths: dict[str, str] = {}
    for split, split_folder in split_folders:
        class_folders = _class_folders(split_folder)
        _refuse_parts(split_folder, [folder.name for folder in class_folders])
        for folder in class_folders:
            _refuse_twice(folder.path, real_paths)
            files = sorted(_walk_images(folder.path, root, other_suffixes, set()), key=lambda file: natural_order(file.name))
            images.setdefault(folder.name, []).extend((split, file) for file in files)
            if not files:
                empty.append((folder.name, os.path.relpath(folder.path, root)))
    if not any(images.values()):
        _refuse_imageless(root, list(images))
    if len(images) == 1:
        _refuse_depth(split_folders[0][1], *images)
    for name, where in empty:
        if not images[name]:
            raise DataError(f'The class folder "{root / where}" has no images: put some in, or remove the folder.')
        notes.append(f'"{where}" has no images.')
    if other_suffixes:
        suffixes = list_some([f"{n} x {suffix}" for suffix, n in other_suffixes.most_common()], 4)
        notes.append(f"Left out {count_of(other_suffixes.total(), 'file')} without an image's file name ({suffixes}).")
    classes = tuple(sorted(images, key=natural_order))
    notes += _note_split_words(classes)
    rows = [(k, split, file) for k, name in enumerate(classes) for split, file in images[name]]
    files = [file for _, _, file in rows]
    return Index(
        name=root.resolve().name or "images",
        classes=classes,
        labels=np.array([k for k, _, _ in rows], dtype=np.int64),
        splits=np.array([split for _, split, _ in rows], dtype=np.int8),
        names=[file.name for file in files],
        store=FileStore(root, files),
        notes=tuple(notes),
        split_source=f"the folders {list_some([folder.name for _, folder in split_folders])}" if split_folders[0][0] != UNASSIGNED else "",
    )


def _find_split_folders(root: Path) -> list[tuple[int, Path]]:
    """Find the folders that hold class folders, each with its split, by names such as "train", else by words such as that of "seg_train".

    A folder "train" without folders inside is itself a class.
    """
    folders = [folder for folder in _subfolders(root) if _subfolders(folder.path)]
    named = [(SPLIT_WORDS[folder.name.lower()], Path(folder.path)) for folder in folders if folder.name.lower() in SPLIT_WORDS]
    if TRAIN not in (split for split, _ in named):
        found = [(find_splits(folder.name), Path(folder.path)) for folder in folders]
        worded = [(min(splits), folder) for splits, folder in found if len(splits) == 1]
        splits = {split for split, _ in worded}
        named = worded if TRAIN in splits and len(splits) > 1 else named
    return [(split, _unwrap(folder)) for split, folder in named] or [(UNASSIGNED, root)]


def _unwrap(folder: Path) -> Path:
    """The folder that another one of the same split wraps, such as seg_train/seg_train, or else itself."""
    inner = _entries(folder)
    if len(inner) == 1 and _is_folder(inner[0]) and find_splits(inner[0].name) == find_splits(folder.name) and _subfolders(inner[0].path):
        return _unwrap(Path(inner[0].path))
    return folder


def _refuse_parts(folder: Path, names: list[str]) -> None:
    """Refuse to take parts of the data for classes.

    Raises:
        DataError: all names are those of splits, of folds or of what object detection has, or all folders hold the same folders.
    """
    if len(names) < 2:
        return
    insides = [{inner.name for inner in _subfolders(folder / name)} for name in names]
    if {name.lower() for name in names} <= DETECTION_FOLDERS:
        reason = "look like images with boxes or masks for object detection; a classifier needs one label for each image"
    elif all(len(find_splits(name)) == 1 for name in names) and not any(insides):
        reason = "look like splits, but have images in place of class folders"
    elif all(map(is_fold, names)):
        reason = "look like parts of the data, not like classes"
    elif len(insides[0]) > 1 and all(inside == insides[0] for inside in insides):
        reason = f"hold the same folders ({list_some(sorted(insides[0]))}), so that they look like parts of the data, not like classes"
    else:
        return
    quoted = list_some([f'"{name}"' for name in names])
    raise DataError(
        f'The folders {quoted} of "{folder}" {reason}: arrange the images as train/<class>/ and'
        " test/<class>/, name one of these folders as the data, or list the images in a table with the columns path, label and split."
        + _mention_tables(folder)
    )


def _refuse_depth(folder: Path, only: str) -> None:
    """Refuse a folder whose only class folder holds folders itself.

    Raises:
        DataError: it does.
    """
    if len(inside := _subfolders(folder / only)) > 1:
        found = f'found only "{only}", which holds {list_some([entry.name for entry in inside])}'
        raise DataError(f'Expected one folder per class in "{folder}", {found}: did you mean "{folder / only}"?')


def _refuse_twice(folder: str, real_paths: dict[str, str]) -> None:
    """Refuse a class folder that links to one read before; `real_paths` has the folders so far.

    Raises:
        DataError: it does.
    """
    if (other := real_paths.setdefault(os.path.realpath(folder), folder)) != folder:
        raise DataError(f'"{folder}" and "{other}" are one folder under two names: the same images would count twice; remove the link.')


def _mention_tables(folder: Path) -> str:
    """A sentence on the tables in a folder or one below, if there are any."""
    tables = [file for pattern in ("*", "*/*") for file in folder.glob(pattern) if is_data(file.name) and file.suffix in (".csv", ".tsv")]
    return f" If {tables[0]} lists images and labels, name it as the data." if tables else ""


def _note_split_words(classes: tuple[str, ...]) -> list[str]:
    """Note classes whose names have a split's word."""
    named = [f'"{name}"' for name in classes if find_splits(name) or is_fold(name)]
    return [f"Taken as classes, though their names could be those of parts of the data: {list_some(named)}."] if named else []


def _note_unread_images(root: Path, split_folders: list[tuple[int, Path]]) -> list[str]:
    """Note images beside the class folders, and folders with images beside those of the splits."""
    read = {folder for _, folder in split_folders}
    loose = sum(_is_image(entry.name) for folder in {root, *read} for entry in _entries(folder) if not _is_folder(entry))
    notes = [f"Left out {count_of(loose, 'image')} beside the class folders."] if loose else []
    opened = {path for folder in read for path in (folder, *folder.parents)}  # seg_train wraps the seg_train that is read
    others = [] if root in read else [folder for folder in _subfolders(root) if Path(folder.path) not in opened]
    unread = [f'"{folder.name}"' for folder in others if next(_walk_images(folder.path, root, Counter(), set()), None)]
    if unread:
        splits = ", ".join(f'"{folder.name}"' for _, folder in split_folders)
        has = "has" if len(unread) == 1 else "have"
        notes.append(f"Left out {list_some(unread)}, which {has} images: only {splits} are read.")
    return notes


def _refuse_imageless(root: Path, classes: list[str]) -> NoReturn:
    if classes:
        raise DataError(
            f'Expected images in "{root}", but its class folders ({list_some(sorted(classes))}) '
            f"hold none of {' '.join(sorted(IMAGE_SUFFIXES))}."
        )
    loose = sum(_is_image(entry.name) for entry in _entries(root))
    found = f"{count_of(loose, 'image')} but no class folders" if loose else "nothing to train on"
    raise DataError(
        f'Expected one folder per class in "{root}" (or {"/, ".join(SPLITS)}/ with class folders inside), found {found}.'
        + _mention_tables(root)
    )


def _entries(folder: Path | str, only_folders: bool = False) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            chosen = [entry for entry in entries if is_data(entry.name) and (not only_folders or _is_folder(entry))]
            return sorted(chosen, key=lambda entry: natural_order(entry.name))
    except OSError as error:
        raise DataError(f'The folder "{folder}" cannot be read: {error.strerror}.') from error


def _subfolders(folder: Path | str) -> list[os.DirEntry[str]]:
    return _entries(folder, only_folders=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _class_folders(split_folder: Path) -> list[os.DirEntry[str]]:
    """The subfolders that are neither runs nor hold runs, whose reports have images too."""

    def holds_run(folder: os.DirEntry[str]) -> bool:
        return any(Path(entry.path, "recipe.toml").is_file() for entry in (folder, *_subfolders(folder.path)))

    return [folder for folder in _subfolders(split_folder) if not holds_run(folder)]


def _is_image(name: str) -> bool:
    """Whether a file's name is that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  a Path per file costs more than its stat


def _walk_images(folder: str, root: Path, other_suffixes: Counter[str], visited: set[str]) -> Iterator[FileStat]:
    """Yield the image files below a folder, and count the suffixes of the others; links to folders are followed once."""
    real_path = os.path.realpath(folder)
    if real_path in visited:
        return
    visited.add(real_path)
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _walk_images(entry.path, root, other_suffixes, visited)
        elif _is_image(entry.name):
            name = entry.path[len(str(root)) :].lstrip(os.sep).replace(os.sep, "/")
            try:
                yield FileStat.from_stat(name, entry.stat())
            except OSError:  # a dangling link: reported among the broken images when it is read
                yield FileStat(name)
        else:
            other_suffixes[Path(entry.name).suffix.lower() or "no suffix"] += 1


def _images_at(path: Path) -> list[Path]:
    """The images below a folder, or a file if its name is that of an image."""
    if not path.is_dir():
        return [path] if _is_image(path.name) else []
    return [path / file.name for file in _walk_images(str(path), path, Counter(), set())]


def find_images(places: Iterable[str]) -> list[Path]:
    """Find the image files that paths, folders (searched for images) and patterns such as "photos/*.jpg" name, in their order.

    Raises:
        UsageError: there are no places.
        DataError: a place names no image.
    """
    files: list[Path] = []
    for place in places:
        if Path(place).exists():
            found = _images_at(Path(place)) if Path(place).is_dir() else [Path(place)]
        else:
            matches = map(Path, sorted(glob.glob(place, recursive=True), key=natural_order))  # noqa: PTH207  Path.glob takes no absolute pattern
            typed = Path(place).parts
            found = [file for path in matches if all(part in typed or is_data(part) for part in path.parts) for file in _images_at(path)]
        if not found:
            raise DataError(f'Expected an image, a folder of images or a pattern, found no image at "{place}".')
        files += dict.fromkeys(found)  # "photos/**" matches a folder and what is in it
    if not files:
        raise UsageError("Expected images to predict: files, folders or patterns, received none.")
    return files
