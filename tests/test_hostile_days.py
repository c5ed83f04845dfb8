"""Days on which the clock is set, images go, and files of a run are damaged: each is named or does not matter."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import goodfit
from goodfit.core import progress
from goodfit.core.progress import steady_time
from goodfit.core.run import Run
from tests.support.command import goodfit as command
from tests.support.command import goodfit_to, refused, train
from tests.support.photos import make_photos
from tests.support.runs import assert_equal_weights, recipe

# ---- the clock ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [86400.0, pytest.param(-86400.0, marks=pytest.mark.slow)])
def test_a_clock_that_is_set_does_not_move_a_budget_in_minutes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """It is set by a day when rows are logged, and back again the next time."""
    monkeypatch.setattr("goodfit.runs.train.baselines.compute_baselines", lambda *_: {"rows": []})
    append, set_by, true_time = Run.append, [0.0], time.time

    def append_and_set(run: Run, lines: list[dict[str, Any]]) -> None:
        append(run, lines)
        set_by[0] = jump - set_by[0]

    monkeypatch.setattr(Run, "append", append_and_set)
    monkeypatch.setattr(time, "time", lambda: true_time() + set_by[0])
    began = time.monotonic()
    run = goodfit.train(photos, recipe(budget="5 s", evaluate_every="0.2"), out=tmp_path / "run", quiet=True)
    assert time.monotonic() - began < 30
    about, rows = run.read("about.json"), run.log("train")
    assert about["state"] == "finished" and all(0 <= seconds < 30 for seconds in about["seconds"].values())
    elapsed = [row["elapsed"] for row in rows]
    assert elapsed == sorted(elapsed) and elapsed[0] > 0 and elapsed[-1] < 30
    assert [row["t"] for row in rows] == sorted(row["t"] for row in rows) and rows[-1]["t"] > 0.3


def test_the_steady_time_is_the_time_of_day_until_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(steady_time() - time.time()) < 60
    before = steady_time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= steady_time() - before < 60 and progress.steady_time is steady_time


# ---- images that go while they are read ------------------------------------------------------------------------------------------------


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


@pytest.mark.parametrize(("damage", "reason"), [(lose, "cannot be read (No such file or directory)"), (cut, "it cannot be decoded")])
@pytest.mark.parametrize("augment", ["none", "resized_crop"])
def test_an_image_that_goes_under_storage_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, reason: str, augment: str
) -> None:
    """And when it is back, the run goes on to the weights of one that never missed it."""
    photos, append = make_photos(tmp_path / "photos", each=12), Run.append
    kept = Path(shutil.copytree(photos, tmp_path / "kept"))
    options = {"storage": "files", "augment": augment, "save_every": "1 step", "budget": "4 epochs"}
    assert train(photos, tmp_path / "whole", **options).code == 0

    def append_and_lose(run: Run, lines: list[dict[str, Any]]) -> None:
        append(run, lines)
        for file in photos.rglob("*.png"):
            if file.name == "003.png" and any(line["step"] >= 3 for line in lines):
                damage(file)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append", append_and_lose)
        said = train(photos, tmp_path / "run", **options)
    refused(said, 3, '/003.png" was read before, but now', reason, "restore it")
    shutil.rmtree(photos)
    shutil.copytree(kept, photos)
    assert train(photos, tmp_path / "run", "--resume", "auto", **options).code == 0
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")


# ---- what a terminal obeys -------------------------------------------------------------------------------------------------------------

CLEAR = "\x1b[2J\x9b2K\u202e"


class Terminal(io.StringIO):
    """A stream at which somebody looks."""

    def isatty(self) -> bool:
        return True


def test_no_control_sequence_of_a_name_reaches_a_terminal(tmp_path: Path) -> None:
    """Names of classes and images, through every form of output; what is no terminal gets the names as they are."""
    photos = make_photos(tmp_path / "photos", each=8)
    (photos / "red").rename(photos / f"red{CLEAR}")
    image = (photos / f"red{CLEAR}" / "000.png").rename(photos / f"red{CLEAR}" / f"a{CLEAR}.png")
    run = tmp_path / "run"
    said = train(photos, run)
    assert said.code == 0
    for words in (
        ("predict", run, image, "--csv"), ("predict", run, image), ("predict", run, image, "--json"), ("evaluate", run),
        ("evaluate", run, "--json"), ("audit", photos), ("runs", tmp_path), ("compare", run, run), ("report", run),
    ):  # fmt: skip
        terminal = Terminal()
        said = goodfit_to(terminal, *words)
        assert not set("\x1b\x9b\u202e") & set(terminal.getvalue() + said.err), words
    assert CLEAR in command("predict", run, image, "--csv").out
