"""What stdout and stderr may be: of another encoding, full, closed, left by their reader, not there at all, or no files."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import goodfit as package
from goodfit.core.errors import GoodfitError
from goodfit.recipe.recipe import Recipe
from goodfit.terminal.streams import print_exact, print_lines, print_message
from tests.support.command import FAST, copied, goodfit, goodfit_to, train
from tests.support.photos import picture

FULL = Path("/dev/full")
COMMANDS = [
    ("predict", "RUN", "IMAGE"),
    ("predict", "RUN", "IMAGE", "--json"),
    ("predict", "RUN", "IMAGE", "--csv"),
    ("evaluate", "RUN", "--json"),
    ("runs", "PARENT"),
    ("parts",),
    ("parts", "--json"),
    ("describe", "linear"),
    ("describe", "linear", "--csv"),
    ("report", "RUN"),
    ("compare", "RUN"),
    ("--help",),
]


needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no device that is full")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for k, name in enumerate(("🐱 cat", "Hündin")):
        (root / name).mkdir()
        for i in range(8):
            Image.fromarray(picture((200 * k, 90, 40), 100 * k + i)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(data, out).code == 0
    return out


@pytest.fixture
def places(data: Path, finished: Path, tmp_path: Path) -> dict[str, str]:
    run = copied(finished, tmp_path / "runs" / "run")
    return {"RUN": str(run), "PARENT": str(run.parent), "IMAGE": str(data / "🐱 cat" / "0.png"), "DATA": str(data)}


@pytest.fixture
def left_pipe() -> Iterator[Any]:
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        yield stream


@needs_full
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_results_that_cannot_be_written_are_a_sentence(places: dict[str, str], words: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        said = goodfit_to(full, *(places.get(word, word) for word in words))
    assert (said.code, said.sentence) == (
        1,
        "goodfit: The results cannot be written to stdout (No space left on device): redirect it to a file that can be written.",
    )
    assert not list(Path(places["RUN"]).rglob("*partial*")), "no half file"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_has_left_is_no_error(places: dict[str, str], left_pipe: Any, words: tuple[str, ...]) -> None:
    said = goodfit_to(left_pipe, *(places.get(word, word) for word in words))
    assert (said.code, said.sentence.startswith("goodfit: ")) == (0, False)


def test_no_stdout_at_all(places: dict[str, str]) -> None:
    said = goodfit_to(None, "predict", places["RUN"], places["IMAGE"])
    assert (said.code, said.sentence) == (
        1,
        "goodfit: The results cannot be written to stdout (there is none): redirect it to a file that can be written.",
    )


@needs_full
@pytest.mark.parametrize("target", ["/dev/full", "pipe"])
def test_a_whole_process_leaves_no_word_of_python(places: dict[str, str], left_pipe: Any, target: str) -> None:
    """Nor when Python closes the streams at its end; and with stderr as broken the exit code stays."""
    with FULL.open("w") as full:
        stream = full if target == "/dev/full" else left_pipe
        words = [sys.executable, "-m", "goodfit", "runs", places["PARENT"]]
        done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == ((1, 1) if target == "/dev/full" else (0, 0)), done.stderr
        words = [sys.executable, "-m", "goodfit", "runs", "nowhere"]
        assert subprocess.run(words, stdout=subprocess.DEVNULL, stderr=stream, check=False).returncode == 3


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8", "cp932"])
@pytest.mark.parametrize("form", ["--csv", "--json", "--top=2"])
def test_any_encoding(places: dict[str, str], encoding: str, form: str) -> None:
    """What it lacks is escaped, and all lines are there."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    said = goodfit_to(stream, "predict", places["RUN"], places["DATA"], form)
    assert said.code == 0, said
    text = raw.getvalue().decode(encoding)
    if form == "--json":
        assert {name for row in json.loads(text) for name in row["classes"]} == {"🐱 cat", "Hündin"}
    elif form == "--csv":
        names = {row["class"] for row in csv.DictReader(io.StringIO(text))}
        assert names == {name.encode(encoding, "backslashreplace").decode(encoding) for name in ("🐱 cat", "Hündin")}
        assert len(text.splitlines()) == 1 + 2 * 16
    else:
        assert len(text.splitlines()) == 16


class Bare:
    """A stream of a notebook: it can be written, and no more is known of it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


@needs_full
@pytest.mark.parametrize("kind", ["none", "bare", "closed", "full", "left", "ascii"])
def test_training_goes_on_whatever_stderr_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_pipe: Any, kind: str
) -> None:
    closed, ascii_stream = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    closed.close()
    with FULL.open("w") as full:
        stream = {"none": None, "bare": Bare(), "closed": closed, "full": full, "left": left_pipe, "ascii": ascii_stream}[kind]
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "ps1", "In : ", raising=False)  # as in a notebook
        run = package.train(data, Recipe().but_text(FAST), out=tmp_path / "run")
        print_message("more")
        monkeypatch.undo()
    assert run.read("about.json")["state"] == "finished"
    if kind == "bare":
        assert "Validation accuracy" in stream.text
    if kind == "ascii":
        assert rb"\U0001f431 cat" in ascii_stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_printing_into_memory(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines("a\x1b", "b\nc")
    print_exact("d\x1b\ne")
    print_message("f\r")
    assert capsys.readouterr() == ("a\\x1b\nb\\nc\nd\x1b\ne\n", "f\\r\n")


def test_what_the_machine_refuses_is_a_sentence(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a name that is too long; with GOODFIT_TRACEBACK its traceback."""
    said = goodfit("report", "x" * 300)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "File name too long" in said.err
    monkeypatch.setenv("GOODFIT_TRACEBACK", "1")
    with pytest.raises(OSError, match="File name too long"):
        goodfit("report", "x" * 300)


def test_a_part_longer_than_a_path_is_described() -> None:
    text = f"convnet(8, {'pool=max,':<300} norm=batch)"
    assert goodfit("describe", text, "--size", "16").out == goodfit("describe", "convnet(8)", "--size", "16").out


# ---- the process around ------------------------------------------------------------------------------------------------------------


def test_no_home(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    """A user without an account, and a home that cannot be written: one sentence names GOODFIT_CACHE, XDG_CACHE_HOME is enough."""
    monkeypatch.delenv("GOODFIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "home", home)
        said = train(data, tmp_path / "run")
        assert (said.code, said.sentence) == (
            1,
            "goodfit: Expected a home folder for the cache, found none: set GOODFIT_CACHE to a folder.",
        )
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert train(data, tmp_path / "run").code == 0
        assert (tmp_path / "xdg" / "goodfit" / "packed").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = train(data, tmp_path / "other")
    assert (said.code, "set GOODFIT_CACHE to a folder that can be" in said.sentence) == (1, True), said


def predict_in_child(predictor: Any, files: list[Path], answers: Any) -> None:
    answers.put([x.probabilities for x in predictor.predict(files)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_predicting_after_a_fork(data: Path, finished: Path) -> None:
    """The parent has computed with two threads, which its fork does not have."""
    files = sorted(data.rglob("*.png")) * 5
    predictor = package.load(finished)
    torch.set_num_threads(2)
    torch.randn(512, 512) @ torch.randn(512, 512)  # starts the threads
    expected = [x.probabilities for x in predictor.predict(files)]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=predict_in_child, args=(predictor, files, answers))
    child.start()
    try:
        found = answers.get(timeout=30)
    finally:
        child.kill()
        child.join()
    assert found == [pytest.approx(x, abs=1e-6) for x in expected]


def test_results_are_an_error_of_ours() -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(GoodfitError, match="there is none"):
        patch.setattr(sys, "stdout", None)
        print_lines("a")
