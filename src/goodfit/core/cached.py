"""Results in the cache folder, which can all be made again: each file ends in its checksum, and one that is damaged counts as missing."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from goodfit.core.files import atomic_writer, remove
from goodfit.core.reporter import WARNING, Reporter, SilentReporter

CHECKSUM_LINE_BYTES = 9  # at the end: a line break and a CRC-32 in hexadecimal
READ_AT_ONCE = 1 << 22  # bytes


class CachedWriter:
    """A file that is written from its beginning to its end, with the checksum so far of its name and its bytes: the answer to another
    question, of which the name is a hash, does not pass for the one asked.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self.checksum = file, zlib.crc32(name.encode())

    def write(self, content: bytes | memoryview) -> int:
        """Append bytes."""
        self.checksum = zlib.crc32(content, self.checksum)
        return self._file.write(content)

    def tell(self) -> int:
        """How many bytes were written."""
        return self._file.tell()


@contextlib.contextmanager
def cached_writer(path: Path) -> Iterator[CachedWriter]:
    """Open a result to be written, whole or not at all, with its checksum behind what is written within the block.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written.
    """
    if path.is_dir():  # no result of ours, and in its way
        remove(path)
    with atomic_writer(path) as file:
        writer = CachedWriter(file, path.name)
        yield writer
        file.write(_line(writer.checksum))


def write_cached(path: Path, content: bytes) -> None:
    """Write a result; raises as `cached_writer`."""
    with cached_writer(path) as file:
        file.write(content)


def write_cached_json(path: Path, content: Any) -> None:
    """Write a result as JSON; raises as `cached_writer`."""
    write_cached(path, json.dumps(content).encode())


def read_cached(path: Path, reporter: Reporter | None = None) -> bytes | None:
    """Read a result; None where there is none, or where it is not what was written under that name, which is reported."""
    return path.read_bytes()[:-CHECKSUM_LINE_BYTES] if is_cached(path, reporter) else None


def read_cached_json(path: Path, reporter: Reporter | None = None) -> Any:
    """Read a result that was written as JSON; None as `read_cached`."""
    content = read_cached(path, reporter)
    return None if content is None else json.loads(content)


def is_cached(path: Path, reporter: Reporter | None = None) -> bool:
    """Whether a result is there, as it was written; it is reported if it is not as it was. It takes half a second for a gigabyte."""
    if not path.exists():
        return False
    if path.is_file():  # and no pipe or device, which may never end
        with contextlib.suppress(OSError):
            if _is_intact(path):
                return True
    (reporter or SilentReporter()).say(f'{WARNING}"{path}" in the cache is damaged: what it held is made anew.')
    return False


def _is_intact(path: Path) -> bool:
    checksum, left = zlib.crc32(path.name.encode()), path.stat().st_size - CHECKSUM_LINE_BYTES
    with path.open("rb") as file:
        while left > 0 and (content := file.read(min(left, READ_AT_ONCE))):
            checksum = zlib.crc32(content, checksum)
            left -= len(content)
        return left == 0 and file.read() == _line(checksum)


def _line(checksum: int) -> bytes:
    return b"\n%08x" % checksum
