"""Files that are never half written: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import psutil
from filelock import FileLock, Timeout

from goodfit.core.errors import GoodfitError
from goodfit.core.escapes import plain_name

PARTIAL = ".partial"  # ends the name of a file that is being written


def machine_name() -> str:
    """The name of this machine as part of a file's: on storage that several share, their processes may have the same number."""
    return plain_name(platform.node().replace("/", "_"))


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends well, and is deleted when it does not.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written.
    """
    temporary = path.with_name(f".{plain_name(path.name)}.{machine_name()}.{os.getpid()}{PARTIAL}")
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


def remove_partials(folder: Path) -> None:
    """Remove from a folder and those inside what processes that are gone were writing."""
    for path in folder.rglob(f".*{PARTIAL}"):
        process = path.stem.rpartition(".")[2]
        if not (process.isdigit() and psutil.pid_exists(int(process))):
            path.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`, whole or not at all; a text as UTF-8, with what UTF-8 does not have as its escape."""
    with atomic_writer(path) as file:
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file, whole or not at all.

    Raises:
        GoodfitError: no space is left, or the folder cannot be written.
    """
    with atomic_writer(path) as file, source.open("rb") as opened:
        shutil.copyfileobj(opened, file)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that it holds, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measure_folder(folder: Path) -> int:
    """The size on disk of what a folder holds, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def sync_file(path: Path) -> None:
    """Make what was appended to a file survive a power cut, if there is one.

    Raises:
        GoodfitError: no space is left, or it cannot be written.
    """
    if path.exists():
        with explain_write_errors(path), path.open("r+b") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)


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
            raise GoodfitError(
                f'No space is left to write "{path}"; free some and run the command again, a training with --resume auto: nothing is lost.'
            ) from error
        if error.errno == errno.EISDIR:
            raise GoodfitError(f'"{path}" cannot be written, for there is a folder in its place: remove or rename that.') from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG):
            advice = "set GOODFIT_CACHE to a folder that can be" if _is_in_cache(path) else "choose another folder"
            raise GoodfitError(f'"{path}" cannot be written ({error.strerror}); {advice}.') from error
        raise


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool | None]:
    """Hold the lock file at `path` within the block; the system frees it when a process dies, however it dies.

    Yields whether it is held (with `wait`, after waiting for another process that holds it), and None where the system has no such locks.
    """
    with explain_write_errors(path):
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
    """The folder of packed images and downloads: $GOODFIT_CACHE, else goodfit/ in the user's cache folder.

    Raises:
        GoodfitError: neither is named, and there is no home folder.
    """
    if named := os.environ.get("GOODFIT_CACHE"):
        return Path(named)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "goodfit"
    try:
        return Path.home() / ".cache" / "goodfit"
    except RuntimeError as error:  # a user without an account, as in a container
        raise GoodfitError("Expected a home folder for the cache, found none: set GOODFIT_CACHE to a folder.") from error


def _is_in_cache(path: Path) -> bool:
    with contextlib.suppress(GoodfitError):
        return path.is_relative_to(cache_folder())
    return False
