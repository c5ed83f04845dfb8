"""A process that works on a study: how others know that it lives, and what stops it at the end of its time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from goodfit.core.files import lock

FOLDER = "workers"
BEAT = 10.0  # seconds between two signs of life
SILENT = 120.0  # seconds without one after which a worker on another machine is taken for dead


class Worker:
    """One process at work. While it lives it holds the lock of its file and touches it.

    The system frees the lock when a process dies, however it dies: processes of one machine know at once. Those of others go by when the
    file was touched, measured against a file they touch themselves, so that their clocks need not agree.
    """

    def __init__(self, study: Path) -> None:
        self.folder = study / FOLDER
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}@{socket.gethostname()}"

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Live within the block."""
        done = threading.Event()
        with lock(self._file(self.name), wait=False):
            beats = threading.Thread(target=self._beat, args=(done,), daemon=True)
            beats.start()
            try:
                yield
            finally:
                done.set()
                beats.join()
                self._file(self.name).unlink(missing_ok=True)

    def alive(self, name: str) -> bool:
        """Whether another worker is at work."""
        file = self._file(name)
        if name == self.name or not file.is_file():
            return name == self.name
        if name.partition("@")[2] == self.name.partition("@")[2]:
            with lock(file, wait=False) as held:
                if held is not None:
                    return not held
        self._file(self.name).touch()
        return self._file(self.name).stat().st_mtime - file.stat().st_mtime < SILENT

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(BEAT):
            with contextlib.suppress(OSError):  # a network disk that is away for a while
                self._file(self.name).touch()


@contextlib.contextmanager
def ending(deadline: float | None) -> Iterator[None]:
    """Ask this process to stop, as SIGTERM does, from the clock time `deadline` on, until the block is left.

    A training hears the signal, saves and leaves; outside of trainings it does nothing here. It comes again every half second, because a
    training that is only being prepared does not listen yet.
    """
    if deadline is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    done = threading.Event()

    def ring() -> None:
        done.wait(max(0.0, deadline - time.time()))
        while not done.wait(0.5):
            os.kill(os.getpid(), signal.SIGTERM)

    def pass_over(number: int, frame: FrameType | None) -> None:
        if time.time() < deadline:  # not our own ring: someone wants this process to end
            raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, pass_over)
    bell = threading.Thread(target=ring, daemon=True)
    bell.start()
    try:
        yield
    finally:
        done.set()
        bell.join()
        signal.signal(signal.SIGTERM, before)
