"""Where text leaves a command: results on stdout, everything else on stderr, as far as these can take it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from goodfit.core.errors import GoodfitError
from goodfit.core.escapes import escape_controls


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

    def isatty(self) -> bool:
        """Whether a person sees what is written at once."""
        with contextlib.suppress(ValueError):  # it is closed
            return bool(getattr(self.stream, "isatty", bool)())
        return False

    def write(self, text: str) -> int:
        """Write a text as it is."""
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


RESULTS, MESSAGES = ResultStream("stdout"), StandardStream("stderr")


def print_lines(*lines: str) -> None:
    """Print lines of results for people; control characters in them, line breaks too, are escaped."""
    print_exact("\n".join(map(escape_controls, lines)))


def print_exact(text: str) -> None:
    """Print results for programs as they are, such as CSV.

    Raises:
        GoodfitError: stdout cannot be written.
    """
    RESULTS.write(f"{text}\n")
    RESULTS.flush()


def print_json(content: object) -> None:
    """Print results for programs as one line of JSON."""
    print_exact(json.dumps(content))


def print_message(line: str) -> None:
    """Print a line on stderr; control characters in it, line breaks too, are escaped."""
    MESSAGES.write(f"{escape_controls(line)}\n")
    MESSAGES.flush()
