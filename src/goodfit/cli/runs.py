"""goodfit runs: what has been trained, how large it is, and pruning it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from goodfit.core.errors import DataError
from goodfit.core.run import Run
from goodfit.core.run import list_runs as runs_in
from goodfit.core.words import format_bytes, format_percent

STILL = 3600  # seconds without a change after which a run that says it is running was killed


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
    if not folder.is_dir():
        raise DataError(f'Expected a folder of runs at "{folder}", found none.')
    found = [about(run) for run in runs_in(folder)]
    if json:
        from json import dumps

        print(dumps(found))
    elif prune:
        _prune([Run(Path(row["path"])) for row in found], yes)
    elif found:
        from goodfit.terminal.tables import format_table

        rows = [
            (
                row["path"],
                row["state"],
                "-" if row["accuracy"] is None else format_percent(row["accuracy"]),
                format_bytes(row["bytes"]),
                row["model"],
            )
            for row in found
        ]
        print(format_table(rows, "<<>><"))


def about(run: Run) -> dict[str, Any]:
    """A run in one row."""
    import tomllib

    row: dict[str, Any] = {"path": str(run.path), "state": "damaged", "accuracy": None, "bytes": run.bytes(), "model": ""}
    try:
        row["model"] = tomllib.loads((run.path / "recipe.toml").read_text()).get("model", "")
        row["accuracy"] = run.read("scores.json").get("validation", {}).get("accuracy")
        row["state"] = run.read("about.json").get("state", "unknown")
    except ValueError:  # a file of the run does not read: the list goes on
        pass
    return row


def last_change(run: Run) -> float:
    """The clock time at which a training last wrote into its run."""
    return max(path.stat().st_mtime for path in (run.path, run.path / "log.jsonl", run.checkpoints) if path.exists())


def _prune(found: list[Run], yes: bool) -> None:
    import shutil

    freed = 0
    for run in found:
        state = about(run)["state"]
        done = state in ("finished", "stopped early")
        path = run.checkpoints if done else run.path
        if state == "damaged":
            print(f"kept {path}: its files do not read, look at it yourself")
            continue
        if state == "running" and time.time() - last_change(run) < STILL:
            print(f"kept {path}: it may still be running")
            continue
        if state in ("interrupted", "terminated"):
            print(f"kept {path}: it can go on with --resume auto")
            continue
        if not path.exists() or (done and not any(path.iterdir())):
            continue
        bytes_ = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        freed += bytes_
        print(f"{'deleted' if yes else 'would delete'} {path} ({format_bytes(bytes_)})")
        if yes:
            shutil.rmtree(path)
    print(f"{format_bytes(freed)} {'freed' if yes else 'to free: run again with --yes'}")
