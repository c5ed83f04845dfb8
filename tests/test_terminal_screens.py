"""What a person sees on a terminal of 80 or 120 columns, with and without color: whole words, headers, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import time
from pathlib import Path

import pytest

from goodfit import Recipe, train
from goodfit.core.errors import GoodfitError
from tests.support.command import FAST
from tests.support.process import Forked
from tests.support.terminal import Screen

OPTIONS = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]
WIDTHS = pytest.mark.parametrize("columns", [80, 120])


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def words_of(lines: list[str]) -> list[str]:
    return " ".join(lines).split()


@WIDTHS
@pytest.mark.parametrize("no_color", [False, True])
@pytest.mark.thorough
def test_a_training(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int, no_color: bool) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    seen = Screen(tmp_path / "printed", columns, "train", photos, "--out", "run", *OPTIONS)
    assert seen.code == 0
    assert seen.lines[0].startswith("Reading "), "the spinner leaves nothing behind"
    assert not any(mark in "\n".join(seen.lines) for mark in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏━")
    assert all(len(line) <= columns for line in seen.lines)
    header = next(k for k, line in enumerate(seen.lines) if re.match(r" *step +time +loss +accuracy +loss +accuracy", line))
    assert seen.lines[header - 1].split() == ["training", "validation"]
    assert re.match(r" 50 % +\d+ .* %  best so far$", seen.lines[header + 1]), "better than before is visible"
    assert seen.lines[header + 2].startswith("100 %")
    assert seen.lines[-1] == "Report: run/report.html"
    network, images = (next(k for k, line in enumerate(seen.lines) if line.startswith(f"  {name}: ")) for name in ("network", "images"))
    assert images == network + 1 < header < network + 8, "a plan of a few lines"
    assert (seen.color_of("best so far") == "green") is not no_color
    assert (b"\x1b[3" in seen.written) is not no_color


def test_sentences_wrap_at_words(photos: Path, tmp_path: Path) -> None:
    """What stands on 300 columns stands on 80 in the same words, each whole."""
    chosen = ("precision", "layout", "threads", "model", "pieces")  # the rest is chosen, and said with its reasons, but not by speeds
    options = [word for key in chosen for word in (f"--{key}", {**FAST, "pieces": "1"}[key])]
    wide, narrow = (Screen(tmp_path / str(n), n, "train", photos, "--dry", *options) for n in (400, 80))
    assert len(narrow.lines) > len(wide.lines)
    assert all(len(line) <= 80 for line in narrow.lines)
    long = [word for word in words_of(wide.lines) if len(word) < 70]
    assert [word for word in words_of(narrow.lines) if len(word) < 70] == long
    assert any(line.startswith("      ") for line in narrow.lines), "what is wrapped is indented"


@WIDTHS
@pytest.mark.parametrize("words", [("describe", "lenet"), ("describe", "--compare", "lenet", "mlp(10)"), ("parts", "augment"), ("parts",)])
@pytest.mark.thorough
def test_results(tmp_path: Path, columns: int, words: tuple[str, ...]) -> None:
    whole = Screen(tmp_path / "wide", 400, *words)
    seen = Screen(tmp_path / "printed", columns, *words)
    assert (whole.code, seen.code) == (0, 0)
    assert all(len(line) <= columns for line in seen.lines)
    assert set(words_of(whole.lines)) <= set(words_of(seen.lines)), "no word is broken or lost"


@WIDTHS
def test_runs(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.chdir(tmp_path)
    assert Screen(tmp_path / "a", columns, "train", photos, "--out", "runs/one", *OPTIONS).code == 0
    assert Screen(tmp_path / "b", columns, "train", photos, "--out", "runs/two", "--seeds", "2", *OPTIONS).code == 0
    lines = Screen(tmp_path / "c", columns, "runs").lines
    assert lines[0].split() == ["run", "started", "data", "model", "state", "accuracy", "size"]
    assert [line.split()[0] for line in lines[1:3]] == ["runs/one", "runs/two"], "a line for each, one for the seeds together"
    assert "2 runs" in lines[2] or "runs)" in lines[3]
    assert all(len(line) <= columns for line in lines)


def test_quiet_is_quiet(photos: Path, tmp_path: Path) -> None:
    said = Screen(tmp_path / "a", 80, "train", photos, "--out", tmp_path / "run", "-q", *OPTIONS)
    assert re.sub(r"\S+/", "", " ".join(said.lines)).startswith("Validation accuracy 100.0 % (95 % interval")
    assert [line.split()[0] for line in said.lines if line[0] != " "] == ["Validation", "Run:", "Report:"], "the results, and nothing else"
    wrong = Screen(tmp_path / "b", 80, "train", tmp_path / "none", "--quiet")
    assert wrong.code == 3 and wrong.lines[0].startswith("goodfit: Expected images at"), "errors are said all the same"


def test_the_first_line_comes_before_torch(tmp_path: Path) -> None:
    seen = Screen(tmp_path / "a", 80, "predict", tmp_path / "none", "x.png")
    assert b"loading PyTorch" in seen.written
    assert seen.code == 2 and seen.lines[0].startswith("goodfit: "), "its place is taken"
    assert all(len(line) <= 80 or " " not in line.strip() for line in seen.lines), "errors wrap at words"


def fail_in_python(terminal: str, folder: Path) -> None:
    """A program at a terminal that catches the error of a training, and goes on."""
    os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), 2)
    with contextlib.suppress(GoodfitError):
        train(folder / "photos", Recipe(model="linear"), out=folder / "run")
    time.sleep(0.3)
    os.write(2, b"END")


def test_the_spinner_ends_with_its_function(tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "x.png").write_bytes(b"no image")
    head, tail = pty.openpty()
    process = Forked(tmp_path / "printed", fail_in_python, os.ttyname(tail), tmp_path)
    assert process.wait() == 0, process.err
    seen = os.read(head, 65536)
    os.close(head)
    os.close(tail)
    assert b"reading " in seen and seen.endswith(b"\x1b[KEND"), "it is erased, and does not come back"
