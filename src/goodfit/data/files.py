"""Opens the files that data is made of: regular ones only, and what is wrong with their format is said in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from goodfit.core.errors import DataError, GoodfitError, first_line


def check_regular(path: Path | str) -> None:
    """Refuse what is no regular file, such as a folder, a pipe or a device, without opening it.

    Raises:
        OSError: it is none, or is not there.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  a Path costs more than the stat
    except ValueError as error:  # a NUL byte in its name
        raise OSError(errno.ENOENT, str(error)) from error
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}, not a file")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes.

    Raises:
        DataError: it is none, or cannot be opened.
    """
    try:
        check_regular(path)
        return path.open("rb")
    except OSError as error:
        raise DataError(f'"{path}" cannot be read: {error.strerror}.') from error


@contextlib.contextmanager
def explain_faults(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the reader of its format raise within the block into one sentence.

    Raises:
        DataError: something was raised; errors with a sentence of their own stay.
    """
    try:
        yield
    except GoodfitError:
        raise
    except MemoryError as error:
        raise DataError(f'"{path}" cannot be read as {what}: it is damaged, or needs more memory than is free.') from error
    except Exception as error:  # readers raise nearly anything on damaged files
        raise DataError(f'"{path}" cannot be read as {what}: {first_line(error)}.') from error
