"""Reporting to a person what a training does: the protocol, and the reporters that show nothing or warnings alone."""

from __future__ import annotations

from typing import Any, Protocol

WARNING = "Warning: "  # what the sentence of a warning begins with


class Reporter(Protocol):
    """Receives what a training has to tell a person."""

    def say(self, *lines: str) -> None:
        """Show sentences, each on a line of its own."""

    def show_activity(self, text: str) -> None:
        """Show what is being done until something else is shown."""

    def show_packing(self, done: int, total: int) -> None:
        """Show how many images are packed."""

    def show_rows(self, rows: list[dict[str, Any]]) -> None:
        """Show rows of the log: steps, evaluations and events."""

    def clear_progress(self) -> None:
        """Remove the progress bar, if there is one."""


class SilentReporter:
    """Shows nothing."""

    def say(self, *lines: str) -> None: ...

    def show_activity(self, text: str) -> None: ...

    def show_packing(self, done: int, total: int) -> None: ...

    def show_rows(self, rows: list[dict[str, Any]]) -> None: ...

    def clear_progress(self) -> None: ...


class WarningsReporter(SilentReporter):
    """Passes warnings on to another reporter, and nothing else."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def say(self, *lines: str) -> None:
        self.reporter.say(*(line for line in lines if line.startswith(WARNING)))
