"""Runs on streamed shards: killed and resumed, in several processes, evaluated, and what a run on packed images would have been."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import goodfit
from goodfit.core.run import Run
from tests.support.command import goodfit as command
from tests.support.command import refused
from tests.support.process import start_command
from tests.support.ranks import train_in_ranks, weight_distance
from tests.support.runs import BASE, assert_equal_weights, train
from tests.support.shards import make_shards

CACHE = "0.0004"  # gigabytes, half of which holds three of the shards


def words_for(data: str, out: Path, **changes: str) -> list[str | Path]:
    options = [word for key, value in {**BASE, **changes}.items() for word in (f"--{key.replace('_', '-')}", value)]
    return ["train", data, "--out", out, "--resume", "auto", *options]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Eight shards that are copied into a cache of their own."""
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    make_shards(tmp_path / "shards", shards=8, each=30)
    return f"local://{tmp_path}/shards"


@pytest.mark.thorough
def test_killed_in_an_epoch_and_resumed_is_bit_equal(url: str, tmp_path: Path) -> None:
    changes = {"cache": CACHE, "budget": "2 epochs", "save_every": "1 step", "batch_size": "9"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert command(*words_for(url, whole, **changes, workers="3")).code == 0
    process = start_command(tmp_path / "first", *words_for(url, killed, **changes, workers="1"))
    try:
        while process.poll() is None and not any(int(p.stem) >= 20 for p in killed.glob("checkpoints/*.json")):
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.kill()
    steps = [row["step"] for row in Run(killed).log("train")]
    per_epoch = -(-Run(whole).read("about.json")["data"]["splits"]["train"] // 9)
    assert steps and steps[-1] % per_epoch, "it was killed within an epoch"
    said = command(*words_for(url, killed, **changes, workers="0"))
    assert said.code == 0 and "Continuing" in said.err, said
    assert_equal_weights(whole, killed)
    losses = [[(row["step"], row["loss"]) for row in Run(folder).log("train")] for folder in (whole, killed)]
    assert losses[0] == losses[1]


def test_a_streamed_run_is_scored_and_reported(url: str, tmp_path: Path) -> None:
    said = command(*words_for(url, tmp_path / "run", cache=CACHE))
    assert said.code == 0 and "Streamed from 8 training shards" in said.err, said
    run = Run(tmp_path / "run")
    assert run.scores["validation"]["accuracy"] > 0.7
    assert run.read("about.json")["recipe"]["storage"] == "stream"
    splits = (run.path / "splits.csv").read_text().splitlines()
    assert len(splits) == 241 and splits[0] == "path,label,split" and min(splits[1:]).startswith("0.tar/000000,blue,")
    assert goodfit.evaluate(run, test=True)["accuracy"] > 0.7
    assert command("report", run.path).code == 0 and (run.path / "report.html").exists()
    refused(command("audit", url, "--cache", CACHE), 2, "is streamed")


def test_it_trains_as_from_a_folder_here(url: str, tmp_path: Path) -> None:
    """Where the shards lie changes nothing: the same images, order and draws."""
    for name, data in {"here": str(tmp_path / "shards"), "there": url}.items():
        train(data, tmp_path / name, cache=CACHE, budget="2 epochs")  # type: ignore[arg-type]
    assert_equal_weights(tmp_path / "here", tmp_path / "there")
    digests = [Run(tmp_path / name).read("about.json")["data"]["digest"] for name in ("here", "there")]
    assert digests[0] == digests[1]


def test_a_resume_on_other_shards_is_refused(url: str, tmp_path: Path) -> None:
    words = words_for(url, tmp_path / "run", cache=CACHE, budget="2 epochs")
    assert command(*words).code == 0
    make_shards(tmp_path / "more", shards=9, each=30)
    (tmp_path / "more" / "8.tar").rename(tmp_path / "shards" / "7.tar")
    longer = words_for(url, tmp_path / "run", cache=CACHE, budget="3 epochs")
    refused(command(*longer), 3, "have changed since")


def test_a_resume_with_another_cache_is_refused(url: str, tmp_path: Path) -> None:
    """By it the images are mixed; a run on packed images may change it."""
    assert command(*words_for(url, tmp_path / "run", cache=CACHE, budget="2 epochs")).code == 0
    refused(command(*words_for(url, tmp_path / "run", cache="0.1", budget="3 epochs")), 2, "with another cache")
    assert command(*words_for(url, tmp_path / "run", cache=CACHE, budget="3 epochs")).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_several_processes_train_as_one(url: str, tmp_path: Path, ranks: int) -> None:
    changes = {**BASE, "cache": CACHE, "budget": "3 epochs", "batch_size": "64", "model": "convnet(4, act=gelu)", "optimizer": "sgd(0.02)"}
    one = train_in_ranks(1, url, tmp_path / "one", **changes)
    several = train_in_ranks(ranks, url, tmp_path / "several", **changes)
    assert weight_distance(one, several) < 1e-4
    losses = [[row["loss"] for row in Run(folder).log("train")] for folder in (one, several)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
