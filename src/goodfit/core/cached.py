"""Results in the cache folder, which can all be made again: each file ends in its checksum, and one that is damaged counts as missing."""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

from goodfit.core.files import remove, write_atomic
from goodfit.core.reporter import WARNING, Reporter, SilentReporter

CHECKSUM_DIGITS = 8  # of a CRC-32 in hexadecimal, on a line of their own at the end


def write_cached(path: Path, content: bytes) -> None:
    """Write a result and its checksum, whole or not at all.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written.
    """
    if path.is_dir():  # no result of ours, and in its way
        remove(path)
    write_atomic(path, content + _checksum_line(path, content))


def read_cached(path: Path, reporter: Reporter | None = None) -> bytes | None:
    """Read a result; None where there is none, or where it is not what was written under that name, which is reported."""
    if not path.exists():
        return None
    content = b""
    if path.is_file():  # and no pipe or device, which may never end
        with contextlib.suppress(OSError):
            content = path.read_bytes()
    content, line = content[: -CHECKSUM_DIGITS - 1], content[-CHECKSUM_DIGITS - 1 :]
    if line == _checksum_line(path, content):
        return content
    (reporter or SilentReporter()).say(f'{WARNING}"{path}" in the cache is damaged: what it held is made anew.')
    return None


def write_cached_json(path: Path, content: Any) -> None:
    """Write a result as JSON; raises as `write_cached`."""
    write_cached(path, json.dumps(content).encode())


def read_cached_json(path: Path, reporter: Reporter | None = None) -> Any:
    """Read a result that was written as JSON; None as `read_cached`."""
    content = read_cached(path, reporter)
    return None if content is None else json.loads(content)


def _checksum_line(path: Path, content: bytes) -> bytes:
    """The checksum of a result and its name, which hashes the question: the answer to another question does not pass for this one's."""
    return b"\n%08x" % zlib.crc32(content, zlib.crc32(path.name.encode()))
