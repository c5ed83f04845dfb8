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
from goodfit.core.words import format_bytes

MAX_IMAGE_BYTES = 1_000_000_000  # of one encoded image: even its pixels have fewer


def check_regular(path: Path | str, max_bytes: int = sys.maxsize) -> None:
    """Refuse what is no regular file, such as a folder, a pipe or a device, without opening it, or has more than `max_bytes`.

    Raises:
        OSError: it is so, or is not there.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  a Path costs more than the stat
    except ValueError as error:  # a NUL byte in its name
        raise OSError(errno.ENOENT, str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"it is {'a folder' if stat.S_ISDIR(found.st_mode) else 'a pipe or a device'}, not a file")
    if found.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {format_bytes(found.st_size)}, at most {format_bytes(max_bytes)} are read")


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


def read_image_file(path: Path | str) -> bytes:
    """Read the bytes of an encoded image.

    Raises:
        OSError: it is no regular file, is larger than images are, or cannot be read.
    """
    check_regular(path, MAX_IMAGE_BYTES)
    return Path(path).read_bytes()


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
