"""Openings of test splits: each is counted, before a test image is scored, in the run and in those that its models are of."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from goodfit.core.errors import GoodfitError
from goodfit.core.files import cache_folder, lock
from goodfit.core.reporter import WARNING, Reporter
from goodfit.core.run import ENSEMBLE_FILE, Run, is_run, list_runs
from goodfit.core.run_files import DamagedFile, get
from goodfit.core.words import count_of
from goodfit.runs.start import timestamp

ABOUT_FILE = "about.json"
LOCK_FOLDER = "openings"  # of the cache

Opening = dict[str, Any]


def open_test_split(run: Run, reporter: Reporter) -> None:
    """Record that the test split of a run is opened; warn from the second time on that the same split is, by this run or another one.

    Of an ensemble it is recorded in the runs that its models are of, too, so that another ensemble of them begins with it. Processes that
    open a split at the same time are counted one after the other.

    Raises:
        GoodfitError: the run cannot be written, so the test images stay closed.
        DamagedFile: its about.json does not read.
    """
    split = get(run.read(ABOUT_FILE, "data"), "data", "split_digest") or ""
    members = [member for member in find_member_runs(run) if _read_split(member) == split]
    with lock(cache_folder() / LOCK_FOLDER / f"{split}.lock"):
        before = find_openings([run, *members, *list_runs(run.path.resolve().parent)], split)
        command = " ".join(psutil.Process().cmdline()[1:])
        opening = {"time": timestamp(), "command": command, "run": run.name, "id": uuid.uuid4().hex}
        try:
            _record(run, opening)
        except GoodfitError as error:
            raise GoodfitError(f"The test images stay closed, for each time they are opened is written into the run: {error}") from error
        for member in members:
            try:
                _record(member, opening)
            except GoodfitError as error:
                reporter.say(f"{WARNING}that the test split was opened is written into the ensemble alone: {error}")
    if before:
        others = sum(row["run"] != run.name for row in before)
        by = "" if not others else ", by other runs" if others == len(before) else f", {others} of them by other runs"
        reporter.say(
            f"{WARNING}the test split of this run was opened {count_of(len(before), 'time')} before{by},"
            f" first {before[0].get('time')}; choosing by it makes it a second validation split."
        )


def find_openings(runs: Iterable[Run], split: str) -> list[Opening]:
    """The openings of the test split with a digest that runs have recorded, each once, the earliest first.

    A run of other splits has none of it, and neither one whose about.json does not read.
    """
    found: dict[Any, Opening] = {}
    for run in runs:
        with contextlib.suppress(DamagedFile):
            about = run.read(ABOUT_FILE)
            if get(about, "data", "split_digest") == split:
                for row in about.get("openings", []):
                    found.setdefault(row.get("id") or (run.name, row.get("time"), row.get("command")), {"run": run.name, **row})
    return sorted(found.values(), key=lambda row: str(row.get("time")))


def find_member_runs(run: Run) -> list[Run]:
    """The runs that the models of an ensemble are of, as far as they still lie where they were; none of a run that is no ensemble."""
    if not (run.path / ENSEMBLE_FILE).exists():
        return []
    files = [run.path / str(row.get("source", "")) for row in run.read(ENSEMBLE_FILE).get("candidates", [])]
    folders = (folder.resolve() for file in files for folder in file.parents[:2] if is_run(folder))  # a snapshot lies one deeper
    return [Run(folder) for folder in dict.fromkeys(folders) if folder != run.path.resolve()]


def _read_split(run: Run) -> str:
    with contextlib.suppress(DamagedFile):
        return get(run.read(ABOUT_FILE), "data", "split_digest") or ""
    return ""


def _record(run: Run, opening: Mapping[str, Any]) -> None:
    run.update(ABOUT_FILE, lambda about: {"openings": [*about.get("openings", []), opening]})
