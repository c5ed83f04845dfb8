"""goodfit runs: what has been trained, how large it is, and pruning it."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.errors import UsageError
from goodfit.core.words import format_bytes, format_percent
from goodfit.runs.listing import prune_runs, summarize_runs
from goodfit.terminal.streams import print_json, print_lines
from goodfit.terminal.tables import format_table


def runs(
    folder: Path = Path("runs"),
    /,
    *,
    prune: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """List the runs in a folder with their state, validation accuracy and size; or prune them.

    Parameters
    ----------
    folder
        The folder that holds the runs.
    prune
        Say what could go: runs that failed, and the checkpoints of finished ones (their models stay, but they cannot be extended).
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
        print_lines(*prune_runs(rows, yes))
    elif rows:
        accuracies = ["-" if row["accuracy"] is None else format_percent(row["accuracy"]) for row in rows]
        cells = [
            (row["path"], row["state"], accuracy, format_bytes(row["bytes"]), row["model"])
            for row, accuracy in zip(rows, accuracies, strict=True)
        ]
        print_lines(*format_table(cells, "<<>><").split("\n"))
