"""The reporter of programs that use Goodfit: what a training has to tell goes to Python's `logging`, to the logger `goodfit`."""

from __future__ import annotations

import logging
from typing import Any

from goodfit.core.escapes import escape_controls
from goodfit.core.figures import find_figure
from goodfit.core.reporter import WARNING
from goodfit.core.words import format_duration, format_percent
from goodfit.terminal.reporter import Rows, format_loss, format_steps

LOGGER = logging.getLogger("goodfit")
LOGGER.addHandler(logging.NullHandler())  # nothing is printed unless the program sets logging up


class LoggingReporter:
    """Sentences, evaluations and events at INFO, warnings at WARNING, steps and packing at DEBUG."""

    def say(self, *lines: str) -> None:
        for line in lines:
            level = logging.WARNING if line.startswith(WARNING) else logging.INFO
            LOGGER.log(level, "%s", escape_controls(line.removeprefix(WARNING)))

    def show_activity(self, text: str) -> None:
        LOGGER.debug("%s", escape_controls(text))

    def show_packing(self, done: int, total: int) -> None:
        LOGGER.debug("packing: %s of %s images", f"{done:,}", f"{total:,}")

    def show_rows(self, rows: Rows) -> None:
        for row in rows:
            if row["kind"] == "evaluate":
                self.say(describe_evaluation(row))
            elif row["kind"] == "event":
                self.say(row["text"])
        if LOGGER.isEnabledFor(logging.DEBUG) and (steps := [row for row in rows if row["kind"] == "train"]):
            LOGGER.debug("step %s: %s", f"{steps[-1]['step']:,}", format_steps(steps))

    def clear_progress(self) -> None: ...


def describe_evaluation(row: dict[str, Any]) -> str:
    """Describe one evaluation in a sentence, which stands alone in a log."""
    scores = (("training", row["clean_train"]), ("validation", row["validation"]))
    figure = find_figure(row["validation"])
    figures = "; ".join(f"{name} loss {format_loss(x['loss'])}, {figure.name} {figure.format(x[figure.key])}" for name, x in scores)
    return f"{format_percent(row['t'], 0)}, step {row['step']:,}, {format_duration(row['elapsed'])}: {figures}"
