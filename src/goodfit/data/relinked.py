"""Packs of files that only have another inode or change time, as after a hard link or chmod: compared by content, and kept."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from goodfit.core.cached import read_cached, write_cached
from goodfit.core.errors import GoodfitError
from goodfit.core.files import sync_folder
from goodfit.core.reporter import Reporter, SilentReporter
from goodfit.data.headers import ImageHeaders
from goodfit.data.opening import BrokenImage
from goodfit.data.packed import Pack, hash_content, open_pack, write_facts
from goodfit.data.preprocess import Preprocess

ROWS_AT_ONCE = 256  # whose files are read and compared


def remember_pack(note: Path, folder: Path, reporter: Reporter) -> None:
    """Note which pack is the last of files with the same paths, sizes and times of modification; it is reported if the note was damaged."""
    if read_cached(note, reporter) != folder.name.encode():
        with contextlib.suppress(GoodfitError):  # a cache that cannot be written: the pack is not found again by them
            write_cached(note, folder.name.encode())


def keep_pack(note: Path, folder: Path, headers: ImageHeaders, preprocess: Preprocess, reporter: Reporter) -> Pack | None:
    """Move the pack that `note` names to `folder`, if the images have the content that it was made of; None if there is none such.

    It is reported if one is kept.
    """
    name = read_cached(note)
    if name is None or name.decode() == folder.name or name.decode().rpartition("-")[2] != folder.name.rpartition("-")[2]:
        return None
    pack = open_pack(folder.with_name(name.decode()), SilentReporter())
    if pack is None:
        return None
    reporter.show_activity("comparing the images with those that are packed")
    if not _has_content(pack, headers, preprocess):
        return None
    with contextlib.suppress(FileNotFoundError):  # another process has removed it meanwhile
        write_facts(pack.folder, folder.name, pack.rows, pack.broken)
        pack.folder.rename(folder)
        sync_folder(folder.parent)
        reporter.say(
            "Files of the images have another inode or change time than when they were packed, as after a link or chmod:"
            " their content is the same, so the packed pixels are kept."
        )
        return Pack(folder, pack.rows, pack.broken)
    return None


def _has_content(pack: Pack, headers: ImageHeaders, preprocess: Preprocess) -> bool:
    """Whether the images are those of a pack: by the hash of each, and those that could not be decoded still cannot be."""
    n, hashes = len(headers.index), pack.hashes
    if len(hashes) != n:
        return False
    for start in range(0, n, ROWS_AT_ONCE):
        rows = [row for row in range(start, min(start + ROWS_AT_ONCE, n)) if row not in headers.broken]
        for row, source in zip(rows, headers.index.store.read_many(rows), strict=True):
            if row in pack.broken:
                if not isinstance(source, OSError) and _decodes(source, preprocess):
                    return False
            elif isinstance(source, OSError) or hash_content(source) != hashes[row].tobytes():
                return False
    return True


def _decodes(source: bytes | np.ndarray, preprocess: Preprocess) -> bool:
    try:
        preprocess.decode(source)
    except (BrokenImage, OSError):
        return False
    return True
