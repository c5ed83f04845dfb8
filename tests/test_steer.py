"""Steering a running training by hand: what is asked for takes effect at the next step, stands in log and recipe, and is done again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from goodfit import api
from goodfit.core.errors import UsageError
from goodfit.core.files import lock
from goodfit.core.ranks import Ranks
from goodfit.core.run import LOCK_FILE, STEERING_FOLDER, Run
from goodfit.core.steering import post, send
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.run_recipe import trained_recipe
from goodfit.runs import train as runs
from goodfit.training.rules.sync import Average
from goodfit.training.steering import Orders, Steering, commands_in
from tests.support.command import goodfit, refused, train
from tests.support.damage import DAMAGES
from tests.support.loop import net, plan, run, sgd, told
from tests.support.runs import assert_equal_weights

TRAINED = {"model": "convnet(4)", "augment": "flip | crop(2)", "optimizer": "sgd(0.05, momentum=0.9)", "budget": "4 epochs"}


def spelled(steering: Steering) -> list[str]:
    return [str(command) for command in steering.commands]


def at_steps(monkeypatch: pytest.MonkeyPatch, acts: dict[int, Callable[[Run], object]]) -> None:
    """Do something to a run once the row of a step is in its log; what is done leaves the dictionary."""
    append = Run.append

    def append_and_act(run: Run, lines: list[dict[str, Any]]) -> None:
        append(run, lines)
        for step in sorted(acts):
            if any(line["step"] >= step for line in lines):
                acts.pop(step)(run)

    monkeypatch.setattr(Run, "append", append_and_act)


def asking(command: str, factor: float | None = None) -> Callable[[Run], object]:
    return lambda run: send(run, command, factor)


def events(run: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["text"]) for row in Run(run).log("event")]


# ---- letters -----------------------------------------------------------------------------------------------------------------------


def test_a_command_takes_effect_at_the_step_at_which_it_is_read(tmp_path: Path) -> None:
    recorded: list[tuple[Any, ...]] = []
    steering = Steering(tmp_path, record=recorded.append)
    assert steering(3) == Orders()
    for command, factor in (("lr", 0.5), ("snapshot", None), ("lr", 0.5)):
        post(tmp_path, command, factor)
    assert steering(4) == Orders(0.25, snapshot=True)
    assert spelled(steering) == ["lr(0.5, step=4)", "lr(0.5, step=4)", "snapshot(4)"] and recorded == [steering.commands]
    assert not list(tmp_path.glob("*.json")), "what is recorded needs no letter"
    assert steering(5) == Orders(0.25) and len(recorded) == 1
    post(tmp_path, "finish")
    assert steering(6) == Orders(0.25, finish=True)
    again = Steering(tmp_path, commands_in(load_catalog().make(" | ".join(spelled(steering)), "steering")))
    assert [again(step) for step in range(3, 8)] == [
        Orders(), Orders(0.25, snapshot=True), Orders(0.25), Orders(0.25, finish=True), Orders(0.25)
    ]  # fmt: skip


@pytest.mark.parametrize("killed", ["before it is recorded", "before its letter is removed"])
def test_a_kill_neither_loses_a_command_nor_repeats_it(tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The letter has its step already: the next process reads the rest of it at a step before or after."""
    kept: list[tuple[Any, ...]] = [()]

    def record(commands: tuple[Any, ...]) -> None:
        if killed == "before it is recorded":
            raise KeyboardInterrupt
        kept.append(commands)

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    steering = Steering(tmp_path, record=record)
    post(tmp_path, "lr", 0.5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("goodfit.training.steering.remove", die)
        steering(7)
    resumed = Steering(tmp_path, kept[-1], kept.append)
    assert resumed(5).lr_factor == 1.0 and resumed(7).lr_factor == 0.5
    assert [str(command) for command in kept[-1]] == ["lr(0.5, step=7)"] and not list(tmp_path.glob("*.json"))


def test_the_same_command_as_the_run_that_is_repeated_is_another(tmp_path: Path) -> None:
    steering = Steering(tmp_path, commands_in(load_catalog().make("lr(0.5, step=4)", "steering")))
    post(tmp_path, "lr", 0.5)
    assert steering(4).lr_factor == 0.5 and steering(5).lr_factor == 0.25


def test_letters_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    (tmp_path / "0000.json").write_text('{"factor": 0.5, "step": 3}')
    (tmp_path / "0001.json").write_text('{"factor": 0.1}')
    steering = Steering(tmp_path)
    assert steering(2).lr_factor == 0.1 and steering(3).lr_factor == 0.05


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "deleted"])
def test_a_damaged_letter_is_ignored_with_a_word(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    for factor in (0.5, 0.25):
        post(tmp_path, "lr", factor)
    DAMAGES[damage](tmp_path / "0000.json", random.Random(damage))
    steering = Steering(tmp_path, warn=said.append)
    assert steering(6).lr_factor in ((0.25,) if damage != "another's content" else (0.25, 0.0625))
    assert len(said) == 1 and said[0].startswith(f'Warning: "{tmp_path / "0000.json"}" does not read (')
    assert said[0].endswith("Until then it is ignored.")


@pytest.mark.parametrize(
    "content",
    ["{}", '{"factor": 0}', '{"factor": -1}', '{"factor": "a"}', '{"factor": true}', '{"factor": 1e999}', "[", '{"command": "fly"}',
     '{"command": "snapshot", "factor": 2}', '{"command": []}', '{"factor": 0.5, "step": -1}', '{"factor": 0.5, "step": "7"}'],
)  # fmt: skip
def test_what_is_no_command_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "0000.json").write_text(content)
    said: list[str] = []
    steering = Steering(tmp_path, warn=said.append)
    assert [steering(step) for step in range(3)] == [Orders()] * 3 and len(said) == 1
    post(tmp_path, "lr", 0.5)
    assert steering(3).lr_factor == 0.5 and len(said) == 1


def test_what_cannot_be_asked_for_is_said(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(photos, out).code == 0
    refused(goodfit("steer", out, "--rate", "0.1"), 2, "training now", "it is finished")
    refused(goodfit("steer", out, "--rate", "0"), 2, "to be above 0")
    refused(goodfit("steer", out), 2, "Expected one of --rate, --snapshot", "received none")
    refused(goodfit("steer", out, "--pause", "--stop"), 2, "received 2")
    refused(goodfit("steer", tmp_path / "other", "--stop"), 2, "Expected a run folder")
    Run(out).update("about.json", {"state": "running"})
    refused(goodfit("steer", out, "--rate", "0.1"), 2, "was killed: --resume auto continues it")
    with lock(out / LOCK_FILE):
        assert "will be multiplied by 0.1" in goodfit("steer", out, "--rate", "0.1").out
        refused(goodfit("steer", out, "--continue"), 2, "to be paused, but it is not")
        assert "will save and wait" in goodfit("steer", out, "--pause").out
        assert "paused" in goodfit("runs", tmp_path).out
        refused(goodfit("steer", out, "--pause"), 2, "not to be paused, but it is")
        assert "goes on" in api.steer(out, "continue")
        with pytest.raises(UsageError, match='Did you mean "finish"'):
            api.steer(out, "finsh")
        with pytest.raises(UsageError, match="Expected a factor beside the command lr alone"):
            api.steer(out, "snapshot", 2.0)
    assert Steering(out / STEERING_FOLDER)(3).lr_factor == 0.1


# ---- a training that is steered -----------------------------------------------------------------------------------------------------


@pytest.mark.item("S101")
def test_a_change_of_the_rate_takes_effect_at_the_next_step_and_again_in_a_rerun(tmp_path: Path) -> None:
    state, steering = sgd(net(), lr=1e-2), Steering(tmp_path)

    def halt() -> bool:
        if state.step == 7 and not steering.commands:
            post(tmp_path, "lr", 0.1)
        return False

    rows = run(state, plan(), halt=halt, steering=lambda step: halt() or steering(step))
    assert told(rows, "lr") == pytest.approx([1e-2] * 7 + [1e-3] * 13)
    assert [(row["step"], row["text"]) for row in rows if row["kind"] == "event"] == [
        (7, "The learning rate is multiplied by 0.1: by hand; by 0.1 in all.")
    ]
    again = sgd(net(), lr=1e-2)
    assert told(run(again, plan(), steering=Steering(tmp_path / "other", steering.commands)), "lr") == told(rows, "lr")
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), again.model.parameters(), strict=True))


@pytest.fixture(scope="module")
def steered(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rate was changed, of which a snapshot was taken, and that was ended by hand."""
    out = tmp_path_factory.mktemp("steered") / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, {4: asking("lr", 0.5), 6: asking("snapshot"), 8: asking("lr", 0.1), 12: asking("finish")})
        said = train(photos, out, evaluate_every="2 steps", **TRAINED)
    assert said.code == 0, said
    return out


def test_all_is_in_the_log_the_recipe_and_the_report(steered: Path) -> None:
    assert trained_recipe(steered).plain()["steering"] == "lr(0.5, step=4) | snapshot(6) | lr(0.1, step=8) | finish(12)"
    assert 'steering = "lr(0.5, step=4) | snapshot(6) | lr(0.1, step=8) | finish(12)"' in (steered / "recipe.toml").read_text()
    by_hand = [(step, text) for step, text in events(steered) if "by hand" in text]
    assert [step for step, _ in by_hand] == [4, 8, 12]
    assert by_hand[1][1] == "The learning rate is multiplied by 0.1: by hand; by 0.05 in all." and by_hand[2][1] == "Ended by hand."
    about, scores = Run(steered).read("about.json"), Run(steered).scores
    assert about["state"] == "stopped early" and Run(steered).log("train")[-1]["step"] == 12
    assert [row["step"] for row in scores["snapshots"]] == [6] and (steered / "snapshots" / "00000006.safetensors").exists()
    assert Run(steered).log("evaluate")[-1]["step"] == 12
    assert "Ended by hand." in (steered / "report.html").read_text()


def test_a_rerun_by_the_recipe_ends_with_the_same_weights(steered: Path, tmp_path: Path) -> None:
    assert goodfit("train", "--recipe", steered / "recipe.toml", "--out", tmp_path / "again").code == 0
    assert_equal_weights(steered, tmp_path / "again")
    assert events(tmp_path / "again") == events(steered)
    assert Run(tmp_path / "again").scores["snapshots"] == Run(steered).scores["snapshots"]
    assert goodfit("train", "--recipe", steered / "recipe.toml", "--out", tmp_path / "plain", "--steering", "none").code == 0
    with pytest.raises(AssertionError):
        assert_equal_weights(steered, tmp_path / "plain")


@pytest.mark.parametrize("step", [3, 5, 6, 7, 9, 11])
def test_a_killed_run_that_was_steered_ends_as_it_would_have(photos: Path, steered: Path, tmp_path: Path, step: int) -> None:
    out = tmp_path / "run"
    acts = {4: asking("lr", 0.5), 6: asking("snapshot"), 8: asking("lr", 0.1), 12: asking("finish")}

    def stop(run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    options = {"evaluate_every": "2 steps", "save_every": "3 steps", **TRAINED}
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, acts)
        at_steps(patch, {step: stop})
        assert train(photos, out, **options).code == 143
    checkpoints = sorted((out / "checkpoints").glob("*.json"))
    for path in checkpoints[-1:] if len(checkpoints) > 1 else []:  # as after kill -9: what was saved last is an earlier step
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        at_steps(patch, acts)
        assert train(photos, out, "--resume", "auto", **options).code == 0
    assert_equal_weights(steered, out)
    assert trained_recipe(out).plain()["steering"] == trained_recipe(steered).plain()["steering"]


def test_another_period_of_evaluations_does_not_go_beyond_an_end_by_hand(photos: Path, steered: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(steered, tmp_path / "run"))
    assert train(photos, out, "--resume", "auto", **{**TRAINED, "evaluate_every": "3 steps"}).code == 0
    assert trained_recipe(out).plain()["steering"] == trained_recipe(steered).plain()["steering"]
    assert_equal_weights(steered, out)


def test_a_command_after_the_last_step_is_refused_and_one_just_before_is_told(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, answers = tmp_path / "run", list[str]()
    finish_run = runs.finish_run

    def steer_and_finish(run: Run, *rest: Any) -> None:
        with pytest.raises(UsageError, match="has taken its last step"):
            send(run, "finish")
        answers.append("refused")
        finish_run(run, *rest)

    monkeypatch.setattr(runs, "finish_run", steer_and_finish)
    last = {"budget": "6 steps", "evaluate_every": "6 steps"}
    at_steps(monkeypatch, {6: asking("finish")})
    said = train(photos, out, **{**TRAINED, **last})
    assert said.code == 0 and answers == ["refused"] and "1 command by hand came after the last step, too late." in said.err
    assert not (out / STEERING_FOLDER).exists() and trained_recipe(out).plain()["steering"] == "none"


def test_what_is_sent_before_the_first_step_is_obeyed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_start = runs.record_start

    def record_and_stop(run: Run, *rest: Any) -> None:
        record_start(run, *rest)
        send(run, "stop")

    monkeypatch.setattr(runs, "record_start", record_and_stop)
    assert train(photos, tmp_path / "run", **TRAINED).code == 130
    assert not Run(tmp_path / "run").log("train")


def test_ranks_that_are_apart_meet_at_planned_commands() -> None:
    planned = load_catalog().make("snapshot(40) | finish(50)", "steering")
    apart = plan("100 epochs", ranks=Ranks(0, 2), parts={"sync": Average(16), "steering": planned})
    assert [step for step in range(30, 60) if apart.ranks_meet(step, 0.5)] == [32, 40, 48, 50]


def test_a_finish_at_an_evaluation_evaluates_once(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run", steering="finish(4)", **{**TRAINED, "evaluate_every": "2 steps"}).code == 0
    assert [row["step"] for row in Run(tmp_path / "run").log("evaluate")] == [2, 4]


def test_a_run_that_was_ended_by_hand_can_be_extended(photos: Path, steered: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(steered, out)
    options = {**TRAINED, "evaluate_every": "2 steps", "budget": "6 epochs"}
    assert train(photos, out, "--resume", "auto", **options).code == 0
    assert Run(out).read("about.json")["state"] == "finished"
    assert trained_recipe(out).plain()["steering"] == "lr(0.5, step=4) | snapshot(6) | lr(0.1, step=8)"


def test_a_pause_waits_saves_and_takes_nothing_of_the_budget(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen = tmp_path / "run", dict[str, Any]()

    def pause(run: Run) -> None:
        send(run, "pause")

        def watch() -> None:
            deadline = time.monotonic() + 30
            while not any("Paused" in text for _, text in events(out)) and time.monotonic() < deadline:
                time.sleep(0.02)
            before = [len(Run(out).log("train")), max(int(path.stem) for path in (out / "checkpoints").glob("*.json"))]
            time.sleep(1.5)
            seen["still"] = before[0] == len(Run(out).log("train"))
            seen["saved"] = before == [before[1]] * 2
            send(run, "continue")

        threading.Thread(target=watch).start()

    at_steps(monkeypatch, {5: pause})
    assert train(photos, out, evaluate_every="2 steps", **TRAINED).code == 0
    assert seen == {"still": True, "saved": True}
    rows = Run(out).log("train")
    at = next(step for step, text in events(out) if text == "Paused by hand.")
    assert rows[at]["elapsed"] - rows[at - 1]["elapsed"] < 1.0
    monkeypatch.undo()
    assert train(photos, tmp_path / "whole", evaluate_every="2 steps", **TRAINED).code == 0
    assert_equal_weights(tmp_path / "whole", out)


@pytest.mark.parametrize("paused", [False, True])
def test_a_training_is_stopped_and_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paused: bool) -> None:
    out = tmp_path / "run"
    at_steps(monkeypatch, {5: lambda run: [send(run, "pause") if paused else None, send(run, "stop")]})
    said = train(photos, out, evaluate_every="2 steps", **TRAINED)
    assert said.code == 130 and "everything is saved" in said.sentence and Run(out).read("about.json")["state"] == "interrupted"
    monkeypatch.undo()
    said = train(photos, out, "--resume", "auto", evaluate_every="2 steps", **TRAINED)
    assert said.code == 0, "neither stops nor waits again"
    assert train(photos, tmp_path / "whole", evaluate_every="2 steps", **TRAINED).code == 0
    assert_equal_weights(tmp_path / "whole", out)


def test_a_training_goes_on_beside_a_damaged_letter(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(photos, tmp_path / "whole").code == 0

    def damage(run: Run) -> None:
        (run.path / STEERING_FOLDER).mkdir(exist_ok=True)
        (run.path / STEERING_FOLDER / "0000.json").write_text("null")

    at_steps(monkeypatch, {2: damage})
    said = train(photos, tmp_path / "run", evaluate_every="2 steps")
    assert said.code == 0 and said.err.count("Until then it is ignored.") == 1, said
    monkeypatch.undo()
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")


def test_a_plan_may_hold_commands_from_the_start(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run", steering="lr(0.1, step=3) | finish(step=5)").code == 0
    assert [row["step"] for row in Run(tmp_path / "run").log("train")] == [1, 2, 3, 4, 5]
    refused(train(photos, tmp_path / "b", steering="lr(0, step=3)"), 2, "above 0")
    refused(train(photos, tmp_path / "c", steering="math.sqrt"), 2, "")
