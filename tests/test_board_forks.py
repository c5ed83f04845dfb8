"""A page forks a run: what it may not ask for, what is started, what is told of its end; and the fork goes on without the board."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goodfit.board.forks import FIELDS, LOG_SUFFIX, MAX_FORKS, Fork, Forks, find_rate
from goodfit.core.checkpoint_files import saved_steps
from goodfit.core.run import Run
from goodfit.optim.first_order import Adam
from goodfit.recipe.recipe import Recipe
from tests.support.board import Asked, open_board
from tests.support.fake_run import make_run
from tests.support.process import start_command, wait_until


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    """A run that has checkpoints, one that has none, and a link that leads nowhere."""
    shutil.copytree(source, tmp_path / "runs" / "colors")
    make_run(tmp_path / "runs" / "bare", steps=60)
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "runs"


@pytest.fixture
def asked(root: Path) -> Iterator[Asked]:
    with open_board(root) as asked:
        yield asked
        for fork in asked.board.watcher.forks._forks.values():
            fork.process.kill()
            fork.process.wait()


def ask(asked: Asked, values: Any = None, name: Any = "new", step: Any = None, run: str = "colors") -> Any:
    return asked.post("/api/fork", {"values": values or {}, "name": name, "step": step}, run=run)


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"values": {field: "x"}}, f'"{field}"') for field in ("use", "source", "data", "out", "fork", "model", "device", "validation")),
    ({"values": {"optimizer": "torch.optim.SGD(lr=0.1)"}}, "torch.optim.SGD"),
    ({"values": {"optimizer": "'torch.optim.SGD(lr=0.1)'"}}, "torch.optim.SGD"),
    ({"values": {"optimizer": "sam(my.code.Step(0.1))"}}, "my.code.Step"),
    ({"values": {"augment": "flip | my.code.Noise"}}, "my.code.Noise"),
    ({"values": {"optimizer": "sgdd(0.1)"}}, "sgdd"),
    ({"values": {"budget": "for ever"}}, "for ever"),
    ({"values": {"clip": "-1"}}, "clip"),
    ({"values": {"clip": 1}}, "clip"),
    ({"values": {"schedule": "constant\n"}}, "schedule"),
    ({"values": {"schedule": " "}}, "schedule"),
    *(({"values": {"lr": text}}, text) for text in ("0", "-1", "nan", "inf", "--help")),
    ({"values": {"lr": "0.1", "optimizer": "sgd(0.1)"}}, "both"),
    ({"values": ["lr"]}, "values"),
    *(({"name": name}, "name") for name in ("../x", "a/b", "", ".x", "-x", "..", "x.", "x\0", "x" * 121, "board.json", None, 3)),
    *(({"name": name}, "already") for name in ("bare", "link")),
    ({"step": 7}, "checkpoint"),
    ({"step": "1"}, "checkpoint"),
    ({"step": True}, "checkpoint"),
    ({"step": []}, "checkpoint"),
    ({"run": "bare"}, "checkpoint"),
    ({"run": "../runs/colors/.."}, "name of a run"),
]


def test_what_a_page_may_not_ask_for_is_refused_and_starts_nothing(asked: Asked, root: Path) -> None:
    before = sorted(path.name for path in root.iterdir())
    for given, part in REFUSED:
        answer = ask(asked, **given) if given.get("run") != "bare" else asked.client.get("/api/fork", params=given)
        assert answer.status_code == 422 and part in answer.json()["error"] and answer.json()["error"].endswith("."), (given, answer.text)
    assert ask(asked, step=float(saved_steps(root / "colors" / "checkpoints")[-1])).status_code == 422
    assert sorted(path.name for path in root.iterdir()) == before and not asked.board.watcher.forks._forks


def test_what_is_offered_are_the_checkpoints_and_the_values_of_the_recipe(asked: Asked, root: Path) -> None:
    offered = asked.get("/api/fork", run="colors")
    assert offered["steps"] == sorted(int(file.stem) for file in (root / "colors" / "checkpoints").glob("*.safetensors"))
    values = {field["name"]: field["value"] for field in offered["fields"]}
    plain = Recipe.of_run(root / "colors").plain()
    assert values.pop("lr") == "0.05"
    assert values == {field: str(plain[field]) for field in FIELDS} and all(field["help"] for field in offered["fields"])


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        ("sgd(0.05)", "0.05"),
        ("adam(betas=(0.9, 0.99), lr=2e-3)", "0.002"),
        ("sam(sgd(0.1))", ""),
        ("newton", "1.0"),
        ("a.b(lr=1)", ""),
        ("", ""),
    ],
)
def test_the_rate_of_an_optimizer_is_what_the_option_would_replace(optimizer: str, rate: str) -> None:
    assert find_rate(optimizer) == rate


def test_the_rate_that_is_not_given_is_the_default() -> None:
    assert find_rate("adam") == find_rate("adam()") == str(Adam().lr)


def test_a_board_of_one_run_forks_nothing_into_it(root: Path) -> None:
    with open_board(root / "colors") as asked:
        assert "board of one run" in ask(asked, run=".").json()["error"]


def test_a_fork_that_ends_badly_says_why_and_is_begun_again(asked: Asked, root: Path) -> None:
    recipe = root / "colors" / "recipe.toml"
    recipe.write_text(re.sub(r'^data = ".*"', 'data = "/no/such/images"', recipe.read_text(), flags=re.MULTILINE))
    (root / f"new{LOG_SUFFIX}").symlink_to(root / "bare" / "about.json")  # is not followed
    for name in ("new", "new"):
        assert ask(asked, name=name).status_code == 200
        wait_until(lambda: bool(asked.board.watcher.forks.alerts()))
    asked.client.portal.call(asked.board.watcher.refresh)  # type: ignore[union-attr]
    (alert,) = [alert for alert in asked.get("/api/runs")["alerts"] if alert["cause"].startswith("fork")]
    assert (alert["run"], alert["severity"], alert["cause"]) == ("colors", "error", "fork new")
    assert alert["evidence"].startswith('The fork "new" ended with exit code 3: ') and "/no/such/images" in alert["evidence"]
    assert "/no/such/images" in (root / f"new{LOG_SUFFIX}").read_text() and not (root / "new").exists()
    assert Run(root / "bare").read("about.json")


def test_only_some_train_at_a_time(asked: Asked, root: Path) -> None:
    for k in range(MAX_FORKS):
        assert ask(asked, name=f"new{k}").json()["command"].endswith("--trust=tests")  # as the board itself does here
    assert "already" in ask(asked, name="new0").json()["error"]
    answer = ask(asked, name="more")
    assert answer.status_code == 500 and f"at most {MAX_FORKS}" in answer.json()["error"]
    forks = asked.board.watcher.forks
    process = forks._forks["new0"].process
    assert os.getsid(process.pid) == process.pid  # signals to the board's session do not reach it
    process.kill()
    process.wait()
    assert [alert.evidence for alert in forks.alerts()] == ['The fork "new0" was killed by SIGKILL.']
    assert ask(asked, name="more").status_code == 200


@pytest.mark.parametrize(("code", "is_bad"), [(0, False), (1, True), (4, True), (130, False), (143, False)])
def test_an_end_that_was_asked_for_is_no_alert(root: Path, code: int, is_bad: bool) -> None:
    forks = Forks(root)
    forks._forks["bare"] = Fork("colors", subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]))
    forks._forks["bare"].process.wait()
    alerts = [(alert.run, alert.evidence) for alert in forks.alerts()]  # of its own run, where there is one
    assert alerts == [("bare", f'The fork "bare" ended with exit code {code}: it said nothing.')] * is_bad


@pytest.mark.thorough
def test_a_fork_goes_on_when_the_board_is_killed(root: Path, tmp_path: Path) -> None:
    """It goes on from the checkpoint that was chosen, with the settings that were given; its log begins with the rows that led there."""
    step = saved_steps(root / "colors" / "checkpoints")[0]
    board = start_command(tmp_path / "out", "board", root, "--port", "0")
    try:
        wait_until(lambda: board.out.endswith("\n") or board.poll() is not None)
        url = board.out.strip()
        with urllib.request.urlopen(url, timeout=20) as page:
            token = re.search(r'name="board-token" content="([^"]+)"', page.read().decode())
        assert token
        values = {"lr": "0.0125", "budget": "4 epochs", "schedule": "warmup(0.1) | constant"}
        body = json.dumps({"step": step, "values": values, "name": "new-1.b"}).encode()
        request = urllib.request.Request(url + "api/fork?run=colors", body, {"X-Board-Token": token[1]}, method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            begun = json.load(answer)
    finally:
        os.kill(board.pid, signal.SIGKILL)
        board.kill()
    settings = ["--set", "budget=4 epochs", "--set", "schedule=warmup(0.1) | constant", "--lr", "0.0125"]
    words = ["goodfit", "train", "--fork", f"{root / 'colors'}@{step}", *settings, "--out", str(root / "new-1.b")]
    assert (begun["name"], shlex.split(begun["command"])) == ("new-1.b", words)
    run, origin = Run(root / "new-1.b"), Run(root / "colors")
    log = root / f"new-1.b{LOG_SUFFIX}"
    wait_until(lambda: run.read("about.json").get("state", "running") != "running" or "goodfit: " in log.read_text(), 120)
    assert run.read("about.json").get("state") == "finished", log.read_text()
    rows = [row for row in origin.log() if row["step"] <= step]
    assert run.log()[: len(rows)] == rows and len(rows) > 1
    assert max(row["lr"] for row in run.log("train") if row["step"] > step) == pytest.approx(0.0125)
    wait_until(lambda: str(run.path) in log.read_text())  # its last line
