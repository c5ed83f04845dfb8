"""The reporter of the terminal: sentences, a progress bar and evaluations, all on stderr."""

from __future__ import annotations

import os
import time
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from goodfit.core.escapes import escape_controls
from goodfit.core.figures import find_figure
from goodfit.core.reporter import WARNING
from goodfit.core.words import format_duration, format_percent
from goodfit.terminal.streams import MESSAGES, SPINNER
from goodfit.terminal.wrapping import wrap_line

Rows = list[dict[str, Any]]

DETAIL = "    "  # what a line begins with that says more of one before it
LARGE_LOSS = 1e5  # from which on it is told by its power of ten


class TerminalReporter:
    """Sentences and evaluations as lines on stderr; where that is a terminal, also what is being done, and a progress bar with rate,
    losses and time left. Of a quiet stderr, warnings alone.
    """

    def __init__(self) -> None:
        force = bool(os.environ.get("FORCE_COLOR")) or None
        self.console = Console(file=cast(IO[str], MESSAGES), highlight=False, emoji=False, soft_wrap=True, force_terminal=force)
        self.live = MESSAGES.isatty() and not MESSAGES.quiet
        self.bar: Progress | None = None
        self.updated = 0.0
        self.has_header = False  # the evaluations that follow

    def say(self, *lines: str) -> None:
        self.has_header = False
        for line in lines:
            self._print(line, "yellow" if line.startswith(WARNING) else "dim" if line.startswith(DETAIL) else "")

    def show_activity(self, text: str) -> None:
        """Show what is being done beside a spinner, at a terminal, until something else is shown."""
        self.clear_progress()
        SPINNER.show(text)

    def show_packing(self, done: int, total: int) -> None:
        if self.live:
            self._update_bar("packing", done / max(1, total), f"{done:,} of {total:,} images")
            if done >= total:
                self.clear_progress()

    def show_rows(self, rows: Rows) -> None:
        """Show the last step on the bar, and each evaluation and event as a line."""
        for row in rows:
            if row["kind"] == "evaluate":
                for line in () if self.has_header else format_header(row):
                    self._print(line, "dim")
                self._print(format_evaluation(row), "green" if row.get("best") else "")
                self.has_header = True
            elif row["kind"] == "event":
                self._print(row["text"])
        steps = [row for row in rows if row["kind"] == "train"]
        if self.live and steps:
            self._update_bar("training", steps[-1]["t"], format_steps(steps))

    def clear_progress(self) -> None:
        """Remove the bar and the spinner."""
        SPINNER.stop()
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _print(self, line: str, style: str = "") -> None:
        """Print a line, wrapped at words where a terminal is narrower; where stderr is quiet, only if it warns."""
        if MESSAGES.quiet and not line.startswith(WARNING):
            return
        self.console.print(Text(wrap_line(escape_controls(line), MESSAGES.columns), style))

    def _update_bar(self, what: str, share: float, text: str) -> None:
        if self.bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.add_task(what, total=1.0, text="")
            self.bar.start()
            self.updated = 0.0
        if time.monotonic() - self.updated > 0.1 or share >= 1:
            self.bar.update(self.bar.task_ids[0], completed=share, text=text)
            self.updated = time.monotonic()


def format_steps(steps: Rows) -> str:
    """Format the mean speed and loss of some steps."""
    speeds = [row["images_per_s"] for row in steps]
    losses = [row["loss"] for row in steps if row["loss"] is not None]
    loss = f"loss {sum(losses) / len(losses):.3f}" if losses else "loss not finite"
    return f"{sum(speeds) / len(speeds):,.0f} images/s  {loss}"


def format_header(row: dict[str, Any]) -> tuple[str, str]:
    """Format the two lines above evaluations such as this one."""
    title = find_figure(row["validation"]).title
    return f"{'training':>45}{'validation':>21}", f"{'step':>13}{'time':>11}" + 2 * f"{'loss':>12}{title:>9}"


def format_evaluation(row: dict[str, Any]) -> str:
    """Format one evaluation as a line below its header."""
    figure = find_figure(row["validation"])
    scores = (row[split] for split in ("clean_train", "validation"))
    figures = "".join(f"{format_loss(x['loss']):>12}{figure.format(x[figure.key]):>9}" for x in scores)
    best = "  best so far" if row.get("best") else ""
    return f"{format_percent(row['t'], 0):>5}{row['step']:>8,}{format_duration(row['elapsed']):>11}{figures}{best}"


def format_loss(loss: float | None) -> str:
    """Format a loss; None is one that was no finite number."""
    return "not finite" if loss is None else f"{loss:.3f}" if abs(loss) < LARGE_LOSS else f"{loss:.2e}"
