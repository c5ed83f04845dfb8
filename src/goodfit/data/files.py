"""Opens the files that data is made of: regular ones only, and what is wrong with their format is said in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from goodfit.core.errors import DataError, GoodfitError, first_line

MAX_FILE_BYTES = 1 << 32  # of one image


def open_file(path: str | os.PathLike[str], max_bytes: int = MAX_FILE_BYTES) -> BinaryIO:
    """Open a file for reading; what is no regular file, such as a pipe or a device, which might never end, is not opened at all.

    Raises:
        OSError: it cannot be opened, is no regular file or has more than `max_bytes`.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  a Path costs more than the stat
    except ValueError as error:  # a null character in the name
        raise OSError(errno.EINVAL, str(error)) from error
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # of a folder, open says what it is
        raise OSError(errno.EINVAL, "not a regular file")
    if status.st_size > max_bytes:
        raise OSError(errno.EFBIG, "too large for an image")
    return open(path, "rb")  # noqa: PTH123  a Path costs more than the open


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file of at most MAX_FILE_BYTES."""
    with open_file(path) as file:
        return file.read()


def open_data_file(path: Path) -> BinaryIO:
    """Open a file of any size that holds a table, arrays or other images.

    Raises:
        DataError: it cannot be opened, or is no regular file.
    """
    try:
        return open_file(path, sys.maxsize)
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
        raise DataError(f'"{path}" cannot be read as {what}; it is damaged, or needs more memory than is free.') from error
    except Exception as error:  # readers raise nearly anything on damaged files
        raise DataError(f'"{path}" cannot be read as {what}; it is damaged, or of another format ({first_line(error)}).') from error
