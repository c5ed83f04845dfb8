"""Files that are never half written: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from goodfit.core.errors import GoodfitError


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A file open for writing that takes the place of `path` when the block ends well, and is gone when it does not.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            sync_folder(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Say a failed write in one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GoodfitError(f'No space is left to write "{path}"; free some and run the same command again, nothing is lost.') from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise GoodfitError(f'"{path}" cannot be written ({error.strerror}); choose another folder.') from error
        raise


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool | None]:
    """Hold the lock file at `path`; the system frees it when a process dies, however it dies.

    Yields whether it is held (with `wait` another process that has it is waited for), and None where the system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        held: bool | None = False
        while not held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if not wait:
                    break
                time.sleep(0.1)
            except OSError:  # a network disk without locks
                held = None
                break
        yield held


def cache_folder() -> Path:
    """Where packed images and downloads are kept: $GOODFIT_CACHE, else goodfit/ in the user's cache folder."""
    own = os.environ.get("GOODFIT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "goodfit"
