"""Faults in the middle of a write: the process is killed, the power is cut or the disk is full, at the n-th file that is opened for writing
or, for moves and removals, at the n-th file operation."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.process import Forked

_open = pathlib.Path.open
OPERATIONS = ("replace", "unlink", "mkdir", "symlink_to")  # of a path, beside opening it to write


def kill() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


class Writes:
    """How many files were opened for writing, and their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __len__(self) -> int:
        return len(self.names)


class _Torn:
    """A file of which the first half of the first write arrives."""

    def __init__(self, file: Any, fault: Callable[[], None]) -> None:
        self._file, self._fault = file, fault

    def write(self, content: Any) -> int:
        self._file.write(content[: len(content) // 2])
        self._file.flush()
        self._fault()
        raise AssertionError("the fault ends the write")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


@contextlib.contextmanager
def fault_at_write(n: int, fault: Callable[[], None]) -> Iterator[Writes]:
    """Within the block, `fault` comes in the middle of what is written to the n-th file opened for writing; 0 for none."""
    writes = Writes()

    def open_counted(path: pathlib.Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = _open(path, mode, *arguments, **options)
        if not set(mode) & set("wax"):
            return file
        writes.names.append(path.name)
        return _Torn(file, fault) if len(writes) == n else file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "open", open_counted)
        yield writes


@contextlib.contextmanager
def fault_at_operation(n: int, fault: Callable[[], None]) -> Iterator[Writes]:
    """Within the block, `fault` comes before the n-th file operation: a file is opened to write, moved, removed or made; 0 for none."""
    operations = Writes()

    def count(path: pathlib.Path) -> None:
        operations.names.append(path.name)
        if len(operations) == n:
            fault()

    def open_counted(path: pathlib.Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wax"):
            count(path)
        return _open(path, mode, *arguments, **options)

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def operate(path: pathlib.Path, *arguments: Any, **options: Any) -> Any:
            count(path)
            return operation(path, *arguments, **options)

        return operate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "open", open_counted)
        for name in OPERATIONS:
            patch.setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
        yield operations


class SyncedSizes:
    """How much of each file is on the disk, and would be there after a power cut: what was synced, by the file's identity."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[int, int], int] = {}

    def sync(self, handle: int) -> None:
        """What os.fsync does here: it notes the size."""
        status = os.fstat(handle)
        self.sizes[status.st_dev, status.st_ino] = status.st_size

    def cut(self, folder: pathlib.Path) -> int:
        """Cut each file of a folder to what was synced of it; returns how many were longer."""
        cut = 0
        for file in folder.rglob("*"):
            status = file.stat()
            size = self.sizes.get((status.st_dev, status.st_ino), 0)
            if file.is_file() and size < status.st_size:
                os.truncate(file, size)
                cut += 1
        return cut


def _run_killed(n: int, words: tuple[str, ...], place: Callable[..., Any]) -> None:
    from tests.support.command import goodfit

    with place(n, kill):
        said = goodfit(*words)
    sys.stderr.write(said.err)
    sys.exit(said.code)


def command_killed_at_write(n: int, folder: pathlib.Path, *words: str | pathlib.Path) -> int:
    """The exit code of `goodfit WORDS` in a process that kills itself in the middle of its n-th write; -9 if it got that far."""
    return Forked(folder, _run_killed, n, tuple(map(str, words)), fault_at_write).wait()


def command_killed_at_operation(n: int, folder: pathlib.Path, *words: str | pathlib.Path) -> int:
    """The exit code of `goodfit WORDS` in a process that kills itself before its n-th file operation; -9 if it got that far."""
    return Forked(folder, _run_killed, n, tuple(map(str, words)), fault_at_operation).wait()


def _run_cut(n: int, words: tuple[str, ...], folder: pathlib.Path) -> None:
    from tests.support.command import goodfit

    synced = SyncedSizes()
    os.fsync = synced.sync

    def cut_power() -> None:
        synced.cut(folder)
        kill()

    with fault_at_operation(n, cut_power):
        said = goodfit(*words)
    sys.stderr.write(said.err)
    sys.exit(said.code)


def command_cut_at_operation(n: int, log: pathlib.Path, folder: pathlib.Path, *words: str | pathlib.Path) -> int:
    """The exit code of `goodfit WORDS` in a process that ends before its n-th file operation as by a power cut: of each file in `folder`
    that is there what it has synced; -9 if it got that far.
    """
    return Forked(log, _run_cut, n, tuple(map(str, words)), folder).wait()


def _call_killed(n: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    with fault_at_operation(n, kill):
        function(*arguments)


def call_killed_at_operation(n: int, folder: pathlib.Path, function: Callable[..., object], *arguments: Any) -> int:
    """The exit code of a call in a process that kills itself before its n-th file operation; -9 if it got that far."""
    return Forked(folder, _call_killed, n, function, arguments).wait()
