"""Files that are never half written: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from goodfit.core.errors import GoodfitError


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends well, and is deleted when it does not.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that it holds, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    """Turn a failed write within the block into one sentence.

    Raises:
        GoodfitError: no space is left, or the path cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GoodfitError(f'No space is left to write "{path}"; free some and run the same command again, nothing is lost.') from error
        if error.errno == errno.EISDIR:
            raise GoodfitError(f'"{path}" cannot be written, for there is a folder in its place: remove or rename that.') from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise GoodfitError(f'"{path}" cannot be written ({error.strerror}); choose another folder.') from error
        raise


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool | None]:
    """Hold the lock file at `path` within the block; the system frees it when a process dies, however it dies.

    Yields whether it is held (with `wait`, after waiting for another process that holds it), and None where the system has no such locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file_lock, held = FileLock(path), None
    try:
        file_lock.acquire(timeout=-1 if wait else 0, poll_interval=0.1)
        held = True
    except Timeout:
        held = False
    except (OSError, NotImplementedError):  # a network disk without locks
        held = None
    try:
        yield held
    finally:
        file_lock.release()


def cache_folder() -> Path:
    """The folder of packed images and downloads: $GOODFIT_CACHE, else goodfit/ in the user's cache folder."""
    folder = os.environ.get("GOODFIT_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "goodfit"
