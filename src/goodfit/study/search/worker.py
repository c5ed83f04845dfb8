"""The life of a process that works on a search: its heartbeat, by which others know that it lives, and its end at a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from goodfit.core.files import lock
from goodfit.core.progress import steady_time
from goodfit.core.signals import raise_signal

FOLDER = "workers"
HEARTBEAT_SECONDS = 10.0
MAX_SILENT_SECONDS = 120.0  # without a heartbeat a worker on another machine then counts as dead
SIGNAL_SECONDS = 0.5  # between two signals after the deadline


class Worker:
    """One process that works on a search. While it lives, it holds the lock of its file and touches the file.

    The system frees the lock when a process dies, however it dies, so processes on the same machine know at once. Processes on other
    machines go by when the file was touched, measured against a file they touch themselves, so that their clocks need not agree.
    """

    def __init__(self, study: Path) -> None:
        self.folder = study / FOLDER
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}@{socket.gethostname()}"

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Be alive for the others within the block."""
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

    def is_alive(self, name: str) -> bool:
        """Whether the worker of that name is alive."""
        file = self._file(name)
        if name == self.name or not file.is_file():
            return name == self.name
        if name.partition("@")[2] == self.name.partition("@")[2]:
            with lock(file, wait=False) as held:
                if held is not None:
                    return not held
        self._file(self.name).touch()
        return self._file(self.name).stat().st_mtime - file.stat().st_mtime < MAX_SILENT_SECONDS

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a network disk that is away for a while
                self._file(self.name).touch()


@contextlib.contextmanager
def terminate_at(deadline: float | None) -> Iterator[None]:
    """Send this process SIGTERM from the steady time `deadline` on, until the block is left; None: never.

    A training that receives the signal saves and stops; outside of a training the signal is ignored. It is sent again and again, because
    a training that is still being prepared does not listen yet.
    """
    if deadline is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    done = threading.Event()

    def send_signals() -> None:
        done.wait(max(0.0, deadline - steady_time()))
        while not done.wait(SIGNAL_SECONDS):
            os.kill(os.getpid(), signal.SIGTERM)

    def ignore_own_signal(number: int, frame: FrameType | None) -> None:
        if steady_time() < deadline:  # not ours: someone wants this process to end
            raise_signal(number)

    before = signal.signal(signal.SIGTERM, ignore_own_signal)
    sender = threading.Thread(target=send_signals, daemon=True)
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join()
        signal.signal(signal.SIGTERM, before)
