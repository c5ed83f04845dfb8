"""The board reads logs as they grow, lists runs as they change, and touches neither."""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodfit.board.curves import MAX_POINTS, read_curves
from goodfit.board.images import find_images
from goodfit.board.log_columns import MAX_LOGS, LogColumns, Logs
from goodfit.board.run_index import SILENT_SECONDS, RunIndex, read_held_locks
from goodfit.core.errors import DataError, UsageError
from goodfit.core.files import lock
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import LOCK_FILE, Run
from goodfit.report.record import read_record
from tests.support.fake_run import log_lines, make_run
from tests.support.fake_study import make_ensemble, make_folds, make_search


def write_log(path: Path, rows: list[dict[str, Any]]) -> bytes:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(content)
    return content


def points_of(log: LogColumns) -> list[Any]:
    return [log.points(split, name, "step") for split in ("train", "validation", "clean_train") for name in ("loss", "accuracy", "lr")]


# ---- logs --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_log_that_grows_in_pieces_reads_as_the_whole(tmp_path: Path, seed: int) -> None:
    """Cut at any byte, within a line too."""
    content, file, draw = write_log(tmp_path / "whole.jsonl", log_lines(200, 4)), tmp_path / "log.jsonl", random.Random(seed)
    log, end = LogColumns(file), 0
    while end < len(content):
        end = min(len(content), end + draw.randrange(1, 9000))
        file.write_bytes(content[:end])
        log.update()
    whole = LogColumns(tmp_path / "whole.jsonl")
    whole.update()
    assert points_of(log) == points_of(whole)
    expected = [(row["step"], row["loss"]) for row in log_lines(200, 4) if row["kind"] == "train"]
    assert whole.points("train", "loss", "step") == expected


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    rows = log_lines(20, 2)[:-1]  # the last is an evaluation
    content = write_log(tmp_path / "log.jsonl", rows)
    (tmp_path / "log.jsonl").write_bytes(content[:-5])
    log = LogColumns(tmp_path / "log.jsonl")
    log.update()
    before = len(log.evaluations["validation"])
    (tmp_path / "log.jsonl").write_bytes(content)
    log.update()
    assert len(log.evaluations["validation"]) == before + 1


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_log_that_is_cut_back_is_read_anew(tmp_path: Path, is_replaced: bool) -> None:
    """As by a run that is resumed from an earlier step: its file is replaced, even by one that is longer already."""
    rows, file = log_lines(100, 2), tmp_path / "log.jsonl"
    write_log(file, rows)
    log = LogColumns(file)
    log.update()
    others = [row | {"loss": 9.0} for row in rows[: 110 if is_replaced else 40] if row["kind"] == "train"]
    write_log(tmp_path / "new", [*others, *others] if is_replaced else others)
    if is_replaced:
        (tmp_path / "new").replace(file)
    else:
        file.write_bytes((tmp_path / "new").read_bytes())
    log.update()
    assert {y for _, y in log.points("train", "loss", "step")} == {9.0}


def test_odd_rows_are_passed_over(tmp_path: Path) -> None:
    good = {"kind": "train", "step": 1, "loss": 1.0}
    odd = b'\xff\xfe\n[1]\n{"kind": 3}\nnull\n{"kind": "train"}\n' + b"[" * 100_000 + b"\n"
    more = [{"kind": "train", "step": 2, "loss": None}, {"kind": "train", "step": 3, "loss": "x", "extra": {"a": 1.0, "b": 3.0, "c": 7.0}}]
    (tmp_path / "log.jsonl").write_bytes(odd + "".join(json.dumps(row) + "\n" for row in [good, *more]).encode())
    log = LogColumns(tmp_path / "log.jsonl")
    log.update()
    assert log.points("train", "loss", "step") == [(1, 1.0), (2, None), (3, None)]
    assert log.points("train", "extra", "step") == [(1, None), (2, None), (3, 3.0)]


def test_epochs_are_counted_as_in_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=240)
    log = LogColumns(run.path / "log.jsonl")
    log.update()
    assert log.steps_per_epoch == read_record(run).steps_per_epoch == 20
    assert log.points("validation", "loss", "epoch")[0][0] == 1.0


def test_curves_are_as_small_as_a_screen_and_keep_peaks(tmp_path: Path) -> None:
    rows = [{"kind": "train", "step": k, "loss": 1.0} for k in range(1, 10_001)]
    rows[6543]["loss"] = 99.0
    (tmp_path / "a").mkdir()
    write_log(tmp_path / "a" / "log.jsonl", rows)
    logs = Logs()
    (curve,) = read_curves(logs, [tmp_path / "a"], "loss", points=300)[0]["curves"]
    assert len(curve["x"]) <= 300 and max(curve["y"]) == 99.0
    (near,) = read_curves(logs, [tmp_path / "a"], "loss", points=300, window=(6500.0, 6600.0))[0]["curves"]
    assert near["x"] == list(range(6499, 6602))
    (most,) = read_curves(logs, [tmp_path / "a"], "loss", points=10**9)[0]["curves"]
    assert len(most["x"]) <= MAX_POINTS
    smooth, raw = read_curves(logs, [tmp_path / "a"], "loss", smoothing=0.1)[0]["curves"]
    assert (smooth["split"], raw["split"]) == ("train", "raw") and max(smooth["y"]) < 1.2
    with pytest.raises(UsageError, match="Expected up to 18 runs"):
        read_curves(logs, [tmp_path / "a"] * 19, "loss")


def test_logs_in_memory_are_bounded(tmp_path: Path) -> None:
    logs = Logs()
    for k in range(MAX_LOGS + 5):
        logs.read(tmp_path / str(k))
    assert len(logs._logs) == MAX_LOGS and tmp_path / "0" not in logs._logs


# ---- the list ----------------------------------------------------------------------------------------------------------------------


def test_the_list_has_runs_and_studies_with_their_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "alone")
    make_folds(tmp_path / "folds")
    make_search(tmp_path / "search")
    make_ensemble(tmp_path / "team")
    (tmp_path / "photos").mkdir()
    rows = {row["key"]: row for row in RunIndex(tmp_path).rows()}
    kinds = {key: (row["kind"], row["study"]) for key, row in rows.items()}
    folds = {f"folds/fold-{k}": ("run", "folds") for k in (1, 2, 3)}
    others = {"folds": ("folds", ""), "search": ("search", ""), "alone": ("run", ""), "team": ("run", "")}
    assert kinds == folds | others
    assert rows["folds"]["runs"] == 3 and rows["folds"]["value"] == pytest.approx(0.85)
    assert rows["alone"]["value"] == Run(tmp_path / "alone").read("scores.json")["validation"]["accuracy"]
    assert rows["team"]["model"] == "ensemble"
    assert "clip = 1.0" in rows["alone"]["recipe"] and "seed" not in rows["alone"]["recipe"]


def test_a_run_that_changes_is_read_anew_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    index = RunIndex(tmp_path)
    assert index.rows()[0]["state"] == "finished"
    run.update("about.json", {"state": "diverged"})
    assert index.rows()[0]["state"] == "diverged"
    (run.path / "about.json").write_text("{")
    assert index.rows()[0]["state"] == "damaged"


@pytest.mark.skipif(read_held_locks() is None, reason="this system lists no locks")
def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    """And no lock is taken to tell it: a training that starts meanwhile would find its run taken."""
    run = make_run(tmp_path / "a")
    run.update("about.json", {"state": "running"})
    old = time.time() - SILENT_SECONDS - 60
    index = RunIndex(tmp_path)
    assert index.rows()[0]["state"] == "running"
    (run.path / "checkpoints").mkdir()
    with lock(run.path / LOCK_FILE):
        for path in (run.path / "log.jsonl", run.path / "checkpoints", run.path):
            os.utime(path, (old, old))
        row = index.rows()[0]
        assert row["state"] == "running" and row["t"] == 1.0 and row["step"] == 2400
    for path in (run.path / "log.jsonl", run.path / "checkpoints", run.path):
        os.utime(path, (old, old))
    assert index.rows()[0]["state"] == "killed"


def test_keys_lead_nowhere_else(tmp_path: Path) -> None:
    make_run(tmp_path / "outside")
    make_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "runs" / "latest").symlink_to("a")
    index = RunIndex(tmp_path / "runs")
    assert [row["key"] for row in index.rows()] == ["a"]
    assert index.find("a") == index.find("latest") == tmp_path / "runs" / "a"
    for key in ("../outside", "link", "/etc", "a/../../outside", str(tmp_path / "outside"), "a\0", "", "x" * 5000, "a/checkpoints"):
        with pytest.raises(UsageError, match="Expected the name of a run"):
            index.find(key)
    with pytest.raises(DataError, match="Expected a folder of runs"):
        RunIndex(tmp_path / "nothing")


# ---- images ------------------------------------------------------------------------------------------------------------------------


def test_images_by_loss_by_doubt_and_by_pair(tmp_path: Path) -> None:
    """Against the definitions, in plain Python."""
    rng = np.random.default_rng(0)
    raw = rng.random((50, 3)) ** 3
    probabilities, labels = (raw / raw.sum(1, keepdims=True)).astype(np.float32), rng.integers(0, 3, 50)
    names = np.array([f"{'cat' if k % 2 else 'Dog'}/{k:02}.jpg" for k in range(50)])
    Predictions(names, labels, probabilities, ("a", "b", "c")).save(tmp_path / PREDICTIONS_FILE)
    rows = [(name, p.tolist(), int(k)) for name, p, k in zip(names, probabilities, labels, strict=True)]
    wrong = sorted((r for r in rows if r[1].index(max(r[1])) != r[2]), key=lambda r: math.log(r[1][r[2]]))
    found = find_images(tmp_path, "worst", count=60)
    assert [x["name"] for x in found["images"]] == [r[0] for r in wrong] and found["total"] == len(wrong)
    doubtful = sorted(rows, key=lambda r: max(r[1]) - sorted(r[1])[-2])
    assert [x["name"] for x in find_images(tmp_path, "doubtful", start=3, count=5)["images"]] == [r[0] for r in doubtful[3:8]]
    pair = {r[0] for r in rows if r[2] == 0 and r[1].index(max(r[1])) == 2}
    assert {x["name"] for x in find_images(tmp_path, "name", "a", "c", count=60)["images"]} == pair
    assert {x["name"] for x in find_images(tmp_path, "name", text="dog", count=60)["images"]} == set(names[::2])
    with pytest.raises(UsageError, match="has kept its predictions"):
        find_images(tmp_path / "none")
