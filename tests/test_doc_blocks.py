"""Every block of code on every page runs, in its order, in a folder with what the page speaks of; budgets are cut short by one rule."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import goodfit
from goodfit.core.files import lock
from goodfit.core.run import LOCK_FILE, Run
from goodfit.recipe.parts import load_catalog, make_model
from tests.support.command import FAST
from tests.support.command import goodfit as command
from tests.support.pages import PAGES, blocks, table_commands
from tests.support.photos import COLORS, make_photos, picture
from tests.support.process import Forked, start_command, wait_until
from tests.support.server import ask

SHELL = ("console", "bash")
RUNNABLE = (*SHELL, "python", "toml")
WITH_BLOCKS = [page for page in PAGES if blocks(page, *RUNNABLE)]

# ---- the scale -----------------------------------------------------------------------------------------------------------------------

SHORTENED: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"--epochs (\d+)", lambda match: f"--budget '{1 + int(match[1]) // 10} steps'"),  # one that is extended is longer still
    (r'(search .*) --budget ".* min"', r"\1"),  # of which the trials are counted below
    (r'--budget ".* min"', "--budget '2 steps'"),
    (r"--trials \d+ --workers \d+", "--trials 2"),  # a worker takes as long to start as all else
    (r"--from resnet18:imagenet", "--from runs/pets"),  # would be fetched
    (r"--from net.pth", r"\g<0> --size 32"),
    (r'"\d+ epochs?"', '"1 epoch"'),  # in Python
]
# What is added to a command that does not say it; what is not left open is not measured on this machine, which takes seconds.
UNMEASURED = {"--threads": "1", "--precision": "fp32", "--layout": "channels_last"}
SMALL = {"--limit": "12", "--batch-size": "16", **UNMEASURED}
ADDED = {
    "train": {"--budget": "2 steps", **SMALL},
    "search": {"--trials": "2", "--each": "1 step", "--full": "1 step", "--keep": "1", "--seeds": "1", **SMALL},
    "lr": {"--steps": "20", **SMALL},
    "advise": SMALL,
    "features": SMALL,
    "board": {"--port": "0"},
    "serve": {"--port": "0"},
}
AS_WRITTEN = ("docs/tutorial.md", "docs/stream.md")  # pages whose commands are not cut short, since they say what comes of them
DEAR = {"export"}  # verbs that the slow test runs as well: torch takes ten seconds to write ONNX

SERVER_PATHS = {"serve": "/health", "board": "/"}  # of verbs that answer until they are stopped, a path that each answers

# First words of lines that are not run here, and why.
NOT_RUN = {
    "make": "it makes an environment; CI runs it",
    "git": "there is no network",
    "pip": "there is no network",
    "python3": "it makes an environment",
    "source": "it changes the shell alone",
    "torchrun": "it starts several processes",
}


def shorten(text: str) -> str:
    for pattern, replacement in SHORTENED:
        text = re.sub(pattern, replacement, text)
    return text


def words_of(text: str, as_written: bool = False) -> list[str]:
    """The words of a command, shortened or not."""
    words = shlex.split(text if as_written else shorten(text), comments=True)
    added = ADDED.get(words[1], {}) if words[0] == "goodfit" else {}
    if as_written:
        added = {option: value for option, value in added.items() if option in UNMEASURED}
    given = {*words, *(f"--{word.partition('=')[0].replace('_', '-')}" for word in words if "=" in word)}  # by --set, too
    return words + [word for option, value in added.items() if option not in given for word in (option, value)]


# ---- what the pages speak of -----------------------------------------------------------------------------------------------------------


def make_jpegs(folder: Path) -> None:
    """Photos of three classes, as a camera names them."""
    for file in make_photos(folder, each=16, side=72).rglob("*.png"):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()


def make_net(file: Path) -> None:
    """The state of a ResNet-18 with 1000 classes, as training scripts save it."""
    model = make_model(load_catalog().make("resnet(18)", "model"), 1000, 3, (64, 64))
    torch.save(model.state_dict(), file)


def make_run(folder: Path) -> None:
    if not folder.exists():  # else a command of the page has made it
        goodfit.train("photos", goodfit.Recipe(seed=ord(folder.name)).but_text(FAST), out=folder)


def write_part(file: Path) -> None:
    (block,) = blocks("CONTRIBUTING.md", "python")
    file.write_text(block.text)


MADE: dict[str, Callable[[Path], object]] = {
    "photos/": make_jpegs,
    "a.jpg": lambda path: Image.fromarray(picture(COLORS["red"], 1)).save(path),
    "b.png": lambda path: Image.fromarray(picture(COLORS["blue"], 2)).save(path),
    "net.pth": make_net,
    "my_parts.py": write_part,
    **{f"runs/{name}": make_run for name in "abc"},
}


def make_named(texts: list[str], everything: bool = False) -> None:
    """Make what the texts speak of."""
    for name, make in MADE.items():
        if everything or any(re.search(rf"\b{name}", shorten(text)) for text in texts):
            make(Path(name))


@contextlib.contextmanager
def training(run: Run) -> Iterator[None]:
    """The run counts as one that is training now, as `steer` expects."""
    state = run.read("about.json")["state"]
    run.update("about.json", {"state": "running"})
    with lock(run.path / LOCK_FILE):
        yield
    run.update("about.json", {"state": state})


# ---- running ---------------------------------------------------------------------------------------------------------------------------


def run_command(text: str, shown: list[str], as_written: bool = False) -> None:
    """A command of ours ends with 0 and prints each line that is shown below it, by its words in their order; figures may differ."""
    words = words_of(text, as_written)
    if words[0] in NOT_RUN:
        return
    assert words[0] == "goodfit", f"{text}: run it here, or say in NOT_RUN why not"
    if words[1] in SERVER_PATHS:
        serve_and_stop(words)
        return
    with training(Run.open(words[2])) if words[1] == "steer" else contextlib.nullcontext():
        said = command(*words[1:])
    assert said.code == 0, f"{text}\n{said.err}"
    assert "Traceback" not in said.err
    printed = [letters(line) for line in (said.out + said.err).splitlines()]
    for line in shown:
        assert any(is_in_order(letters(line), other) for other in printed), f"{text}: {line}\n{said.out}{said.err}"


def serve_and_stop(words: list[str]) -> None:
    """A server answers, and ends when it is told to."""
    process = start_command(Path(f"{words[1]}-output"), *words[1:])
    wait_until(lambda: process.out.startswith("http") or process.poll() is not None)
    assert process.poll() is None, process.err
    assert ask(process.out.strip(), SERVER_PATHS[words[1]]).status == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143, process.err


def letters(line: str) -> list[str]:
    """The words of a line of output, without its figures."""
    return re.findall(r"[^\W\d]+", line)


def is_in_order(words: list[str], among: list[str]) -> bool:
    """Whether the words stand in this order among others."""
    rest = iter(among)
    return all(word in rest for word in words)


def run_recipe(text: str, whole: bool) -> None:
    """A recipe trains; the presets are large, so that a plan is enough for the quick test."""
    Path("shown.toml").write_text(text)
    said = command(*words_of("goodfit train photos --recipe shown.toml --budget '1 step'")[1:], *([] if whole else ["--dry"]))
    assert said.code == 0, f"{text}\n{said.err}"


def run_python(code: str, folder: Path) -> Forked:
    done = Forked(folder, exec, shorten(code), {"__name__": "__main__"})
    assert done.wait() == 0, done.err
    return done


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "whole"])
@pytest.mark.parametrize("page", [page if page == "README.md" else pytest.param(page, marks=pytest.mark.thorough) for page in WITH_BLOCKS])
def test_the_blocks_of_a_page_run_in_their_order(page: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.syspath_prepend(tmp_path / "home")
    shown = blocks(page, *RUNNABLE)
    make_named([block.text for block in shown], everything=any(block.language == "toml" for block in shown))
    for language, group in itertools.groupby(shown, key=lambda block: block.language):
        texts = list(group)
        if language == "python":  # blocks in a row go on from each other
            run_python("\n".join(block.text for block in texts), tmp_path / "printed")
        elif language == "toml":
            for block in texts:
                run_recipe(block.text, whole)
        else:
            for text, output in (pair for block in texts for pair in block.commands):
                if whole or not DEAR.intersection(words_of(text)[1:2]):
                    run_command(text, output, page in AS_WRITTEN)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if table_commands(page)])
def test_the_commands_in_the_tables_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_named(table_commands(page), everything=True)
    run_command('goodfit train photos/ --model "convnet(4)" --size 16 --out runs/pets', [])
    for text in table_commands(page):
        run_command(text, [])


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_first_python_of_a_page_runs_alone(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, pasted as it stands."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    done = run_python(blocks(page, "python")[0].text, tmp_path / "printed")
    assert len(list(Path("runs").glob("*-digits/model.safetensors"))) == 1
    assert str(next(Path("runs").glob("*-digits"))) in done.out
