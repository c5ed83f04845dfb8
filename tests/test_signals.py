"""Ctrl-C and SIGTERM at every stage of a command: exit 130 or 143 with a sentence, no traceback, and nothing half written."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goodfit.core.run import Run
from tests.support.command import FAST, copied, goodfit, refused, train
from tests.support.process import Forked

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
BEFORE = [  # where packing and what comes before the run is made are stopped
    "goodfit.data.folder._walk_images",
    "goodfit.data.headers._read_all",
    "goodfit.data.pack._prepare_piece",
    "goodfit.data.pack.write_facts",
    "goodfit.data.splits._hold_out",
    "goodfit.recipe.prepare.build",
]
AFTER = [  # the same of what comes after the last step
    "goodfit.runs.finish.keep_model",
    "goodfit.runs.finish.write_pictures",
    "goodfit.runs.baselines.compute_baselines",
    "goodfit.runs.finish.write_report",
]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Any:
    """SIGINT is heeded, even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(photos, out).code == 0
    return out


def send_within(patch: pytest.MonkeyPatch, place: str, number: int) -> None:
    """Send the signal to this process when the function is first called, in whatever thread."""
    module, _, name = place.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)

    calls = itertools.count()

    def send_and_call(*arguments: Any, **more: Any) -> Any:
        if next(calls) == 0:
            os.kill(os.getpid(), number)
        return function(*arguments, **more)

    patch.setattr(place, send_and_call)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("place", BEFORE)
def test_before_the_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int, code: int) -> None:
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        send_within(patch, place, number)
        refused(train(photos, tmp_path / "run"), code, "images that were packed so far stay packed")
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob(".*.partial"))
    assert train(photos, tmp_path / "run").code == 0


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("place", AFTER)
def test_after_the_last_step(photos: Path, finished: Path, tmp_path: Path, place: str, number: int, code: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        send_within(patch, place, number)
        refused(train(photos, tmp_path / "run"), code, f'with "--resume auto --out {tmp_path / "run"}" continues from there')
    run = Run(tmp_path / "run")
    assert run.read("about.json")["state"] in ("interrupted" if code == 130 else "terminated", "finished")
    assert not list(run.path.rglob(".*.partial"))
    assert train(photos, run.path, "--resume", "auto").code == 0
    assert run.read("about.json")["state"] == "finished"
    assert (run.path / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize(
    ("verb", "place"),
    [
        ("evaluate", "goodfit.runs.evaluate.score_views"),
        ("predict", "goodfit.data.folder.find_images"),
        ("predict", "goodfit.predict.predictor.read_contents"),
        ("report", "goodfit.report.page.render_report"),
        ("compare", "goodfit.study.compare.compare_runs"),
    ],
)
def test_other_verbs(photos: Path, finished: Path, tmp_path: Path, verb: str, place: str, number: int, code: int) -> None:
    run = copied(finished, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        send_within(patch, place, number)
        refused(goodfit(verb, run, *([photos / "red"] if verb == "predict" else [])), code, "Stopped;")


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_that_turned_into_another_error(finished: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    def lose(_: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        raise ImportError("half a module")

    monkeypatch.setattr("goodfit.cli.runs.summarize_runs", lose)
    refused(goodfit("runs", finished.parent), code, "Stopped;")


def test_what_a_process_was_started_to_ignore_stays_ignored(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SIGINT is by what a script runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for place in ("goodfit.data.splits._hold_out", "goodfit.runs.train.fit", "goodfit.runs.finish.keep_model"):
        send_within(monkeypatch, place, signal.SIGINT)
    assert train(photos, tmp_path / "run").code == 0


# ---- at once: in a process of their own ----------------------------------------------------------------------------------------------


class Finalized:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def stop_in_a_finalizer(folder: str) -> None:
    listing = importlib.import_module("goodfit.cli.runs")

    def finalize(_: object) -> list[object]:
        Finalized()
        return []

    listing.summarize_runs = finalize  # type: ignore[attr-defined]
    run_main("runs", folder)


def stop_twice(folder: str) -> None:
    listing = importlib.import_module("goodfit.cli.runs")

    def stop(_: object) -> list[object]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return []

    listing.summarize_runs = stop  # type: ignore[attr-defined]
    run_main("runs", folder)


def stop_while_loading(folder: str) -> None:
    mine = Path(folder) / "mine.py"
    mine.write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(5)\n")
    run_main("parts", "--use", str(mine))


def run_main(*words: str) -> None:
    from goodfit.cli import main

    sys.argv = ["goodfit", *words]
    main()


@pytest.mark.parametrize(("function", "code"), [(stop_in_a_finalizer, 130), (stop_twice, 143), (stop_while_loading, 143)])
def test_at_once(tmp_path: Path, function: Callable[[str], None], code: int) -> None:
    process = Forked(tmp_path / "printed", function, str(tmp_path))
    assert (process.wait(), process.out) == (code, ""), process.err
    (line,) = process.err.splitlines()
    assert line.startswith("goodfit: Stopped;")


# The process says when its first line runs: what Python does before that is not ours.
READY = "import sys\nfrom goodfit.cli import main\nprint('ready', flush=True)\nsys.argv = ['goodfit', *sys.argv[1:]]\nmain()"


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize(
    "seconds", [0.03, 0.4, *(pytest.param(0.1 * k, marks=pytest.mark.slow) for k in (1, 2, 3, *range(5, 30)))], ids=lambda x: f"{x:g}"
)
def test_at_any_moment(photos: Path, tmp_path: Path, seconds: float, number: int, code: int) -> None:
    """A whole process, from the first import on."""
    options = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]
    words = [sys.executable, "-c", READY, "train", photos, "--out", tmp_path / "run", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    ended = [0, -number] if "Report: " in out else [0] if (tmp_path / "run").exists() else []  # Python itself dies of one at its very end
    assert process.returncode in (code, *ended), err
    assert "Traceback" not in err
    assert process.returncode in (0, -number) or err.splitlines()[-1].startswith("goodfit: Stopped")


# As the command's own first line: what is imported after it is stopped with a sentence, too.
FIRST_LINE = (
    "import sys\nimport goodfit.__main__ as command\nprint('ready', flush=True)\nsys.argv = ['goodfit', *sys.argv[1:]]\ncommand.main()"
)


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize(
    "seconds", [0.0, 0.02, 0.5, *(pytest.param(0.05 * k, marks=pytest.mark.slow) for k in range(1, 40))], ids=lambda x: f"{x:g}"
)
def test_in_the_first_seconds_and_again_and_again(photos: Path, tmp_path: Path, seconds: float, times: int) -> None:
    """Whoever presses Ctrl-C five times hears one sentence."""
    options = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]
    words = [sys.executable, "-c", FIRST_LINE, "train", photos, "--out", tmp_path / "run", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 or (process.returncode == 0 and (tmp_path / "run" / "report.html").exists()), err
    assert "Traceback" not in err
    assert process.returncode != 130 or [line.startswith("goodfit: Stopped") for line in err.splitlines()].count(True) == 1, err
