"""How a training speaks: sentences, packing progress, and rows of numbers; the terminal's voice goes to stderr alone."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from goodfit.core.words import duration, percent

Rows = list[dict[str, Any]]


class Voice(Protocol):
    """Hears what a training says."""

    def say(self, text: str) -> None: ...

    def packing(self, done: int, total: int) -> None: ...

    def rows(self, rows: Rows) -> None: ...

    def hush(self) -> None: ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None: ...

    def packing(self, done: int, total: int) -> None: ...

    def rows(self, rows: Rows) -> None: ...

    def hush(self) -> None: ...


class Terminal:
    """Sentences and evaluations as lines on stderr; a progress bar with rate, losses and time left where stderr is a terminal."""

    def __init__(self) -> None:
        force = bool(os.environ.get("FORCE_COLOR")) or None
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=force)
        self.live = sys.stderr.isatty()
        self.bar: Progress | None = None
        self.shown = 0.0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def packing(self, done: int, total: int) -> None:
        if self.live:
            self._show("packing", done / max(1, total), f"{done:,} of {total:,} images")
            if done >= total:
                self.hush()

    def rows(self, rows: Rows) -> None:
        """Show the last step on the bar, and each evaluation and event as a line."""
        for row in rows:
            if row["kind"] == "evaluate":
                self.say(evaluation_line(row))
            elif row["kind"] == "event":
                self.say(row["text"])
        steps = [row for row in rows if row["kind"] == "train"]
        if self.live and steps:
            self._show("training", steps[-1]["t"], step_line(steps))

    def hush(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _show(self, what: str, share: float, text: str) -> None:
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
            self.shown = 0.0
        if time.monotonic() - self.shown > 0.1 or share >= 1:
            self.bar.update(self.bar.task_ids[0], completed=share, text=text)
            self.shown = time.monotonic()


def step_line(steps: Rows) -> str:
    """The mean speed and loss of some steps."""
    speeds = [row["images_per_s"] for row in steps]
    losses = [row["loss"] for row in steps if row["loss"] is not None]
    loss = f"loss {sum(losses) / len(losses):.3f}" if losses else "loss not finite"
    return f"{sum(speeds) / len(speeds):,.0f} images/s  {loss}"


def evaluation_line(row: dict[str, Any]) -> str:
    """One evaluation, as a line."""
    held_out, clean = row["validation"], row["clean_train"]
    return (
        f"{percent(row['t'], 0):>5}  step {row['step']:>6,}  {duration(row['elapsed']):>12}"
        f"  train {_loss_and_accuracy(clean)}  validation {_loss_and_accuracy(held_out)}"
    )


def _loss_and_accuracy(scores: dict[str, Any]) -> str:
    """`0.412 88.5 %`, with words for what is not a finite number."""
    loss, accuracy = scores["loss"], scores["accuracy"]
    return f"{'not finite' if loss is None else f'{loss:.3f}'} {'-' if accuracy is None else percent(accuracy)}"
