"""The shards kept on this machine: a folder of limited size, from which those that were not used for the longest time go first."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from goodfit.core.errors import GoodfitError
from goodfit.core.files import PARTIAL, explain_write_errors, lock, machine_name
from goodfit.core.words import format_bytes

SUFFIX, LOCKS, ROOM = ".shard", "locks", "room"
SECONDS_BETWEEN_TRIES = 0.05  # to make room
SECONDS_BETWEEN_MARKS = 0.02  # of the time at which a shard was used


class ShardCache:
    """A folder of shards that takes `limit` bytes at most, those that are being written included.

    Several processes may share the folder, each with its limit: one writes a shard while the others wait for it, and a shard that another
    process has removed is written again by whoever needs it. Safe to use from several threads.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._marked: dict[str, float] = {}
        with explain_write_errors(folder):
            (folder / LOCKS).mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where the shard of a name lies, if it is there."""
        return self.folder / f"{name}{SUFFIX}"

    def ensure(self, name: str, size: int, read: Callable[[], Iterable[bytes]]) -> Path:
        """The path of a shard of `size` bytes, which `read` yields piece by piece if it is not there.

        It may be removed at any time: who finds it gone asks again.

        Raises:
            GoodfitError: it is larger than the limit, or no space is left on the disk.
        """
        path = self.path(name)
        if not path.exists():
            with lock(self.folder / LOCKS / name):
                if not path.exists():  # another process or thread may have written it meanwhile
                    self._write(path, size, read())
        self.mark_use(name)
        return path

    def remove(self, name: str) -> None:
        """Remove a shard, such as a damaged one."""
        with self._room():
            self.path(name).unlink(missing_ok=True)

    def _room(self) -> contextlib.AbstractContextManager[bool | None]:
        """Within the block no file of the folder gets another name, comes or goes."""
        return lock(self.folder / LOCKS / ROOM)

    def mark_use(self, name: str) -> None:
        """Let a shard stay longer than those that were not used since."""
        now = time.monotonic()
        if now - self._marked.get(name, -SECONDS_BETWEEN_MARKS) >= SECONDS_BETWEEN_MARKS:
            self._marked[name] = now
            with contextlib.suppress(OSError):  # another process has removed it just now
                os.utime(self.path(name))

    def _write(self, path: Path, size: int, pieces: Iterable[bytes]) -> None:
        partial = path.with_name(f".{path.stem}.{machine_name()}.{threading.get_ident()}.{os.getpid()}{PARTIAL}")
        try:
            with explain_write_errors(path):
                self._reserve(partial, size)
            with partial.open("r+b") as file:
                for piece in pieces:
                    with explain_write_errors(path):
                        file.write(piece)
                with explain_write_errors(path):
                    file.truncate()
            with self._room():
                partial.replace(path)
        except BaseException:
            with self._room():
                partial.unlink(missing_ok=True)
            raise

    def _reserve(self, partial: Path, size: int) -> None:
        """Make room, and a file that takes it; where other files are being written, they are waited for."""
        if size > self.limit:
            raise GoodfitError(
                f"A shard takes {format_bytes(size)}, more than the {format_bytes(self.limit)} that the cache has for shards: give a larger"
                " --cache, of which they have half, or make smaller shards."
            )
        while not self._try_to_reserve(partial, size):
            time.sleep(SECONDS_BETWEEN_TRIES)

    def _remove_abandoned(self) -> None:
        """Remove what processes that are gone were writing: nobody holds the lock of its shard any more."""
        for partial in self.folder.glob(f".*{PARTIAL}"):
            with lock(self.folder / LOCKS / partial.name.split(".")[1], wait=False) as held:
                if held:
                    partial.unlink(missing_ok=True)

    def _try_to_reserve(self, partial: Path, size: int) -> bool:
        with self._room():
            self._remove_abandoned()
            files = [(file.stat(), file) for file in self.folder.iterdir() if file.is_file()]
            total = sum(status.st_size for status, _ in files)
            for status, file in sorted(files, key=lambda pair: pair[0].st_mtime_ns):
                if total + size <= self.limit:
                    break
                if file.suffix == SUFFIX:
                    file.unlink(missing_ok=True)
                    total -= status.st_size
            if total + size > self.limit:
                return False
            with partial.open("wb") as reserved:
                reserved.truncate(size)
            return True
