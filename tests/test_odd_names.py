"""Names with bytes that are no UTF-8, control characters, line breaks and marks of direction: trained, stored and printed."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodfit.core.escapes import escape_controls, escape_name, format_csv, plain_name, restore_name
from goodfit.data.table import read_table
from goodfit.recipe.recipe import Recipe
from goodfit.report.markup import join
from goodfit.terminal.reporter import TerminalReporter
from tests.support.command import goodfit, train
from tests.support.photos import picture

CLASSES = {"caf\udce9": (200, 50, 40), "a\x1b]0;title\x07\x1b[2Jb": (40, 180, 60), "<b>\x9b2J\u202e\nevil": (40, 60, 200)}
FILE = "r\rn\nf\udcff\\udce9.png"
# What a terminal obeys, and what UTF-8 lacks; written apart from the table of the code.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such names are of Linux")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd") / "da\x1b[31mta\udce9"
    for k, (name, color) in enumerate(CLASSES.items()):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(picture(color, 100 * k + i)).save(file := io.BytesIO(), "PNG")
            (root / name / (FILE if i == 0 else f"{i}.png")).write_bytes(file.getvalue())
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    said = train(data, out)
    assert said.code == 0, said
    assert not OBEYED.search(said.out + said.err)
    assert r"caf\udce9" in said.err and r"a\x1b]0;title\x07\x1b[2Jb" in said.err
    return out


def names_of(data: Path) -> set[str]:
    return {file.relative_to(data).as_posix() for file in data.rglob("*.png")}


def test_what_is_stored_is_utf8_and_exact(data: Path, run: Path) -> None:
    for file in run.rglob("*.*"):
        if file.suffix in (".json", ".jsonl", ".toml", ".csv", ".html"):
            file.read_bytes().decode()
    assert set(json.loads((run / "config.json").read_text())["label_names"]) == set(CLASSES)
    table = read_table(run / "splits.csv")
    assert set(table.column("path")) == names_of(data)
    assert set(table.column("label")) == set(CLASSES)
    assert Recipe.of_run(run).data == str(data.resolve())


def test_the_recipe_and_the_splits_of_a_run_train_again(data: Path, run: Path, tmp_path: Path) -> None:
    said = goodfit("train", "--recipe", run / "recipe.toml", "--validation", run / "splits.csv", "--out", tmp_path / "again")
    assert said.code == 0, said
    assert (tmp_path / "again" / "splits.csv").read_bytes() == (run / "splits.csv").read_bytes()


def test_the_report_escapes_names(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<b>\x9b" not in page
    assert r"&lt;b&gt;\x9b2J\u202e" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    assert join(["a\x1b\n<"]) == r"a\x1b" + "\n&lt;"


@pytest.mark.parametrize(
    "words", [("evaluate", "RUN"), ("report", "RUN"), ("compare", "RUN"), ("runs", "PARENT"), ("predict", "RUN", "DATA")]
)
def test_nothing_is_printed_that_a_terminal_obeys(data: Path, run: Path, words: tuple[str, ...]) -> None:
    places = {"RUN": str(run), "PARENT": str(run.parent), "DATA": str(data)}
    said = goodfit(*(places.get(word, word) for word in words))
    assert said.code == 0, said
    assert not OBEYED.search(said.out + said.err)
    assert words[0] != "predict" or len(said.out.splitlines()) == len(names_of(data)), "a line for each image"


def test_errors_are_one_line(data: Path, run: Path) -> None:
    said = goodfit("predict", run, "no\x1b[2J\n\udce9.png")
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert r'"no\x1b[2J\n\udce9.png"' in said.sentence


def test_predictions_for_programs_are_exact(data: Path, run: Path) -> None:
    paths = {str(data / name) for name in names_of(data)}
    rows = json.loads(goodfit("predict", run, data, "--json").out)
    assert ({row["name"] for row in rows}, set(rows[0]["classes"])) == (paths, set(CLASSES))
    said = goodfit("predict", run, data, "--csv").out
    said.encode()
    table = list(csv.DictReader(io.StringIO(said, newline="")))
    assert {restore_name(row["name"]) for row in table} == paths
    assert {restore_name(row["class"]) for row in table} == set(CLASSES)


def test_the_run_is_named_without_them(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert goodfit("train", data, "--epochs", "1", "--model", "linear", "--size", "16", "--limit", "3").code == 0
    (made,) = (path.name for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    assert made.endswith("-da_[31mta_")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127], ids=["letters", "bytes"])
def test_a_folder_with_the_longest_name(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its run has a shorter one; and a file with so long a name is written, through a temporary one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / name).mkdir()
    for label in ("red", "blue"):
        (tmp_path / "real" / name / label).symlink_to(photos / label)
    said = goodfit("train", tmp_path / "real" / name, "--epochs", "1", "--model", "linear", "--size", "16", "--limit", "3")
    assert said.code == 0, said
    (made,) = (path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    html = tmp_path / f"{name[:120]}{name[:120]}.html" if name[0] == "x" else tmp_path / f"{name[:120]}.html"
    assert goodfit("compare", made, "--html", html).code == 0
    assert html.is_file()


# ---- the functions -----------------------------------------------------------------------------------------------------------------


def test_escaped_names_are_restored_exactly() -> None:
    """For names made of all that could be mistaken for an escape."""
    rng = np.random.default_rng(0)
    pieces = ["\\", "u", "005c", "dce9", "\\udce9", "\\u005c", "\udce9", "\ud83d", "\ude00", "é", "🐱", "n", "\\U"]
    names = {"".join(rng.choice(pieces, rng.integers(0, 6))) for _ in range(2000)}
    for name in names:
        text = escape_name(name)
        text.encode()
        assert restore_name(text) == name
    assert escape_name("C:\\photos\\user é") == "C:\\photos\\user é", "ordinary names stay"


def test_escape_controls() -> None:
    assert escape_controls("a\tb\nc\x1b[0m\x85\u202e\u2028é🐱\u200d\xa0") == r"a\tb\nc\x1b[0m\x85\u202e\u2028" + "é🐱\u200d\xa0"
    every = "".join(map(chr, range(0x110000)))
    assert not OBEYED.search(escape_controls(every))


def test_plain_name() -> None:
    assert plain_name("photos") == "photos"
    assert plain_name("a\x1b\udce9/é") == "a__/é"
    assert len(plain_name("é" * 200).encode()) <= 160


@pytest.mark.parametrize("cell", ["a,b", 'a"b', "a\rb", "a\nb", "a\r\nb", "", " a ", "é🐱", "\x1b"])
def test_csv_is_read_back(cell: str) -> None:
    text = format_csv([("x", cell), (cell, 1.5)])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["x", cell], [cell, "1.5"]]
    assert format_csv([("a", 1), ("b", 2)]) == "a,1\nb,2"


def test_the_reporter_says_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither emoji codes nor markup are read in them, and each line stays one."""
    TerminalReporter().say("[red]:cat: a\nb", "second")
    assert capsys.readouterr().err == "[red]:cat: a\\nb\nsecond\n"
