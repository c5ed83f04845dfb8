"""Commands in a process of their own, which tests kill and signal; each is forked from a server that has loaded torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# What every command imports, loaded once: a start of `python -m goodfit train` takes some seconds of it.
_CONTEXT.set_forkserver_preload(["goodfit.api", "sklearn.linear_model", "sklearn.datasets"])


class Forked:
    """A function at work in another process, with what it prints kept in files in `folder`."""

    def __init__(self, folder: Path, function: Callable[..., object], *arguments: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files = (folder / "stdout.txt", folder / "stderr.txt")
        self._process = _CONTEXT.Process(target=_call, args=(self._files, dict(os.environ), function, arguments))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 120.0) -> int:
        """The exit code, once it has ended."""
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"it runs after {timeout} seconds still"
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with signal 9, and wait for its end."""
        self._process.kill()
        self._process.join()

    @property
    def out(self) -> str:
        return self._files[0].read_text() if self._files[0].exists() else ""

    @property
    def err(self) -> str:
        return self._files[1].read_text() if self._files[1].exists() else ""


def _call(files: tuple[Path, Path], environment: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, even where the tests run in the background
    os.environ.clear()
    os.environ.update(environment)
    os.fsync = lambda handle: None  # as in conftest
    for number, file in enumerate(files, start=1):
        with file.open("ab", buffering=0) as opened:
            os.dup2(opened.fileno(), number)
    function(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()


def _run_command(words: tuple[str, ...]) -> None:
    from goodfit.cli import main

    sys.argv = ["goodfit", *words]
    main()


def start_command(folder: Path, *words: str | Path) -> Forked:
    """Start `goodfit WORDS` in a process of its own."""
    return Forked(folder, _run_command, tuple(map(str, words)))


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again until something is true, at most so long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds} seconds"
        time.sleep(0.01)
