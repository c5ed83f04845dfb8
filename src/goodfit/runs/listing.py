"""Listing runs with their state and size, and pruning what is no longer needed; without torch."""

from __future__ import annotations

import shutil
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.core.errors import DataError
from goodfit.core.run import Run, list_runs
from goodfit.core.words import format_bytes

SECONDS_UNTIL_KILLED = 3600  # without a change, after which a run that says it is running was killed


def summarize_runs(folder: Path) -> list[dict[str, Any]]:
    """A row for each run in a folder: path, state, accuracy, bytes and model.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f'Expected a folder of runs at "{folder}", found none.')
    return [summarize_run(run) for run in list_runs(folder)]


def summarize_run(run: Run) -> dict[str, Any]:
    """The row of one run; its state is "damaged" where its files do not read."""
    row: dict[str, Any] = {"path": str(run.path), "state": "damaged", "accuracy": None, "bytes": run.bytes(), "model": ""}
    try:
        row["model"] = tomllib.loads((run.path / "recipe.toml").read_text(encoding="utf-8")).get("model", "")
        row["accuracy"] = run.read("scores.json").get("validation", {}).get("accuracy")
        row["state"] = run.read("about.json").get("state", "unknown")
    except ValueError:  # a file of the run does not read: the list goes on
        pass
    return row


def prune_runs(rows: Sequence[dict[str, Any]], delete: bool) -> list[str]:
    """Delete failed runs and the checkpoints of finished ones, or only say what would be deleted; returns a line for each.

    Kept are runs that may still be running, that can be resumed, or whose files do not read.
    """
    lines, freed = [], 0
    for row in rows:
        run, state = Run(Path(row["path"])), row["state"]
        is_finished = state in ("finished", "stopped early")
        path = run.checkpoints if is_finished else run.path
        if state == "damaged":
            lines.append(f"kept {path}: its files cannot be read; look at it yourself")
        elif state == "running" and time.time() - _last_change(run) < SECONDS_UNTIL_KILLED:
            lines.append(f"kept {path}: it may still be running")
        elif state in ("interrupted", "terminated"):
            lines.append(f"kept {path}: it can be continued with --resume auto")
        elif path.exists() and not (is_finished and not any(path.iterdir())):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            freed += size
            lines.append(f"{'deleted' if delete else 'would delete'} {path} ({format_bytes(size)})")
            if delete:
                shutil.rmtree(path)
    return [*lines, f"{format_bytes(freed)} {'freed' if delete else 'to free: run again with --yes'}"]


def _last_change(run: Run) -> float:
    """The clock time at which a training last wrote into its run."""
    return max(path.stat().st_mtime for path in (run.path, run.path / "log.jsonl", run.checkpoints) if path.exists())
