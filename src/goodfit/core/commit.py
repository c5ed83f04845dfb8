"""Files of a folder that are replaced together: whenever the process is killed, all of them are the new ones, or none is.

They are written beside the old ones first. A marker then says that all of them are there: from it on they are moved into place, by whoever
opens the folder next if the process is killed meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from goodfit.core.files import explain_write_errors, sync_folder, write_atomic

STAGED = ".staged"  # ends the name of a file that is to replace another, which it has with a dot before it
MARKER = ".commit"  # a file that says that every staged file is there


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace files of a folder by these contents, all of them or none.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written; none is replaced.
    """
    try:
        for name, content in contents.items():
            write_atomic(folder / f".{name}{STAGED}", content)
    except BaseException:
        remove_staged(folder)
        raise
    write_atomic(folder / MARKER, b"")
    finish_commit(folder)


def finish_commit(folder: Path) -> None:
    """Move staged files into place, if all of them are there; another process may be doing the same.

    Raises:
        GoodfitError: the folder cannot be written.
    """
    if not (folder / MARKER).is_file():
        return
    with explain_write_errors(folder):
        for path in folder.glob(f".*{STAGED}"):
            with contextlib.suppress(FileNotFoundError):
                path.replace(folder / path.name.removeprefix(".").removesuffix(STAGED))
        sync_folder(folder)
        (folder / MARKER).unlink(missing_ok=True)


def remove_staged(folder: Path) -> None:
    """Remove what was staged by a process that was killed before all of it was there."""
    for path in folder.glob(f".*{STAGED}"):
        path.unlink(missing_ok=True)
