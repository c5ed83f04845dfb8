"""Where text leaves a command: results on stdout, everything else on stderr, as far as these can take it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from itertools import cycle
from typing import Any

from goodfit.core.errors import GoodfitError
from goodfit.core.escapes import escape_controls
from goodfit.terminal.wrapping import wrap_line

SPINNER_FRAMES, ASCII_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
MAX_COLUMNS = 100_000  # of a line that no terminal cuts
ERASE_LINE = "\r\x1b[K"


class StandardStream:
    """One of the two, as it is at each write. A character that its encoding lacks is written as an escape, such as `\\u2588`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def stream(self) -> Any:
        """The stream below what a progress bar puts in its place; None where the process has none."""
        stream = getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", None) or "utf-8"

    def can_encode(self, text: str) -> bool:
        """Whether the stream takes a text as it is."""
        with contextlib.suppress(UnicodeEncodeError, LookupError):
            return bool(text.encode(self.encoding))
        return False

    @property
    def columns(self) -> int:
        """How many characters its terminal has in a line; more than any line has where it is no terminal."""
        if not self.isatty():
            return MAX_COLUMNS
        try:
            return int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(self.stream.fileno()).columns
        except (ValueError, OSError):
            return shutil.get_terminal_size().columns

    def isatty(self) -> bool:
        """Whether a person sees what is written at once."""
        with contextlib.suppress(ValueError):  # it is closed
            return bool(getattr(self.stream, "isatty", bool)())
        return False

    def write(self, text: str) -> int:
        """Write a text as it is; it takes the place of a spinner."""
        SPINNER.stop()
        return self.write_raw(text)

    def write_raw(self, text: str) -> int:
        """Write a text as it is, beside a spinner."""
        writable = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        self._attempt(lambda stream: stream.write(writable))
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        self._attempt(lambda stream: getattr(stream, "flush", bool)())

    def _attempt(self, write: Callable[[Any], object]) -> None:
        try:
            if self.stream is None:
                raise OSError("there is none")
            write(self.stream)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._discard_rest()
            self.fail(error)

    def _discard_rest(self) -> None:
        """Lead what is still written elsewhere, lest Python reports at the end that it cannot be written."""
        with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def fail(self, error: Exception) -> None:
        """Act on an error: what is said on the way is lost when nobody can read it, and the command goes on."""


class ResultStream(StandardStream):
    """Stdout, whose results are what a command was run for."""

    def fail(self, error: Exception) -> None:
        """End the command.

        Raises:
            SystemExit: the reader of the results has left, as `head` does; there is nothing to say.
            GoodfitError: they cannot be written.
        """
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        why = getattr(error, "strerror", None) or error
        raise GoodfitError(f"The results cannot be written to stdout ({why}): redirect it to a file that can be written.") from error


class MessageStream(StandardStream):
    """Stderr; a `quiet` one has warnings and errors only."""

    quiet = False


RESULTS, MESSAGES = ResultStream("stdout"), MessageStream("stderr")


class Spinner:
    """A line on a terminal's stderr that says what is being done; whatever is written next takes its place."""

    def __init__(self) -> None:
        self.text = ""
        self.stopping = threading.Event()
        self.thread: threading.Thread | None = None

    def show(self, text: str) -> None:
        """Say what is being done from now on; nothing where nobody sees it at once."""
        self.text = text
        if self.thread is None and MESSAGES.isatty() and not MESSAGES.quiet and os.environ.get("TERM") != "dumb":
            self.stopping.clear()
            self.thread = threading.Thread(target=self._spin, daemon=True)
            self.thread.start()

    def stop(self) -> None:
        """Erase the line."""
        if self.thread is not None:
            self.stopping.set()
            self.thread.join()
            self.thread = None
            MESSAGES.write_raw(ERASE_LINE)

    def _spin(self) -> None:
        for frame in cycle(SPINNER_FRAMES if MESSAGES.can_encode(SPINNER_FRAMES) else ASCII_FRAMES):
            line = f"{frame} {escape_controls(self.text)}"
            MESSAGES.write_raw(ERASE_LINE + line[: MESSAGES.columns - 1])
            MESSAGES.flush()
            if self.stopping.wait(0.1):
                return


SPINNER = Spinner()


def print_lines(*lines: str) -> None:
    """Print lines of results for people, wrapped at words; control characters in them, line breaks too, are escaped."""
    print_exact("\n".join(wrap_line(escape_controls(line), RESULTS.columns) for line in lines))


def print_exact(text: str) -> None:
    """Print results for programs as they are, such as CSV; at a terminal, without what it would obey.

    Raises:
        GoodfitError: stdout cannot be written.
    """
    if RESULTS.isatty():
        text = "\n".join(map(escape_controls, text.split("\n")))
    RESULTS.write(f"{text}\n")
    RESULTS.flush()


def print_json(content: object) -> None:
    """Print results for programs as one line of JSON."""
    print_exact(json.dumps(content))


def print_message(line: str) -> None:
    """Print a line on stderr; control characters in it, line breaks too, are escaped."""
    MESSAGES.write(f"{wrap_line(escape_controls(line), MESSAGES.columns)}\n")
    MESSAGES.flush()
