"""The end of a process that works on a search, at a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from goodfit.core.progress import steady_time
from goodfit.core.signals import raise_signal

SIGNAL_SECONDS = 0.5  # between two signals after the deadline


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
