"""Several processes as our own launcher starts them: errors are said once, signals reach all, and the killed are started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from goodfit.core.run import Run, is_busy
from goodfit.runs.launch import exit_code_of, find_killed
from tests.support.command import FAST, goodfit, refused
from tests.support.process import Forked, start_command, wait_until
from tests.support.ranks import environment_of
from tests.support.runs import assert_equal_weights

# Parts that act in one rank, from a third of the training on, the first time only: they fail as bad data does, or are killed.
PARTS = '''
import dataclasses, os, pathlib, signal, time
from goodfit.core.contracts import Augment
from goodfit.core.errors import DataError

@dataclasses.dataclass(frozen=True)
class Fails(Augment):
    """Fails in one rank."""
    def __call__(self, batch, chance, t):
        if os.environ.get("RANK") == os.environ["FAILING"] and t > 0.3:
            raise DataError("A picture is upside down.")
        return batch

@dataclasses.dataclass(frozen=True)
class Dies(Augment):
    """Is killed in one rank, once for each of its times."""
    def __call__(self, batch, chance, t):
        for share in os.environ.get("TIMES", "").split():
            file = pathlib.Path(os.environ["MARKS"]) / share
            if os.environ.get("RANK") == os.environ["FAILING"] and t >= float(share) and not file.exists():
                file.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return batch

@dataclasses.dataclass(frozen=True)
class Hangs(Augment):
    """Stops in one rank."""
    def __call__(self, batch, chance, t):
        if os.environ.get("RANK") == "1" and t > 0.3:
            if os.environ["HANG"] == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)
        return batch

@dataclasses.dataclass(frozen=True)
class Waits(Augment):
    """Takes its time."""
    def __call__(self, batch, chance, t):
        time.sleep(0.05)
        return batch
'''
KILLS = int(os.environ.get("KILLS", "5"))  # of the slow test at random moments; KILLS=100 takes a quarter of an hour
QUICK = {**FAST, "budget": "8 epochs", "limit": "8", "batch_size": "32", "save_every": "1 step"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("parts") / "my_parts.py"
    file.write_text(PARTS)
    return file


def words_of(out: Path, parts: Path, augment: str, **changes: str) -> list[str]:
    options = {**QUICK, "augment": augment, **changes}
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    return ["train", "digits", "--out", str(out), "--use", str(parts), *words]


def launch(folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, processes: int = 2, **environment: str) -> Forked:
    """Start the command in so many processes."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return start_command(folder / "output", *words, "--processes", str(processes))


@pytest.mark.parametrize("failing", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_an_error_in_one_process_ends_all_with_its_sentence_once(
    failing: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = launch(tmp_path, words_of(tmp_path / "run", parts, "fails"), monkeypatch, FAILING=failing)
    assert launcher.wait() == 3, launcher.err
    assert launcher.err.count("upside down") == 1, launcher.err
    assert launcher.err.splitlines()[-1] == "goodfit: A picture is upside down."
    assert "Traceback" not in launcher.err and "elastic" not in launcher.err
    assert not workers_left(tmp_path)
    run = Run(tmp_path / "run")
    assert run.read("about.json")["state"] in ("failed", "running") and not is_busy(run)


def workers_left(folder: Path) -> list[int]:
    """The processes that train in a folder still."""
    return [process.pid for process in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(process.info["cmdline"] or [])]


@pytest.mark.slow
def test_an_error_before_the_training_is_said_once(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes but the first wait for it; it fails alone."""
    words = words_of(tmp_path / "run", parts, "none", class_weights="seven-and-a-half=2")
    launcher = launch(tmp_path, words, monkeypatch)
    assert launcher.wait() == 2
    assert launcher.err.count("seven-and-a-half") == 1 and "Traceback" not in launcher.err, launcher.err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "state"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_saves_once(number: int, code: int, state: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    launcher = launch(tmp_path, words_of(run.path, parts, "waits", budget="300 epochs"), monkeypatch)
    wait_until(lambda: any(run.checkpoints.glob("*.json")))
    launcher.send_signal(number)
    assert launcher.wait() == code, launcher.err
    assert run.read("about.json")["state"] == state
    assert launcher.err.count("everything is saved") == 1 and "Traceback" not in launcher.err
    last = max(int(path.stem) for path in run.checkpoints.glob("*.json"))
    assert f"at step {last:,}" in launcher.err.splitlines()[-1]
    assert not workers_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["0", "1"])
def test_killed_processes_start_again_and_lose_nothing(failing: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    monkeypatch.setenv("FAILING", failing)
    launcher = launch(tmp_path / "a", words_of(whole, parts, "dies"), monkeypatch, TIMES="", MARKS=str(tmp_path))
    assert launcher.wait() == 0, launcher.err
    monkeypatch.setenv("TIMES", "0.2 0.6")
    launcher = launch(tmp_path / "b", words_of(tmp_path / "killed", parts, "dies"), monkeypatch)
    assert launcher.wait() == 0, launcher.err
    assert launcher.err.count("was killed by SIGKILL: all start again") == 2
    assert_equal_weights(whole, tmp_path / "killed")
    told = [[(row["step"], row["loss"]) for row in Run(path).log("train")] for path in (whole, tmp_path / "killed")]
    assert told[0] == told[1]


def ranks_of(launcher: Forked) -> dict[int, psutil.Process]:
    """The processes that a launcher has started and that live, by their rank."""
    found = {}
    for process in psutil.Process(launcher.pid).children():
        with contextlib.suppress(psutil.Error, KeyError):
            found[int(process.environ()["RANK"])] = process
    return found


def newest_step(run: Path) -> int:
    return max((int(path.stem) for path in run.glob("checkpoints/*.json")), default=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_kills_at_random_moments_lose_nothing(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any rank, in the start or some steps later, in the middle of a step, a message or a checkpoint: from outside, with -9."""
    rng, killed = random.Random(0), Counter[int]()
    runs = {name: tmp_path / name for name in ("whole", "killed")}
    changes = {"budget": f"{20 + 5 * KILLS} steps", "model": "convnet(4)", "optimizer": "sgd(0.05, momentum=0.9)"}
    words = {name: [*words_of(run, parts, "flip | crop(2) | waits", **changes), "--restarts", "1000"] for name, run in runs.items()}
    assert launch(tmp_path / "a", words["whole"], monkeypatch).wait(600) == 0
    launcher = launch(tmp_path / "b", words["killed"], monkeypatch)
    wait_until(lambda: newest_step(runs["killed"]) > 0)
    while killed.total() < KILLS:
        aim = newest_step(runs["killed"]) + rng.randrange(0, 9)
        wait_until(lambda aim=aim: newest_step(runs["killed"]) >= aim and len(ranks_of(launcher)) == 2)  # type: ignore[misc]
        time.sleep(rng.random() * 0.1)
        rank, process = rng.choice(sorted(ranks_of(launcher).items()))
        process.kill()
        killed[rank] += 1
        wait_until(lambda process=process: process not in ranks_of(launcher).values())  # type: ignore[misc]
    assert launcher.wait(600) == 0, launcher.err
    print(f"{killed.total()} kills, by rank: {dict(killed)}")
    assert_equal_weights(runs["whole"], runs["killed"])
    told = [[(row["step"], row["loss"]) for row in Run(run).log("train")] for run in runs.values()]
    assert told[0] == told[1] and set(killed) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hang", "says"),
    [("sleep", "which is in 00-my_parts.py, line "), ("stop", "which gives no sign of life; it was last seen in ")],
)
def test_the_watchdog_names_the_rank_that_the_others_wait_for(
    hang: str, says: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = launch(tmp_path, words_of(tmp_path / "run", parts, "hangs"), monkeypatch, HANG=hang, GOODFIT_STEP_TIMEOUT="3")
    assert launcher.wait() == 1, launcher.err
    assert launcher.err.count("have waited for") == 1 and "Traceback" not in launcher.err
    assert "for rank 1 (process " in launcher.err and says in launcher.err, launcher.err


@pytest.mark.slow
def test_one_that_is_killed_again_and_again_is_given_up(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*words_of(tmp_path / "run", parts, "dies"), "--restarts", "1"]
    launcher = launch(tmp_path, words, monkeypatch, FAILING="1", TIMES="0.2 0.4 0.6", MARKS=str(tmp_path))
    assert launcher.wait() == 1
    assert launcher.err.splitlines()[-1] == (
        "goodfit: Process 1 of 2 was killed by SIGKILL, after 1 restart: the same command with --resume auto continues."
    )


def test_numbers_of_processes_that_make_no_sense(tmp_path: Path) -> None:
    refused(
        goodfit("train", "digits", "--out", tmp_path / "run", "--processes", "0"), 2, "Expected --processes to be 1 or more, received 0"
    )
    with environment_of(0, 4, 1):
        refused(goodfit("train", "digits", "--processes", "2"), 2, "Expected no --processes under torchrun, which started 4")


def test_one_that_the_launcher_kills_is_not_the_cause() -> None:
    assert find_killed({0: (1, 100), 1: (-9, 101)}) == 1
    assert find_killed({0: (1, 100), 1: (-9, 130)}) is None
    assert find_killed({0: (3, 100), 1: (-15, 100)}) is None


@pytest.mark.parametrize(
    ("codes", "code"),
    [([3, -15], 3), ([1, 2], 2), ([1, 143], 1), ([143, -15], 143), ([130, 1], 130), ([4, 4], 4)],
)
def test_the_exit_code_is_that_of_the_cause(codes: list[int], code: int) -> None:
    assert exit_code_of(codes) == code
