"""What a kill or a power cut leaves: files that go together are replaced together, a log is on the disk, a start is begun anew."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodfit.core import files
from goodfit.core.commit import UPDATE_LOCK_FILE, finish_commit, remove_staged, write_together
from goodfit.core.errors import GoodfitError
from goodfit.core.predictions import Predictions
from goodfit.core.run import Run
from goodfit.models.weights.saved import SavedModel
from goodfit.report.record import read_record
from goodfit.runs.listing import has_model, summarize_runs
from goodfit.training.checkpoint import Checkpoints
from tests.support.command import FAST, Said, copied, goodfit, train
from tests.support.runs import assert_equal_weights
from tests.support.writes import (
    SyncedSizes,
    call_killed_at_operation,
    command_killed_at_operation,
    fault_at_operation,
    fault_at_write,
    fill,
)

OLD, NEW = {"a": b"1", "b": b"1", "c": b"1"}, {"a": b"2", "b": b"22", "c": b"222"}
SLOW = pytest.param(True, marks=pytest.mark.slow, id="all")  # of what is tried at a few file operations by default


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def test_all_or_none_whenever_it_is_killed(tmp_path: Path) -> None:
    """At every file operation; whoever opens the folder next moves what is left to be moved, and removes what is not whole."""
    ends = []
    for n in itertools.count(1):
        folder = tmp_path / f"{n}"
        write_together(folder, OLD)
        code = call_killed_at_operation(n, tmp_path / f"log {n}", write_together, folder, NEW)
        finish_commit(folder)
        ends.append(content(folder) == NEW)
        assert content(folder) in (OLD, NEW), (n, content(folder))
        remove_staged(folder)
        files.remove_partials(folder)
        assert {file.name for file in folder.iterdir() if file.name.startswith(".")} <= {UPDATE_LOCK_FILE}
        if code == 0:
            break
    print(f"{len(ends)} kills: {ends.count(False)} before, {ends.count(True)} after")
    assert ends == sorted(ends) and ends[0] is False and ends.count(True) > 3


def test_a_full_disk_replaces_nothing(tmp_path: Path) -> None:
    write_together(tmp_path / "run", OLD)
    for n in (1, 2, 3):
        with fault_at_write(n, fill), pytest.raises(GoodfitError, match="No space"):
            write_together(tmp_path / "run", NEW)
        assert content(tmp_path / "run") == OLD and not list((tmp_path / "run").glob(".*.staged"))


def test_two_processes_may_finish_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def replace_as_another_does(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        finish_commit(tmp_path)
        return replace(path, target)

    leave_staged(tmp_path, NEW)
    no_lock = contextlib.contextmanager(lambda path, wait=True: iter([None]))  # on a disk that has none
    monkeypatch.setattr("goodfit.core.commit.lock", no_lock)
    monkeypatch.setattr(Path, "replace", replace_as_another_does)
    finish_commit(tmp_path)
    assert content(tmp_path) == NEW


def leave_staged(folder: Path, contents: dict[str, bytes], moved: int = 0) -> None:
    """Leave a commit as a process does that is killed when it has moved the first few of its files."""
    for name, staged in contents.items():
        files.write_atomic(folder / (name if moved > 0 else f".{name}.staged"), staged)
        moved -= 1
    (folder / ".commit").touch()


def test_no_process_moves_what_another_is_still_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader that has seen one commit waits, and leaves alone the files that the next one has staged so far."""
    leave_staged(tmp_path, OLD)
    seen, go_on, results = threading.Event(), threading.Event(), list[dict[str, bytes]]()
    is_file, glob = Path.is_file, Path.glob

    def read_slowly() -> None:
        finish_commit(tmp_path)

    def is_file_seen_late(path: Path) -> bool:
        found = is_file(path)
        if path.name == ".commit" and threading.current_thread() is reader and not seen.is_set():
            seen.set()
            go_on.wait(10)
        return found

    def write_and_look(path: Path, content: bytes) -> None:
        files.write_atomic(path, content)
        if path.name == ".b.staged":
            go_on.set()
            reader.join(0.5)
            results.append({name: (tmp_path / name).read_bytes() for name in OLD})

    reader = threading.Thread(target=read_slowly)
    monkeypatch.setattr(Path, "is_file", is_file_seen_late)
    monkeypatch.setattr("goodfit.core.commit.write_atomic", write_and_look)
    reader.start()
    seen.wait(10)
    write_together(tmp_path, NEW)
    reader.join(10)
    assert results == [OLD], "while the next is being staged, all files are the old ones"
    assert content(tmp_path) == NEW and not list(glob(tmp_path, ".*.staged"))


@pytest.mark.parametrize("moved", range(4))
@pytest.mark.parametrize("is_writable", [True, False])
def test_every_reader_sees_a_commit_whole(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int, is_writable: bool
) -> None:
    """Lists, reports and predictions of a run whose process was killed between two moves; a folder that cannot be written, too."""
    run, whole = tmp_path / "runs" / "run", tmp_path / "whole" / "run"
    assert train(photos, run).code == 0
    copied(run, whole)
    assert train(photos, whole, "--resume", "auto", budget="4 epochs").code == 0
    names = ("model.safetensors", "config.json", "scores.json", "predictions.npz")
    leave_staged(run, {name: (whole / name).read_bytes() for name in names}, moved)

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        if not is_writable:
            patch.setattr(Path, "replace", refuse)
        (row,) = summarize_runs(run.parent)
        assert row["accuracy"] == Run(whole).scores["validation"]["accuracy"] and has_model(Run(run))
        assert read_record(Run(run)).scores == Run(whole).scores
        assert SavedModel.read(Run(run)).sha256 == SavedModel.read(Run(whole)).sha256
        found, expected = (Predictions.read(path / "predictions.npz") for path in (run, whole))
        assert found and expected and np.array_equal(found.probabilities, expected.probabilities)
    assert (run / ".commit").exists() is not is_writable
    assert state(Run(run).path) == state(whole), "it is finished where it can be"


@pytest.mark.parametrize("is_whole", [False, SLOW])
def test_the_end_of_an_extension_is_all_or_none(photos: Path, tmp_path: Path, is_whole: bool) -> None:
    """Killed at file operations of its end: model, scores and predictions are those of before or those of after."""
    run = tmp_path / "run"
    assert train(photos, run).code == 0
    whole = copied(run, tmp_path / "whole" / "run")
    words = ("--resume", "auto")
    with fault_at_operation(0, fill) as operations:
        assert train(photos, whole, *words, budget="4 epochs").code == 0
    names = operations.names
    first = min(place for place, name in enumerate(names) if "staged" in name)
    last = max(place for place, name in enumerate(names) if "staged" in name) + 3
    places = range(first, last) if is_whole else (first + 4, last - 4)
    expected = {state(path): path for path in (run, whole)}
    seen = set()
    for n in places:
        copy = copied(run, tmp_path / f"killed {n}" / "run")
        options = train_words(photos, copy, budget="4 epochs")
        assert command_killed_at_operation(n + 1, tmp_path / f"log {n}", *options) == -9
        assert goodfit("predict", copy, photos / "red" / "000.png").code == 0
        assert state(copy) in expected, n
        seen.add(expected[state(copy)].parent.name)
        assert goodfit(*options).code == 0 and state(copy) == state(whole)
        assert_equal_weights(whole, copy)
    print(f"{len(places)} kills among {last - first} file operations: {seen}")
    assert len(seen) == 2


def train_words(photos: Path, out: Path, **changes: str) -> list[str]:
    options = [word for key, value in {**FAST, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
    return ["train", str(photos), "--out", str(out), "--resume", "auto", *options]


def state(run: Path) -> tuple[Any, ...]:
    """What a run says of its model: the hash of the weights, the scores and the predictions."""
    config = json.loads((run / "config.json").read_text())
    return config["files"]["model.safetensors"], (run / "scores.json").read_bytes(), (run / "predictions.npz").read_bytes()[:200]


def test_the_log_is_on_the_disk_before_the_checkpoint_that_stands_on_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power is cut right after each checkpoint: no row is lost, and the run goes on to the weights of the whole one."""
    assert train(photos, tmp_path / "whole", save_every="3 steps", budget="3 epochs").code == 0
    synced, cuts, save = SyncedSizes(), list[Path](), Checkpoints.save

    def save_and_cut(self: Checkpoints, state: Any) -> None:
        save(self, state)
        run = self.folder.parent
        if not (tmp_path / f"cut {state.step}").exists():
            shutil.copytree(run, copy := tmp_path / f"cut {state.step}" / "run")
            status = (run / "log.jsonl").stat()
            os.truncate(copy / "log.jsonl", synced.sizes.get((status.st_dev, status.st_ino), 0))
            cuts.append(copy)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced.sync)
        patch.setattr(Checkpoints, "save", save_and_cut)
        assert train(photos, tmp_path / "run", save_every="3 steps", budget="3 epochs").code == 0
    assert len(cuts) > 5
    for copy in cuts[:: max(1, len(cuts) // 4)]:
        said = goodfit(*train_words(photos, copy, save_every="3 steps", budget="3 epochs"))
        assert said.code == 0 and "it lacks" not in said.err, said
        assert_equal_weights(tmp_path / "whole", copy)
        steps = [row["step"] for row in Run(copy).log("train")]
        assert steps == list(range(1, len(steps) + 1)) == [row["step"] for row in Run(tmp_path / "whole").log("train")]


def begin(photos: Path, out: Path, n: int, folder: Path) -> int:
    return command_killed_at_operation(n, folder, *train_words(photos, out))


@pytest.mark.parametrize("is_whole", [False, SLOW])
@pytest.mark.thorough
def test_a_run_that_was_killed_while_it_was_begun_is_begun_anew(photos: Path, tmp_path: Path, is_whole: bool) -> None:
    """By the same command, at file operations until its recipe.toml is there."""
    assert train(photos, tmp_path / "whole").code == 0
    begun = 0
    for n in itertools.count(1, 1 if is_whole else 7):
        out = tmp_path / f"run {n}"
        assert begin(photos, out, n, tmp_path / f"log {n}") == -9
        if (out / "recipe.toml").exists():
            break
        begun += out.exists()
        said: Said = train(photos, out)
        assert said.code == 0, (n, said)
        assert_equal_weights(tmp_path / "whole", out)
        assert not list(out.glob(".*.partial"))
    print(f"killed at up to {n} operations, {begun} times in a folder that was begun")
    assert begun


def test_what_another_start_has_left_is_not_used(photos: Path, tmp_path: Path) -> None:
    """Weights and parts of a start that was killed are not those of the run that is begun in its folder."""
    run = tmp_path / "run"
    assert train(photos, tmp_path / "whole").code == 0
    (run / "use").mkdir(parents=True)
    (run / "use" / "00-mine.py").write_text("raise RuntimeError('not of this run')")
    (run / "start.safetensors").write_bytes(b"x" * 100)
    (run / "about.json").write_text("{")
    (run / ".recipe.toml.99999999.partial").write_text("size = ")
    assert train(photos, run).code == 0
    assert not (run / "use").exists() and not (run / "start.safetensors").exists() and not list(run.glob(".*.partial"))
    assert goodfit("predict", run, photos / "red" / "000.png").code == 0
    assert_equal_weights(tmp_path / "whole", run)


def test_a_search_that_was_killed_while_it_was_begun_is_begun_anew(photos: Path, tmp_path: Path) -> None:
    """Its plan is there, but not yet the recipe that comes last."""
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "search.json").write_text('{"space": {}}')
    options = [word for key, value in FAST.items() if key != "budget" for word in (f"--{key.replace('_', '-')}", value)]
    more = ("--space", "lr=log(0.001, 0.1)", "--trials", "1", "--each", "1 epoch", "--full", "1 epoch", "--keep", "0")
    said = goodfit("search", photos, "--out", folder, *options, *more)
    assert said.code == 0, said
    assert json.loads((folder / "search.json").read_text())["space"] == {"lr": "log(0.001, 0.1)"}


@pytest.mark.parametrize("is_whole", [False, SLOW])
@pytest.mark.thorough
def test_an_ensemble_that_was_killed_while_it_was_made_is_made_anew(photos: Path, tmp_path: Path, is_whole: bool) -> None:
    """At file operations: its place is free, or it is whole."""
    for seed in ("0", "1"):
        assert train(photos, tmp_path / seed, seed=seed).code == 0
    members, whole = (tmp_path / "0", tmp_path / "1"), tmp_path / "whole"
    assert goodfit("ensemble", *members, "--out", whole).code == 0
    free = 0
    for n in itertools.count(1, 1 if is_whole else 9):
        out = tmp_path / f"made {n}"
        if command_killed_at_operation(n, tmp_path / f"log {n}", "ensemble", *members, "--out", out) != -9:
            break
        if not (out / "recipe.toml").exists():
            said = goodfit("ensemble", *members, "--out", out)
            assert said.code == 0, (n, said)
            free += 1
        assert not (tmp_path / f".{out.name}.partial").exists()
        files.remove_partials(out)
        found = [{str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (out, whole)]
        assert found[1] - {"report.html"} <= found[0] <= found[1], n  # `report` writes it, too
        assert goodfit("predict", out, photos / "red" / "000.png").out == goodfit("predict", whole, photos / "red" / "000.png").out
    print(f"killed at up to {n} operations, {free} times before the ensemble was whole")
    assert free > 3
