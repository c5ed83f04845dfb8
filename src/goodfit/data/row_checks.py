"""Checks the stored bytes of each image when they are first read; what is damaged is prepared anew."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from goodfit.core.reporter import WARNING, Reporter
from goodfit.data.index import IntArray

Bytes = NDArray[np.uint8]


class RowChecks:
    """The CRC-32 of the stored bytes of each row of a pack, which lie in the file `path` from `starts` [N] on.

    All of them at the start would take a second for a gigabyte; row by row they take a few microseconds of the first epoch's reading.
    Bytes that differ are replaced by those that `restore` (row) prepares anew from the source, in the file too, and it is reported once.
    Safe to use from several threads.
    """

    def __init__(
        self, path: Path, starts: IntArray, checksums: NDArray[np.uint32], restore: Callable[[int], bytes], reporter: Reporter
    ) -> None:
        self._path, self._starts, self._checksums, self._restore, self._reporter = path, starts, checksums, restore, reporter
        self._is_checked = np.zeros(len(checksums), dtype=bool)
        self._lock = threading.Lock()
        self._is_reported = False

    def check(self, row: int, content: Bytes) -> Bytes:
        """Return the stored bytes of a row, `content` unless they are damaged.

        Raises:
            DataError: they are damaged, and the source of the image is no longer what it was.
        """
        if not self._is_checked[row]:
            if zlib.crc32(content.data) != self._checksums[row]:
                content = self._repair(row)
            self._is_checked[row] = True
        return content

    def check_all(self, rows: IntArray, contents: Bytes) -> None:
        """Check the stored bytes [n, size] of rows [n], and replace what is damaged; raises as `check`."""
        for place in np.flatnonzero(~self._is_checked[rows]).tolist():
            row = int(rows[place])
            if zlib.crc32(contents[place]) != self._checksums[row]:
                contents[place] = self._repair(row)
            self._is_checked[row] = True

    def _repair(self, row: int) -> Bytes:
        with self._lock:
            if not self._is_reported:
                self._reporter.say(f'{WARNING}"{self._path}" in the cache is damaged: the images concerned are prepared anew.')
                self._is_reported = True
            content = self._restore(row)
            with contextlib.suppress(OSError), self._path.open("r+b") as file:  # it may not be ours to write, or gone
                file.seek(int(self._starts[row]))
                file.write(content)
        return np.frombuffer(content, dtype=np.uint8)
