"""Listing runs with their state and size, and pruning what is no longer needed; without torch."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodfit.core.checkpoint_files import last_good_step
from goodfit.core.commit import committed
from goodfit.core.errors import DataError, GoodfitError, UsageError
from goodfit.core.figures import figure_of, find_figure
from goodfit.core.files import explain_write_errors, lock, measure_folder
from goodfit.core.run import ENSEMBLE_FILE, FINISHED_STATES, LOCK_FILE, SEARCH_FILE, UNFINISHED_STATES, Run, is_run, list_runs
from goodfit.core.run_files import DamagedFile, check_hash, get
from goodfit.core.words import format_bytes
from goodfit.recipe.recipe import Recipe

SECONDS_UNTIL_KILLED = 3600  # without a change, after which a run that says it is running was killed, where no lock tells it


def summarize_runs(folder: Path) -> list[dict[str, Any]]:
    """A row for each run in a folder, and one for each folder of runs in it, as of folds, seeds or a search; the oldest first.

    Of a run there is its own row alone.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f'Expected a folder of runs at "{folder}", found none.')
    if is_run(folder):
        return [summarize_run(Run(folder))]
    rows = [summarize_run(run) for run in list_runs(folder)]
    studies = [path for path in folder.glob("*/") if path.is_dir() and not path.is_symlink() and not is_run(path)]
    rows += [summarize_study(path, members) for path in studies if (members := list_members(path))]
    return sorted(rows, key=lambda row: (row["started"], row["path"]))


def list_members(folder: Path) -> list[Run]:
    """The runs of a study: in its folder, or of a search in the folders of its stages."""
    stages = [path for path in folder.glob("*/") if path.is_dir()] if (folder / SEARCH_FILE).is_file() else []
    return [run for path in (folder, *stages) for run in list_runs(path)]


def summarize_run(run: Run) -> dict[str, Any]:
    """The row of one run, with what reads of it; its state is "damaged" where a file does not."""
    row: dict[str, Any] = {"path": str(run.path), "started": "", "data": "", "model": "", "runs": 1, "state": "damaged", "accuracy": None}
    row["bytes"] = measure_folder(run.path)
    with contextlib.suppress(GoodfitError):
        row["model"] = Recipe.of_run(run.path).plain()["model"]
    with contextlib.suppress(DamagedFile):
        scores = run.read("scores.json").get("validation", {})
        row |= {"accuracy": scores.get("accuracy"), **{key: scores[key] for key in (figure_of(scores).key,) if key in scores}}
        about = run.read("about.json", "state")
        row |= {"started": about.get("started", ""), "data": get(about, "data", "name") or ""}
        row["state"] = about["state"] if row["model"] else "damaged"
    return row


def summarize_study(folder: Path, members: Sequence[Run]) -> dict[str, Any]:
    """The row of a folder of runs: what its runs have in common, the mean of their accuracies (or another figure), and their number."""
    rows = [summarize_run(run) for run in members]
    figure = find_figure({key: value for key, value in rows[0].items() if value is not None})
    values = [row[figure.key] for row in rows if row.get(figure.key) is not None]
    common = {key: rows[0][key] if len({row[key] for row in rows}) == 1 else "several" for key in ("data", "model", "state")}
    mean = statistics.fmean(values) if len(values) == len(rows) else None
    started = min(row["started"] for row in rows)
    return {
        "path": str(folder),
        "started": started,
        **common,
        "runs": len(rows),
        "accuracy": None,
        figure.key: mean,
        "bytes": measure_folder(folder),
    }


def prune_runs(rows: Sequence[dict[str, Any]], delete: bool, is_named: bool = False) -> list[str]:
    """Delete unfinished runs that cannot go on and the checkpoints of finished ones, or only say what would go; returns a line for each.

    Kept are runs that are being trained, that have a good checkpoint, or whose files do not read, now or at all. A run that the user named
    alone (`is_named`) goes though it has a good checkpoint.

    Raises:
        UsageError: a run, or the folder it is in, is a link: what lies behind one is not deleted.
    """
    lines, freed = [], 0
    for run in (Run(Path(row["path"])) for row in rows):
        refuse_link(run.path)
        if not is_run(run.path):
            continue  # a study, which needs its runs
        with lock(run.path / LOCK_FILE, wait=False) as held:
            state = summarize_run(run)["state"]  # another process may have gone on with it since it was listed
            path = run.checkpoints if state in FINISHED_STATES else run.path
            reason = _why_kept(run, state, held, is_named)
            if not reason and not (path == run.checkpoints and not _is_filled(path)):
                size = measure_folder(path)
                freed += size
                cost = ", without which the run cannot be extended" if path == run.checkpoints else ""
                lines.append(f"{'deleted' if delete else 'would delete'} {path} ({format_bytes(size)}){cost}")
                if delete:
                    _delete(run, path)
        if reason:
            lines.append(f"kept {path}: {reason}")
    return [*lines, f"{format_bytes(freed)} {'freed' if delete else 'to free: run again with --yes'}"]


def refuse_link(path: Path) -> None:
    """Refuse to prune a run that is a link, or lies in a folder that is one.

    Raises:
        UsageError: it is; the sentence names what lies behind it.
    """
    for folder in (path, path.parent):
        if folder.is_symlink():
            raise UsageError(f'"{folder}" is a link, and --prune deletes nothing behind one: name "{folder.resolve()}" instead.')


def _why_kept(run: Run, state: str, is_lock_held: bool | None, is_named: bool) -> str:
    """Why a run, or the checkpoints of a finished one, are not deleted; empty if they are. `is_lock_held` is None without locks."""
    is_finished = state in FINISHED_STATES
    if state not in (*FINISHED_STATES, *UNFINISHED_STATES) or (is_finished and not has_model(run)):
        return "files of the run cannot be read; look at it yourself"
    if is_lock_held is False:
        return "it is being trained by another process"
    if is_lock_held is None and state == "running" and time.time() - _last_change(run) < SECONDS_UNTIL_KILLED:
        return "it may still be running"
    if run.checkpoints.is_symlink():
        return f'its checkpoints are a link to "{run.checkpoints.resolve()}"; delete them yourself'
    try:
        can_continue = not is_finished and not is_named and last_good_step(run.checkpoints) is not None
    except OSError as error:
        return f"its checkpoints cannot be read now ({error.strerror or error})"
    return f'it can be continued with --resume auto; "goodfit runs {run.path} --prune" deletes it all the same' if can_continue else ""


def _is_filled(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _delete(run: Run, path: Path) -> None:
    """Delete a run or its checkpoints, and the link `latest` where it points to nothing then."""
    with explain_write_errors(path):
        shutil.rmtree(path)
        latest = run.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def has_model(run: Run) -> bool:
    """Whether the model of a finished run reads, or an ensemble has its members; without torch, by the checksum of its weights."""
    try:
        if (run.path / ENSEMBLE_FILE).exists():
            return bool(run.read(ENSEMBLE_FILE, "members"))
        check_hash(run.path / "model.safetensors", run.read("config.json", "model").get("files", {}).get("model.safetensors"))
    except DamagedFile:
        return False
    return committed(run.path / "model.safetensors").is_file()


def _last_change(run: Run) -> float:
    """The clock time at which a training last wrote into its run."""
    return max(path.stat().st_mtime for path in (run.path, run.path / "log.jsonl", run.checkpoints) if path.exists())
