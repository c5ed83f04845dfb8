"""The runs and studies in a folder as rows of a list, read again only where their files have changed; without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goodfit.core.errors import DataError, UsageError
from goodfit.core.escapes import escape_name, restore_name
from goodfit.core.figures import FIGURES, figure_of
from goodfit.core.run import LOCK_FILE, PAUSE_FILE, SEARCH_FILE, STEERING_FOLDER, is_run
from goodfit.core.run_files import DamagedFile, get, read_json
from goodfit.core.toml import parse_toml
from goodfit.recipe.recipe import Recipe
from goodfit.report.record import as_interval, as_items, as_number, as_rows, get_number
from goodfit.runs.listing import SECONDS_UNTIL_KILLED

READ_FILES = ("about.json", "scores.json", "recipe.toml", "findings.json", "ensemble.json")  # of a run, of which its row is made
STUDY_FILES = {SEARCH_FILE: "search", "folds.json": "folds"}
MAX_RUNS = 5000  # that are listed
MAX_RECIPE_TEXT = 4000  # characters of a row
DEFAULTS = Recipe().plain()
LAST_BYTES = 65_536  # of a log, in which its last row is looked for
SILENT_SECONDS = 120  # without a change, after which a run whose lock nobody holds was killed
LOCKS_FILE = Path("/proc/locks")  # where Linux lists the locks that are held

Row = dict[str, Any]
Stamp = tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run or study below the root: its `key` names it in addresses, `study` is the key of the folder of runs it is in."""

    key: str
    path: Path
    study: str = ""
    kind: str = "run"


class RunIndex:
    """The runs in a folder, as rows for a list.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f'Expected a folder of runs at "{root}", found none.')
        self.root = root.resolve()
        self._rows: dict[str, tuple[Stamp, Row]] = {}

    def path(self, key: str) -> Path:
        """The folder of a run that this index has listed."""
        return self.root / restore_name(key)

    def find(self, key: str) -> Path:
        """The folder of a run or study by its key.

        Raises:
            UsageError: there is none; links are not followed out of the root.
        """
        with contextlib.suppress(OSError, ValueError):
            path = self.path(key).resolve()
            if path.is_relative_to(self.root) and "\0" not in key and (is_run(path) or study_kind(path)):
                return path
        raise UsageError("Expected the name of a run on this board, received another.")

    def folders(self) -> list[RunFolder]:
        """The runs and studies below the root."""
        if is_run(self.root):
            return [RunFolder(".", self.root)]
        found: list[RunFolder] = []
        for path in _subfolders(self.root):
            found += self._expand(path)
            if len(found) >= MAX_RUNS:
                break
        return found[:MAX_RUNS]

    def _expand(self, path: Path) -> list[RunFolder]:
        """A run; or a study, and its runs."""
        key = self._key(path)
        if is_run(path):
            return [RunFolder(key, path)]
        stages = _subfolders(path) if (path / SEARCH_FILE).is_file() else ()
        members = [run for folder in (path, *stages) for run in _subfolders(folder) if is_run(run)]
        if not members and not study_kind(path):
            return []
        kind = study_kind(path) or "runs"
        return [RunFolder(key, path, kind=kind), *(RunFolder(self._key(run), run, key) for run in members)]

    def _key(self, path: Path) -> str:
        return escape_name(path.relative_to(self.root).as_posix())

    def rows(self) -> list[Row]:
        """A row for each run and study, those begun last first."""
        held = read_held_locks()
        rows = [self._row(folder, held) for folder in self.folders()]
        by_study: dict[str, list[Row]] = {}
        for row in rows:
            by_study.setdefault(row["study"], []).append(row)
        for row in rows:
            if row["kind"] != "run":
                row.update(summarize_members(by_study.get(row["key"], [])))
        return sorted(rows, key=lambda row: (row["started"], row["key"]), reverse=True)

    def _row(self, folder: RunFolder, held: frozenset[tuple[int, int]] | None) -> Row:
        stamp = tuple(_stamp(folder.path / name) for name in READ_FILES)
        known = self._rows.get(folder.key)
        if known is None or known[0] != stamp:
            known = stamp, read_row(folder)
            self._rows[folder.key] = known
        row = dict(known[1])
        if row["state"] == "running":
            row |= read_progress(folder.path)
            is_paused = (folder.path / STEERING_FOLDER / PAUSE_FILE).exists()
            row["state"] = "killed" if is_silent(folder.path, held) else "paused" if is_paused else "running"
        return row


def study_kind(path: Path) -> str:
    """What kind of study lies in a folder; empty for none."""
    return next((kind for file, kind in STUDY_FILES.items() if (path / file).is_file()), "")


def read_row(folder: RunFolder) -> Row:
    """The row of a run from its files; its state is "damaged" where one does not read."""
    row: Row = {
        "key": folder.key, "name": folder.key.rpartition("/")[2], "study": folder.study, "kind": folder.kind, "started": "", "data": "",
        "model": "", "state": "", "figure": "accuracy", "value": None, "interval": [], "test": None, "seconds": None, "parameters": None,
        "recipe": "", "causes": [], "runs": 1, "t": None,
    }  # fmt: skip
    if folder.kind != "run":
        return row
    try:
        about, scores = read_json(folder.path / "about.json"), read_json(folder.path / "scores.json")
        recipe = parse_toml(_read_text(folder.path / "recipe.toml"))
        is_ensemble = (folder.path / "ensemble.json").is_file()
    except (DamagedFile, OSError, ValueError):
        return row | {"state": "damaged"}
    figure = figure_of(get(scores, "validation")) if get(scores, "validation", "task") else figure_of(recipe)
    seconds = get(about, "seconds")
    return row | {
        "started": str(get(about, "started") or ""),
        "data": str(get(about, "data", "name") or recipe.get("data") or ""),
        "model": "ensemble" if is_ensemble else shorten_part(str(recipe.get("model") or "")),
        "state": str(get(about, "state") or "damaged"),
        "figure": figure.key,
        "value": get_number(scores, "validation", figure.key),
        "interval": [x for x in as_interval(get(scores, "validation", "interval")) if x is not None],
        "test": get_number(scores, "test", figure.key),
        "seconds": sum(number for _, x in as_items(seconds) if (number := as_number(x)) is not None) or None,
        "parameters": get_number(about, "parameters"),
        "recipe": describe_recipe(recipe),
        "causes": [str(row.get("cause")) for row in as_rows(_read_findings(folder.path).get("causes"))],
    }


def shorten_part(text: str) -> str:
    """A part without its named settings: `convnet(8)` of `convnet(8, act=relu)`."""
    return re.sub(r"(, )?\w+=.*\)$", ")", text).replace("()", "")


def describe_recipe(recipe: Row) -> str:
    """The settings of a recipe that are not the defaults, to be searched."""
    return "\n".join(f"{key} = {value}" for key, value in recipe.items() if key in DEFAULTS and value != DEFAULTS[key])[:MAX_RECIPE_TEXT]


def _read_findings(path: Path) -> Row:
    with contextlib.suppress(DamagedFile):
        return read_json(path / "findings.json")
    return {}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def summarize_members(members: list[Row]) -> Row:
    """What a study's row has of its runs: what they have in common, when the first began, the best figure, and their number."""
    common = {name: members[0][name] if len({row[name] for row in members}) == 1 else "" for name in ("data", "model")} if members else {}
    states = {row["state"] for row in members}
    values = [row["value"] for row in members if row["value"] is not None]
    return {
        **common,
        "state": "running" if "running" in states else next(iter(states)) if len(states) == 1 else "several" if states else "",
        "started": min((row["started"] for row in members if row["started"]), default=""),
        "figure": members[0]["figure"] if members else next(iter(FIGURES.values())).key,
        "value": max(values, default=None),
        "seconds": sum(row["seconds"] or 0 for row in members) or None,
        "runs": len(members),
    }


def read_progress(path: Path) -> Row:
    """How far a training is: the last step of its log, its progress `t` from 0 to 1, and the seconds since it began."""
    row: Row = {}
    with contextlib.suppress(OSError, ValueError), (path / "log.jsonl").open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LAST_BYTES))
        for line in reversed(file.read().split(b"\n")[:-1]):
            row = json.loads(line)
            if isinstance(row, dict) and get_number(row, "t") is not None:
                break
    return {"step": get_number(row, "step"), "t": get_number(row, "t"), "seconds": get_number(row, "elapsed")}


# ---- whether a run is alive ----------------------------------------------------------------------------------------------------------


def read_held_locks() -> frozenset[tuple[int, int]] | None:
    """The device and inode of each file that a process holds a lock on; None where the system does not list them.

    It takes no lock itself: a training that starts at the same moment would find its run taken.
    """
    try:
        lines = LOCKS_FILE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    held = set()
    for line in lines:
        with contextlib.suppress(ValueError, IndexError):
            major, minor, inode = next(word for word in line.split() if word.count(":") == 2).split(":")
            held.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return frozenset(held)


def is_silent(path: Path, held: frozenset[tuple[int, int]] | None) -> bool:
    """Whether a run that says it is running was killed: nobody holds its lock, and nothing has changed for a while."""
    if held is not None:
        with contextlib.suppress(OSError):
            found = (path / LOCK_FILE).stat()
            if any(inode == found.st_ino for _, inode in held):
                return False
    changed = max((_changed(file) for file in (path, path / "log.jsonl", path / "checkpoints")), default=0.0)
    return time.time() - changed > (SECONDS_UNTIL_KILLED if held is None else SILENT_SECONDS)


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _stamp(path: Path) -> tuple[int, int, int]:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    return 0, 0, 0


def _subfolders(path: Path) -> Iterator[Path]:
    """The folders in a folder that are no links and not hidden, by their names."""
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        yield from sorted(Path(x.path) for x in entries if x.is_dir(follow_symlinks=False) and not x.name.startswith("."))
