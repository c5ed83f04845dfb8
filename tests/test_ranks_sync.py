"""Processes that average their weights once in a while: what they save, count, say and refuse."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.errors import Diverged
from goodfit.core.ranks import Ranks
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.runs.launch import joined_ranks
from goodfit.runs.plan import describe_sync
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from goodfit.training.state import Plan, State
from tests.support.command import FAST, goodfit, refused
from tests.support.process import Forked
from tests.support.ranks import (
    EXACT,
    call_ranks,
    environment_of,
    free_port,
    train_in_ranks,
)

MLP = {"model": "mlp((16,))", "optimizer": "sgd(0.05)"}

# ---- what is saved: the times of checkpoints change nothing, and a killed training goes on where it stopped -------------------------

SAVED = {
    **EXACT, "model": "convnet(4)", "optimizer": "sgd(0.05, momentum=0.9)", "batch_size": "32", "budget": "10 steps", "keep": "last",
}  # fmt: skip
PARTS = ("average(4)", "post_local(4, start=0.45)", "elastic(4)", "gradients")


def train_and_save(folder: Path, cases: dict[str, dict[str, str]], kill_at: int = 0) -> None:
    """Train each case as one of the ranks of the environment, from its last checkpoint on where it has one; rank 0 may be killed at a step,
    once it has saved it. Weights go to folder/CASE-RANK, and what was sent and scored to JSON beside them.
    """
    with joined_ranks() as ranks:
        for name, changes in cases.items():
            prepared = prepare(Recipe().but_text({**SAVED, **changes}), SilentReporter())
            training = prepared.training.among(ranks, prepared.recipe.sync_norms is True)
            state, checkpoints = training.state, Checkpoints(folder / f"{name}-checkpoints")
            if ranks.is_first and checkpoints.steps():
                checkpoints.restore(state)

            def save(state: State, checkpoints: Checkpoints = checkpoints) -> None:
                checkpoints.save(state)
                if state.step == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            fit(state, training.loader, training.plan, **({"save": save} if ranks.is_first else {}))
            save_file({key: x.contiguous() for key, x in state.eval_model.state_dict().items()}, folder / f"{name}-{ranks.rank}")
            sent = {"bytes": state.bytes_sent, "messages": state.messages}
            (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps({**sent, "score": state.history[-1]}))


def kill_at_step(size: int, folder: Path, cases: dict[str, dict[str, str]], step: int) -> None:
    """Start to train the cases, and kill rank 0 once it has saved a step."""
    port, processes = free_port(), []
    for rank in range(size):
        with environment_of(rank, size, port):
            processes.append(Forked(folder / f"killed{rank}", train_and_save, folder, cases, step))
    assert processes[0].wait() == -signal.SIGKILL
    assert all(process.wait() == 1 for process in processes[1:]), "they lost rank 0"


def assert_resumed_exactly(size: int, folder: Path, parts: tuple[str, ...], step: int, **changes: str) -> None:
    """Killed once a step is saved, and resumed: the bits of a training that was not, and that is seldom evaluated and saved."""
    whole, resumed = folder / "whole", folder / "resumed"
    for path in (whole, resumed):
        path.mkdir(parents=True)
    seldom = {part: {**changes, "sync": part} for part in parts}
    often = {part: {**case, "save_every": "1 step", "evaluate_every": "3 steps"} for part, case in seldom.items()}
    call_ranks(size, whole, train_and_save, whole, seldom)
    for part in parts:
        kill_at_step(size, resumed, {part: often[part]}, step)
    call_ranks(size, resumed, train_and_save, resumed, often)
    for part in parts:
        expected = load_file(whole / f"{part}-0")
        for path in [*(folder / f"{part}-{rank}" for rank in range(size) for folder in (whole, resumed))]:
            weights = load_file(path)
            assert not [key for key, x in expected.items() if not torch.equal(x, weights[key])], path
        abouts = [json.loads((path / f"{part}-{rank}.json").read_text()) for path in (whole, resumed) for rank in range(size)]
        assert len({(about["bytes"], about["messages"]) for about in abouts}) == 1, "checkpoints do not count as sent"
        assert len({about["score"] for about in abouts}) == 1


@pytest.mark.item("S096")
@pytest.mark.thorough
def test_killed_between_two_averages_and_resumed(tmp_path: Path) -> None:
    assert_resumed_exactly(2, tmp_path, ("elastic(4)",), 6, average="ema(0.9)")


@pytest.mark.slow
@pytest.mark.item("S096")
@pytest.mark.parametrize(
    ("size", "step", "changes"),
    [
        (2, 3, {}),  # in the first phase of post_local
        (2, 10, {"average": "ema(0.9)"}),  # after the last step, before the model is kept
        (3, 6, {"average": "polyak(0.3)"}),
        (4, 7, {"optimizer": "adamw(0.01)", "batch_size": "48", "trainable": "head(0.3) | all"}),
    ],
)
def test_any_part_killed_and_resumed(size: int, step: int, changes: dict[str, str], tmp_path: Path) -> None:
    assert_resumed_exactly(size, tmp_path, PARTS, step, **changes)


# ---- what is counted ----------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S096")
@pytest.mark.thorough
def test_bytes_and_messages_of_known_nets(tmp_path: Path) -> None:
    """Ten steps of two ranks, of which each sends every number once: gradients with the loss and the hits, or weights, as float32."""
    cases = {part: {**MLP, "sync": part} for part in PARTS}
    call_ranks(2, tmp_path, train_and_save, tmp_path, {**cases, "norms": {"model": "convnet(4)"}})
    sent = {name: json.loads((tmp_path / f"{name}-0.json").read_text()) for name in (*cases, "norms")}
    weights = 4 * (16 * 16 * 16 + 16 + 16 * 10 + 10)
    expected = {
        "gradients": (10 * (weights + 8), 10),
        "average(4)": (3 * weights, 3),  # after steps 4, 8 and 10, the last
        "post_local(4, start=0.45)": (5 * (weights + 8) + 2 * weights, 5 + 2),
        "elastic(4)": (3 * weights, 3),
    }
    assert {name: (sent[name]["bytes"], sent[name]["messages"]) for name in cases} == expected
    tensors = load_file(tmp_path / "norms-0")
    channels = [len(x) for name, x in tensors.items() if name.endswith("running_mean")]
    gradients = 4 * sum(x.numel() for name, x in tensors.items() if name.endswith(("weight", "bias"))) + 8
    synchronized = 8  # the fourth and eighth batch are of 14 images, one block, which both ranks compute whole
    bytes_of_norms = 8 * sum(2 * c + 1 + 2 * c for c in channels)  # forward moments and their number, backward two sums, in float64
    assert len(channels) > 2
    assert sent["norms"]["bytes"] == 10 * gradients + synchronized * bytes_of_norms
    assert sent["norms"]["messages"] == 10 + synchronized * 2 * len(channels)


def test_a_ring_of_four_sends_three_halves() -> None:
    """Each number twice, but for a quarter of them."""
    ranks = Ranks(0, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.all_reduce", lambda flat: flat.mul_(4))
        x, y = torch.ones(5), torch.ones(3)
        ranks.sum_([x, y])
    assert (ranks.traffic.bytes_sent, ranks.traffic.messages) == (48, 1) and float(x[0]) == float(y[0]) == 4


# ---- numbers that are not finite ------------------------------------------------------------------------------------------------------


def diverge_on_rank_1(folder: Path, cases: dict[str, dict[str, str]]) -> None:
    """Train with an image that is not finite on rank 1 alone in step 5; what came of it goes to folder/CASE-RANK.json."""
    with joined_ranks() as ranks:
        for name, changes in cases.items():
            prepared = prepare(Recipe().but_text({**SAVED, **MLP, **changes}), SilentReporter())
            training = prepared.training.among(ranks, sync_norms=False)

            def augment(batch: Batch, chance: Chance, t: float, plan: Plan = training.plan) -> Batch:
                batch = plan.augment(batch, chance, t)
                return batch.but(images=batch.images * math.nan) if ranks.rank == 1 and round(10 * t) == 5 else batch

            start = {key: x.clone() for key, x in training.state.model.state_dict().items()} if name.startswith("pretrained") else None
            plan = dataclasses.replace(training.plan, augment=augment, start=start)
            found: dict[str, Any] = {"saved": [], "at start": []}
            rows: list[dict[str, Any]] = []

            def note(state: State, found: dict[str, Any] = found, start: Any = start) -> None:
                found["saved"].append(state.step)
                if start and all(torch.equal(x, start[key]) for key, x in state.model.named_parameters()):
                    found["at start"].append(state.step)

            try:
                state = fit(training.state, training.loader, plan, log=MetricLog((rows.extend,)), save=note)
                found |= {"factor": state.rescue_factor, "step": state.step, "weights": str(state.model.state_dict())}
            except Diverged as error:
                found["error"] = str(error)
            found["events"] = [(row["step"], row["text"]) for row in rows if row["kind"] == "event"]
            (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(found))


@pytest.mark.item("S096")
@pytest.mark.thorough
def test_what_is_not_finite_on_one_rank_stops_all_when_they_meet(tmp_path: Path) -> None:
    often, seldom = {"sync": "average(4)", "save_every": "1 step"}, {"sync": "elastic(4)", "save_every": "4 steps"}
    cases = {f"{start}{case['sync']}": case for case in (often, seldom) for start in ("", "pretrained ")}
    call_ranks(2, tmp_path, diverge_on_rank_1, tmp_path, cases)
    found = {name: [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(2)] for name in cases}
    for part, saved, back in (("average(4)", [1, 2, 3, 4, 5], [6]), ("elastic(4)", [4, 5], [8, 9])):
        one, other = found[part]
        assert one == other, "all end with the error of rank 1"
        assert one["error"].startswith("Training diverged at step 5: the input is not finite. Images: ")
        assert one["saved"] == saved, "not after the step that diverged"
        one, other = found[f"pretrained {part}"]
        assert one == other and (one["step"], one["factor"], one["at start"]) == (10, 0.1, [0, *back])
        (event,) = [text for _, text in one["events"]]
        assert event.startswith("Training diverged at step 5: back to the last good weights") and "nan" not in one["weights"]


# ---- runs -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S096")
def test_in_one_process_it_has_no_effect_and_says_so(tmp_path: Path) -> None:
    words = [word for key, value in FAST.items() for word in (f"--{key.replace('_', '-')}", value)]
    plain = goodfit("train", "digits", "--limit", "12", "--out", tmp_path / "plain", *words)
    elastic = goodfit("train", "digits", "--limit", "12", "--out", tmp_path / "elastic", "--set", "sync=elastic(2)", *words)
    assert (plain.code, elastic.code) == (0, 0)
    assert "sync = elastic(2) has no effect in one process" in elastic.err and "no effect" not in plain.err
    assert "processes sent" not in elastic.out
    assert (tmp_path / "plain/model.safetensors").read_bytes() == (tmp_path / "elastic/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sync=average", "sync_norms=true"), 'Under sync "average" each process computes its steps alone, so its batch norms cannot'),
        (("sync=elastic(4)", "optimizer=lbfgs"), '"lbfgs" needs all training images in each step, and under sync "elastic(4)" each'),
        (("sync=avarage",), 'Did you mean "average"?'),
        (("sync=torch.nn.ReLU",), 'Expected a part of the kind sync, received "torch.nn.ReLU()"'),
        (("sync=average(0)",), "average: expected every to be a whole number from 1, received 0."),
    ],
)
def test_what_does_not_go_together_is_refused(words: tuple[str, ...], sentence: str) -> None:
    refused(goodfit("train", "digits", "--dry", *(word for change in words for word in ("--set", change))), 2, sentence)


def test_norms_are_synchronized_by_default_only_where_gradients_are_averaged() -> None:
    for sync, expected in {"gradients": True, "average": False, "post_local": False, "elastic": False}.items():
        assert prepare(Recipe().but_text({**EXACT, "sync": sync}), SilentReporter()).recipe.sync_norms is expected
    kept = prepare(Recipe().but_text({**EXACT, "sync_norms": "false"}), SilentReporter()).recipe
    assert kept.sync_norms is False


def test_notes_on_norms_and_on_steps_too_small_to_share() -> None:
    """Of 48 images, three blocks, four processes cannot each have a share."""
    prepared = prepare(Recipe().but_text({**EXACT, "sync": "average(4)", "batch_size": "48"}), SilentReporter())
    norms = "  Note: batch norms take their statistics from each process's own images; the running ones are averaged with the weights."
    assert describe_sync(prepared, 3) == [norms]
    small, *rest = describe_sync(prepared, 4)
    assert rest == [norms] and small.startswith("  Note: a step of 48 images has less than 16 for each of 4 processes: ") and "64" in small
    without = prepare(Recipe().but_text({**EXACT, **MLP, "sync": "average(4)"}), SilentReporter())
    assert describe_sync(without, 3) == describe_sync(prepare(Recipe().but_text(EXACT), SilentReporter()), 9) == []


@pytest.mark.slow
@pytest.mark.item("S096")
def test_a_run_says_what_it_sends_and_when_its_course_changes(tmp_path: Path) -> None:
    """Two processes train a net with batch norms; one goes on from their average."""
    changes = {**FAST, "model": "convnet(4)", "limit": "12", "batch_size": "32", "budget": "6 steps"}
    run = train_in_ranks(2, "digits", tmp_path / "run", "--set", "sync=average(4)", **changes)
    out, err = ((tmp_path / "run-output" / "rank0" / name).read_text() for name in ("stdout.txt", "stderr.txt"))
    communication = Run(run).read("about.json")["communication"]
    floats = sum(x.numel() for x in load_file(run / "model.safetensors").values() if x.is_floating_point())
    assert communication == {"processes": 2, "bytes_sent": 2 * 4 * floats, "messages": 2}
    sentence = "Each of 2 processes sent "
    assert sentence in out and sentence in (run / "report.html").read_text()
    assert "Note: batch norms take their statistics from each process's own images" in err
    words = [word for key, value in {**changes, "budget": "9 steps"}.items() for word in (f"--{key.replace('_', '-')}", value)]
    said = goodfit("train", "digits", "--out", run, "--resume", "auto", "--set", "sync=average(4)", *words)
    assert said.code == 0, said.err
    assert "Warning: the run was trained in 2 processes up to step 6 and goes on in 1:" in said.err
    assert Run(run).read("about.json")["communication"] == communication
