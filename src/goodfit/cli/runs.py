"""goodfit runs: what has been trained, how large it is, and pruning it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from goodfit.core.errors import UsageError
from goodfit.core.figures import ACCURACY, find_figure
from goodfit.core.run import Run, is_busy, is_paused, is_run
from goodfit.core.words import format_bytes
from goodfit.runs.listing import prune_runs, summarize_runs
from goodfit.terminal.streams import print_json, print_lines
from goodfit.terminal.tables import format_table

HEADER = ("run", "started", "data", "model", "state", "accuracy", "size")


def runs(
    folder: Path = Path("runs"),
    /,
    *,
    prune: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """List the runs in a folder, and its folders of runs as of folds or seeds, with date, data, state, validation accuracy and size.

    Parameters
    ----------
    folder
        The folder that holds the runs, or one run.
    prune
        Say what could go: unfinished runs without a good checkpoint, and the checkpoints of finished ones (their models stay, but they
        cannot be extended). An unfinished run that could go on goes only where it is named in place of the folder.
    yes
        With --prune: delete it.
    json
        Print the list as JSON on stdout.
    """
    if json and prune:
        raise UsageError("Expected one of --json and --prune, received both.")
    if yes and not prune:
        raise UsageError("Expected --prune beside --yes, received none.")
    rows = summarize_runs(folder)
    if json:
        print_json(rows)
    elif prune:
        print_lines(*prune_runs(rows, yes, is_named=is_run(folder)))
    elif rows:
        print_lines(*format_table([format_row(row) for row in rows], "<<<<<>>", HEADER).split("\n"))


def format_row(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a run, or of a folder of runs."""
    path = f"{row['path']} ({row['runs']} runs)" if row["runs"] > 1 else row["path"]
    started = row["started"][:16].replace("T", " ")
    model = re.sub(r"(, )?\w+=.*\)$", ")", row["model"]).replace("()", "")  # without its named settings
    state = row["state"]
    if state == "running" and row["runs"] == 1:
        run = Run(Path(row["path"]))
        state = "killed" if is_busy(run) is False else "paused" if is_paused(run) else state
    figure = find_figure({key: value for key, value in row.items() if value is not None})
    accuracy = f"{'' if figure is ACCURACY else f'{figure.title} '}{figure.format(row.get(figure.key))}"
    return (path, started, row["data"], model, state, accuracy, format_bytes(row["bytes"]))
