"""Openings of the test split: every one is counted, also at the same time, by other runs on the same split, and by ensembles."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.runs.openings import find_member_runs, find_openings, open_test_split
from tests.support.command import copied, goodfit, refused, train
from tests.support.process import Forked, start_command

PROCESSES = 6


class Heard(SilentReporter):
    """What was reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, *lines: str) -> None:
        self.lines += lines


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same split, one with snapshots, and one on another split."""
    folder = tmp_path_factory.mktemp("openings")
    assert train(photos, folder / "a").code == 0
    assert train(photos, folder / "b", seed="1", snapshots="1", schedule="sgdr(1)").code == 0
    assert train(photos, folder / "c", split_seed="1").code == 0
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may open."""
    return copied(trained, tmp_path / "runs")


def openings(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Run(run).read("about.json")["openings"]
    return found


def open_once(run: Path) -> None:
    open_test_split(Run(run), SilentReporter())


def opened(run: Path) -> list[str]:
    """Open the test split of a run, and return what is said."""
    heard = Heard()
    open_test_split(Run(run), heard)
    return heard.lines


def change_again_and_again(run: Path) -> None:
    for number in range(50):
        Run(run).update("about.json", {"state": "running", "number": number})


def test_as_many_as_open_it_at_once_are_counted(runs: Path, tmp_path: Path) -> None:
    """While another process changes other values of the same file, which are kept too."""
    processes = [Forked(tmp_path / f"p{k}", open_once, runs / "a") for k in range(PROCESSES)]
    processes.append(Forked(tmp_path / "training", change_again_and_again, runs / "a"))
    assert [process.wait() for process in processes] == [0] * (PROCESSES + 1)
    rows = openings(runs / "a")
    assert len({row["id"] for row in rows}) == len(rows) == PROCESSES
    assert Run(runs / "a").read("about.json")["number"] == 49
    assert f"opened {PROCESSES} times before," in opened(runs / "a")[0]


@pytest.mark.slow
def test_as_many_evaluations_at_once_are_counted(runs: Path, tmp_path: Path) -> None:
    """Whole commands: each is told of those before it, and of no other."""
    processes = [start_command(tmp_path / f"p{k}", "evaluate", runs / "ab"[k % 2], "--test") for k in range(PROCESSES)]
    assert [process.wait() for process in processes] == [0] * PROCESSES
    assert len(openings(runs / "a")) == len(openings(runs / "b")) == PROCESSES // 2
    told = sorted(
        int(line.split(" was opened ")[1].split()[0]) for process in processes for line in process.err.splitlines() if "was opened" in line
    )
    assert told == list(range(1, PROCESSES))


def test_other_runs_on_the_same_split_count_too(runs: Path) -> None:
    assert opened(runs / "a") == []
    (line,) = opened(runs / "b")
    assert line.startswith("Warning: the test split of this run was opened 1 time before, by other runs, first ")
    assert opened(runs / "c") == [], "which has another split"
    assert "opened 2 times before, 1 of them by other runs, first" in opened(runs / "a")[0]
    assert [len(openings(runs / name)) for name in "abc"] == [2, 1, 1]
    (runs / "b" / "about.json").write_text("null")
    assert "opened 2 times before" in opened(runs / "a")[0] and len(openings(runs / "a")) == 3


def ensemble(runs: Path, out: Path, *more: str) -> Path:
    said = goodfit("ensemble", runs / "a", runs / "b", "--out", out, *more)
    assert said.code == 0, said
    return out


@pytest.mark.parametrize("more", [(), ("--final",)])
def test_an_ensemble_made_again_knows_what_was_opened(runs: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """By the ensemble before it, though that is gone: it is recorded in the runs that the models are of, snapshots or not."""
    made = ensemble(runs, tmp_path / "elsewhere" / "one", *more)
    assert [run.name for run in find_member_runs(Run(made))] == ["a", "b"] and openings(made) == []
    assert "was opened" not in goodfit("evaluate", made, "--test").err
    assert [len(openings(path)) for path in (made, runs / "a", runs / "b")] == [1, 1, 1]
    assert {row["run"] for row in openings(runs / "a")} == {"one"}
    shutil.rmtree(made)
    again = ensemble(runs, tmp_path / "elsewhere" / "two", *more)
    assert len(openings(again)) == 1
    assert "was opened 1 time before, by other runs" in goodfit("evaluate", again, "--test").err
    assert len(openings(again)) == len(openings(runs / "b")) == 2
    assert "was opened 2 times before" in goodfit("evaluate", runs / "a", "--test").err
    assert "Opened 2 times." in (Path(again) / "report.html").read_text()


def test_an_ensemble_whose_runs_are_gone_counts_its_own(runs: Path, tmp_path: Path) -> None:
    made = ensemble(runs, tmp_path / "elsewhere" / "one")
    shutil.rmtree(runs / "a")
    (runs / "b" / "about.json").write_text("{")
    assert opened(made) == [] and len(openings(made)) == 1
    assert "opened 1 time before, first" in opened(made)[0]


def test_records_of_earlier_versions_count(runs: Path) -> None:
    """They have no id; those that differ in nothing but that they stand in two runs are of two runs."""
    old = {"time": "2026-08-02T11:00:00+0000", "command": "goodfit evaluate runs/a --test"}
    for name in "ab":
        Run(runs / name).update("about.json", {"openings": [old]})
    split = Run(runs / "a").read("about.json")["data"]["split_digest"]
    assert len(find_openings([Run(runs / "a"), Run(runs / "a"), Run(runs / "b"), Run(runs / "c")], split)) == 2
    assert f"opened 2 times before, 1 of them by other runs, first {old['time']};" in opened(runs / "a")[0]


@pytest.mark.parametrize("digest", ["../../out", "/tmp/out", "A" * 64, "ab\n", "", 7])
def test_a_digest_that_is_none_is_no_path(runs: Path, digest: object) -> None:
    """It names a lock in the cache; a run from elsewhere may say anything."""
    run = Run(runs / "a")
    run.update("about.json", lambda about: {"data": {**about["data"], "split_digest": digest}})
    refused(goodfit("evaluate", runs / "a", "--test"), 1, "its data.split_digest is not what was written")
    assert not list(runs.parent.glob("out*"))
