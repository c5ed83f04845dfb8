"""The reporter of the terminal: sentences, a progress bar and evaluations, all on stderr."""

from __future__ import annotations

import os
import time
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from goodfit.core.escapes import escape_controls
from goodfit.core.words import format_duration, format_percent
from goodfit.terminal.streams import MESSAGES

Rows = list[dict[str, Any]]


class TerminalReporter:
    """Sentences and evaluations as lines on stderr; a progress bar with rate, losses and time left where stderr is a terminal."""

    def __init__(self) -> None:
        force = bool(os.environ.get("FORCE_COLOR")) or None
        self.console = Console(file=cast(IO[str], MESSAGES), highlight=False, emoji=False, soft_wrap=True, force_terminal=force)
        self.live = MESSAGES.isatty()
        self.bar: Progress | None = None
        self.updated = 0.0

    def say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(escape_controls(line), markup=False)

    def show_packing(self, done: int, total: int) -> None:
        if self.live:
            self._update_bar("packing", done / max(1, total), f"{done:,} of {total:,} images")
            if done >= total:
                self.clear_progress()

    def show_rows(self, rows: Rows) -> None:
        """Show the last step on the bar, and each evaluation and event as a line."""
        for row in rows:
            if row["kind"] == "evaluate":
                self.say(format_evaluation(row))
            elif row["kind"] == "event":
                self.say(row["text"])
        steps = [row for row in rows if row["kind"] == "train"]
        if self.live and steps:
            self._update_bar("training", steps[-1]["t"], format_steps(steps))

    def clear_progress(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

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


def format_evaluation(row: dict[str, Any]) -> str:
    """Format one evaluation as a line."""
    held_out, clean = row["validation"], row["clean_train"]
    return (
        f"{format_percent(row['t'], 0):>5}  step {row['step']:>6,}  {format_duration(row['elapsed']):>12}"
        f"  train {_format_loss_and_accuracy(clean)}  validation {_format_loss_and_accuracy(held_out)}"
    )


def _format_loss_and_accuracy(scores: dict[str, Any]) -> str:
    """`0.412 88.5 %`, with words for what is not a finite number."""
    loss, accuracy = scores["loss"], scores["accuracy"]
    return f"{'not finite' if loss is None else f'{loss:.3f}'} {'-' if accuracy is None else format_percent(accuracy)}"
