"""SIGINT and SIGTERM: who receives them, and what they raise."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from goodfit.core.errors import GoodfitError, Interrupted, Terminated


class TerminationSignal(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would raise a KeyboardInterrupt."""


def raise_signal(number: int) -> NoReturn:
    """Raise what stands for a signal.

    Raises:
        KeyboardInterrupt: it is SIGINT.
        TerminationSignal: it is SIGTERM.
    """
    raise TerminationSignal if number == signal.SIGTERM else KeyboardInterrupt


def stop_error(raised: BaseException, sentence: str) -> GoodfitError:
    """The error, with a sentence, of what a signal has stopped by raising."""
    return (Terminated if isinstance(raised, TerminationSignal) else Interrupted)(sentence)


def receive_signals(receive: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Pass SIGINT and SIGTERM to `receive` from now on; returns what received them before.

    A signal that the process was started to ignore stays ignored, as SIGINT is by what a script runs in the background. Outside of the
    main thread, which alone receives signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, receive) for number in numbers}


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on; outside of the main thread nothing changes."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
