"""Faults in the middle of a write: the process is killed, or the disk is full, at the n-th file that is opened for writing."""

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


def _run_killed(n: int, words: tuple[str, ...]) -> None:
    from tests.support.command import goodfit

    with fault_at_write(n, kill):
        said = goodfit(*words)
    sys.stderr.write(said.err)
    sys.exit(said.code)


def command_killed_at_write(n: int, folder: pathlib.Path, *words: str | pathlib.Path) -> int:
    """The exit code of `goodfit WORDS` in a process that kills itself in the middle of its n-th write; -9 if it got that far."""
    return Forked(folder, _run_killed, n, tuple(map(str, words))).wait()
