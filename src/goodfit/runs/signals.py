"""Ctrl-C and SIGTERM while training: finish the step, save, leave."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from goodfit.core.errors import GoodfitError, Interrupted, Terminated
from goodfit.core.run import Run


class Halt:
    """Called, it says whether a signal has asked for a stop; `signal` is its name."""

    def __init__(self) -> None:
        self.signal = ""

    def __call__(self) -> bool:
        return bool(self.signal)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; a second Ctrl-C stops at once."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextlib.contextmanager
def halting() -> Iterator[Halt]:
    """Hear SIGINT and SIGTERM within the block; outside the main thread nothing is heard."""
    halt = Halt()
    if threading.current_thread() is not threading.main_thread():
        yield halt
        return
    before = {number: signal.signal(number, halt.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield halt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def halt_error(halt: Halt, run: Run, step: int) -> GoodfitError:
    """What to say of a run that was asked to stop."""
    kind = Interrupted if halt.signal == "SIGINT" else Terminated
    return kind(f'Stopped at step {step:,}, everything is saved; the same command with "--resume auto --out {run.path}" goes on.')
