"""Ctrl-C and SIGTERM while training: finish the step, save, leave."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from goodfit.core.errors import GoodfitError, Interrupted, Terminated
from goodfit.core.run import Run
from goodfit.core.signals import receive_signals, stop_error


class HaltRequest:
    """Whether a signal has asked the training to stop; `signal` is its name."""

    def __init__(self) -> None:
        self.signal = ""

    def __call__(self) -> bool:
        return bool(self.signal)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; a second Ctrl-C stops at once."""
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextlib.contextmanager
def halt_on_signals() -> Iterator[HaltRequest]:
    """Turn SIGINT and SIGTERM within the block into a request to halt."""
    halt = HaltRequest()
    before = receive_signals(halt.receive)
    try:
        yield halt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def explain_stopped_run(run: Run) -> Iterator[None]:
    """Say of a signal that is raised within the block, and so stops the run where it is, how the run is continued."""
    try:
        yield
    except KeyboardInterrupt as raised:
        error = stop_error(
            raised, f'Stopped; what was saved is kept, and the same command with "--resume auto --out {run.path}" continues from there.'
        )
        run.update("about.json", {"state": "terminated" if isinstance(error, Terminated) else "interrupted"})
        raise error from raised


def halt_error(halt: HaltRequest, run: Run, step: int) -> GoodfitError:
    """The error of a run that was asked to stop, by a signal or by `goodfit steer`."""
    kind = Terminated if halt.signal == "SIGTERM" else Interrupted
    return kind(describe_stop(f"at step {step:,}", run.path))


def describe_stop(where: str, out: Path | None) -> str:
    """Say where a training was stopped, and that the same command goes on, by `out` or else by the newest unfinished runs."""
    again = f"--resume auto --out {out}" if out else "--resume auto"
    return f'Stopped {where}, everything is saved; the same command with "{again}" continues it.'
