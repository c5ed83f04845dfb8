"""Ctrl-C and SIGTERM, at whatever moment of a command: it ends with a sentence, and with no traceback."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType

from goodfit.core.errors import GoodfitError, Interrupted, RankLost, Terminated
from goodfit.core.launched import claim_explanation
from goodfit.core.signals import TerminationSignal, ignore_signals, raise_signal, receive_signals, stop_error

SENTENCE = "Stopped; images that were packed so far stay packed."

_received: list[int] = []  # the signals that this process has received
_explained: list[bool] = []  # whether the sentence about them is printed


def receive_stops() -> None:
    """Receive SIGINT and SIGTERM for this process from now on.

    The first one is raised where the main thread happens to be, so that files and locks are put in order on the way out. The process is
    ended at once by a second one, by one that comes while a module is loaded, and by one that is raised where Python cannot let it
    through, such as in a finalizer. At the very end, when all threads have ended, they are ignored: Python itself would die of one.
    """
    _received.clear()
    _explained.clear()
    receive_signals(_receive)
    sys.unraisablehook = _receive_unraisable
    atexit.unregister(ignore_signals)
    atexit.register(ignore_signals)


def explain_stop(error: BaseException) -> GoodfitError | None:
    """The sentence for a command that a signal has stopped, whatever error came of that; None if none has."""
    if isinstance(error, (Interrupted, Terminated, RankLost)):
        return error
    if not _received and not isinstance(error, KeyboardInterrupt):
        return None
    return stop_error(TerminationSignal() if signal.SIGTERM in _received[:1] else error, SENTENCE)


def mark_explained() -> None:
    """Say that the sentence is printed: a further signal ends the process without a word."""
    _explained.append(True)


def _receive(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1 or _is_importing(frame):
        _leave()
    raise_signal(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being loaded, such as one of torch's in C++, which aborts the process at an exception."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _receive_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(unraisable)


def _leave() -> None:
    error = explain_stop(KeyboardInterrupt())
    assert error is not None
    try:
        erase = "\r\x1b[K" if os.isatty(2) else ""  # a spinner's line
        if not _explained and claim_explanation(error):
            os.write(2, f"{erase}goodfit: {error}\n".encode())  # not by sys.stderr, in which the signal may have come
    finally:
        os._exit(error.exit_code)
