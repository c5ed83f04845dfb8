"""Files of a folder that are replaced together: whenever the process is killed, all of them are the new ones, or none is.

They are written beside the old ones first. A marker then says that all of them are there: from it on they are moved into place, by whoever
opens the folder next if the process is killed meanwhile. All of it is done under the lock for changes of the folder's files, so that no
process moves what another one is still writing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from goodfit.core.files import explain_write_errors, lock, sync_folder, write_atomic

STAGED = ".staged"  # ends the name of a file that is to replace another, which it has with a dot before it
MARKER = ".commit"  # a file that says that every staged file is there
UPDATE_LOCK_FILE = ".update.lock"  # held while files of a folder are replaced together, or one is read and written again


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace files of a folder by these contents, all of them or none.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written; none is replaced.
    """
    with lock(folder / UPDATE_LOCK_FILE):
        _move_staged(folder)
        try:
            for name, content in contents.items():
                write_atomic(_staged(folder / name), content)
        except BaseException:
            remove_staged(folder)
            raise
        write_atomic(folder / MARKER, b"")
        _move_staged(folder)


def finish_commit(folder: Path) -> None:
    """Move staged files into place, if all of them are there, after any process that is doing so now.

    Raises:
        GoodfitError, OSError: the folder cannot be written; `committed` finds the staged files where they are.
    """
    if (folder / MARKER).is_file():
        with lock(folder / UPDATE_LOCK_FILE):
            _move_staged(folder)


def committed(path: Path) -> Path:
    """The file that holds what is at `path`: the staged one, where all of them are there but the folder cannot be written."""
    staged = _staged(path)
    return staged if (path.parent / MARKER).is_file() and staged.is_file() else path


def remove_staged(folder: Path) -> None:
    """Remove what was staged by a process that was killed before all of it was there."""
    for path in folder.glob(f".*{STAGED}"):
        path.unlink(missing_ok=True)


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}{STAGED}")


def _move_staged(folder: Path) -> None:
    if not (folder / MARKER).is_file():
        return
    with explain_write_errors(folder):
        for path in folder.glob(f".*{STAGED}"):
            with contextlib.suppress(FileNotFoundError):  # where there are no locks, another process may be doing the same
                path.replace(folder / path.name.removeprefix(".").removesuffix(STAGED))
        sync_folder(folder)
        (folder / MARKER).unlink(missing_ok=True)
