"""The run folder: everything a training leaves behind, and all that looking at it later needs."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from goodfit.core.commit import UPDATE_LOCK_FILE, finish_commit
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.escapes import plain_name
from goodfit.core.files import PARTIAL, explain_write_errors, lock, remove, write_atomic
from goodfit.core.run_files import DamagedFile, check_shape, explain_damage, is_row, read_json, write_json

LOCK_FILE = ".lock"  # held by the process that trains
STEERING_FOLDER, PAUSE_FILE = "lever", "pause"  # commands for that process, and the one in it for which it waits
START_FILE = "start.safetensors"  # the weights that a run with a source started from
FORK_FOLDER = "fork"  # the checkpoint of another run that a run goes on from
ENSEMBLE_FILE = "ensemble.json"  # of a folder that holds several models, or one made of several
SEARCH_FILE = "search.json"  # of a search: its plan
FINISHED_STATES = ("finished", "stopped early")
STOPPED_STATES = ("interrupted", "terminated")
UNFINISHED_STATES = ("running", *STOPPED_STATES, "diverged", "failed")
# What is there of a run that was killed while it was begun: its recipe.toml comes last.
UNFINISHED_START = {"checkpoints", "splits.csv", "about.json", START_FILE, FORK_FOLDER, "use", LOCK_FILE}
RUN_FILES = ("log.jsonl", "config.json", "model.safetensors")  # by which a run is known whose recipe.toml is gone

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One folder: recipe.toml, about.json, log.jsonl, scores.json, worst.json and worst/*.png, checkpoints/, model.safetensors,
    config.json, report.html. Reading it needs no torch and no data.

    Files that a killed process was replacing together are moved into place first; where the folder cannot be written, they are read where
    they are.
    """

    path: Path

    def __post_init__(self) -> None:
        with contextlib.suppress(GoodfitError, OSError):
            finish_commit(self.path)

    @staticmethod
    def new(path: Path | None, name: str, root: Path = Path("runs")) -> Run:
        """Make a new folder at `path`, else `runs/<time>-<name>`.

        Raises:
            UsageError: the path is taken.
            GoodfitError: it cannot be written.
        """
        if path is None:
            path = make_dated_folder(root, f"-{plain_name(name)}")
        require_free_folder(path)
        with explain_write_errors(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        return Run(path)

    @staticmethod
    def open(path: str | Path | Run) -> Run:
        """Open an existing run.

        Raises:
            UsageError: the folder is not there or is no run; the sentence lists the runs nearby.
        """
        folder = path.path if isinstance(path, Run) else Path(path)
        if (folder / "recipe.toml").is_file():
            return Run(folder)
        if is_run(folder):
            raise DamagedFile(folder / "recipe.toml", "it is a folder" if (folder / "recipe.toml").is_dir() else "it is gone")
        raise not_found("a run folder", folder)

    def point_latest(self) -> None:
        """Point the link `latest` beside this folder to it, where the system has links."""
        link = self.path.parent / "latest"
        with contextlib.suppress(OSError):
            if link.is_symlink() or not link.exists():
                fresh = link.with_name(f".latest.{os.getpid()}")
                fresh.symlink_to(self.path.name)
                fresh.replace(link)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def scores(self) -> dict[str, Any]:
        """Its scores by split, "validation" and "test" as far as they were evaluated, as scores.json has them.

        Raises:
            DamagedFile: the file does not read.
        """
        return self.read("scores.json")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read(self, file: str, *required: str) -> dict[str, Any]:
        """Read a JSON file of the run as a dictionary; empty when it does not exist and nothing in it is required.

        `required` are keys that have to be there, nested ones as in "data.digest".

        Raises:
            DamagedFile: it does not read, or has not what was written.
        """
        path = self.path / file
        content = read_json(path)
        if required and not content:
            raise DamagedFile(path, "it is empty" if path.exists() else "it is gone")
        check_shape(path, content, required)
        return content

    def write(self, file: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run with its checksum, whole or not at all."""
        write_json(self.path / file, content)

    def update(self, file: str, changes: Changes | Callable[[dict[str, Any]], Changes]) -> None:
        """Replace some keys of a JSON file of the run, by values or by what a function makes of the file's content.

        Processes that update one at the same time do so one after the other, so that no change is lost.
        """
        with lock(self.path / UPDATE_LOCK_FILE):
            content = self.read(file)
            self.write(file, {**content, **(changes(content) if callable(changes) else changes)})

    # ---- the log: one JSON object a line -------------------------------------------------------------------------------------

    def append(self, lines: list[dict[str, Any]]) -> None:
        """Add lines to log.jsonl."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with explain_write_errors(self.path / "log.jsonl"), (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(text)

    def log(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the lines of log.jsonl, of one kind or all; what is no row is passed over, such as a last line that a kill has torn.

        Raises:
            DamagedFile: it is no file.
        """
        path, rows = self.path / "log.jsonl", []
        with explain_damage(path):
            content = path.read_bytes() if path.exists() else b""
        for line in content.split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                rows.append(json.loads(line))
        return [row for row in rows if is_row(row) and kind in (None, row["kind"])]

    def cut_log(self, step: int) -> None:
        """Delete the lines after `step`: they will be written again."""
        kept = [line for line in self.log() if line["step"] <= step]
        write_atomic(self.path / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, though its recipe.toml may be gone; not one that was killed before that was written."""
    if (folder / "recipe.toml").is_file():
        return True
    return (folder / "about.json").is_file() and any((folder / name).is_file() for name in RUN_FILES)


def is_busy(run: Run) -> bool | None:
    """Whether another process is training a run; None where the system has no locks, by which that is told."""
    with lock(run.path / LOCK_FILE, wait=False) as held:
        return None if held is None else not held


def is_paused(run: Run) -> bool:
    """Whether the training of a run waits, or is about to, because it was asked to."""
    return (run.path / STEERING_FOLDER / PAUSE_FILE).exists() and is_busy(run) is not False


def part_files(run: Run, names: Iterable[str] | None = None) -> list[Path]:
    """The run's copies of the user's files of parts, in the order they are read; or those of the `names` in its folder `use`.

    Raises:
        UsageError: a name or link leads out of that folder.
    """
    folder = run.path / "use"
    files = sorted(folder.glob("*.py")) if names is None else [folder / name for name in names]
    place = run.path.resolve() / "use"
    if outside := next((file for file in files if file.resolve() != place / file.name), None):
        raise UsageError(f'Expected the files of parts of the run in "{folder}", found "{outside}", which leads out of it: remove it.')
    return files


def require_free_folder(path: Path) -> None:
    """Refuse a folder for a new run that holds something already.

    Raises:
        UsageError: there is a file, or a folder that is not empty.
        GoodfitError: there can be no such folder.
    """
    with explain_write_errors(path):
        is_file = path.exists() and not path.is_dir()
    if is_file:
        raise UsageError(f'Expected a folder for the run at "{path}", found a file.')
    others = [file for file in path.glob("*") if file.name not in UNFINISHED_START and file.suffix != PARTIAL]
    if others or any(path.glob("checkpoints/*")):
        there = ", or continue that run with --resume auto" if (path / "recipe.toml").is_file() else ""
        raise UsageError(f'"{path}" is not empty: choose another --out{there}.')


def remove_unfinished_start(run: Run) -> None:
    """Remove what a process that was killed while it began this run has left, which may be of another recipe; the lock must be held."""
    for name in UNFINISHED_START - {"checkpoints", LOCK_FILE}:
        remove(run.path / name)


def not_found(what: str, folder: Path) -> UsageError:
    """The error for a folder that does not hold `what` was expected; the sentence lists the runs nearby."""
    nearby = [str(run.path) for run in list_runs(folder if folder.is_dir() else folder.parent)]
    return UsageError(f'Expected {what} at "{folder}", found none.' + (f" There is: {', '.join(nearby[-5:])}." if nearby else ""))


def make_dated_folder(root: Path, ending: str = "") -> Path:
    """Make a folder named by the time, and by a number where another process has made one in the same second."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}{ending}"
    with explain_write_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for path in (root / (f"{stem}-{n}" if n else stem) for n in itertools.count()):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    raise AssertionError("unreachable")


def list_runs(root: Path) -> list[Run]:
    """List the runs in a folder, oldest first."""
    files = {path: path / "recipe.toml" for path in root.glob("*") if not path.is_symlink() and is_run(path)}
    return [Run(path) for path in sorted(files, key=lambda path: (files[path] if files[path].exists() else path).stat().st_mtime)]
