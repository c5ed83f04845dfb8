"""Runs of several processes: what they score, write and say is what one process does, and any number of them goes on with a run."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from goodfit.core.errors import DataError
from goodfit.core.ranks import Ranks
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.recipe import build
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.runs.followers import Job, train_along
from goodfit.runs.launch import joined_ranks
from goodfit.training import evaluate
from tests.support.command import FAST, goodfit
from tests.support.process import wait_until
from tests.support.ranks import call_ranks, start_ranks, train_in_ranks, weight_distance

SMOOTH = {  # small steps and no kinks, so that rounding stays rounding
    **FAST, "model": "convnet(4, act=gelu)", "augment": "flip | crop(2) | mixup(0.3)", "optimizer": "sgd(0.02, momentum=0.9)",
    "limit": "20", "batch_size": "64", "save_every": "1 step",
}  # fmt: skip


def steps_of(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in Run(run).log("train")]


# ---- evaluation ------------------------------------------------------------------------------------------------------------------


def evaluate_in_ranks(folder: Path, images: int) -> None:
    """Write the ids and logits of the validation images, as rank 0 has them, and the scores that every rank gets."""
    evaluate.MAX_EVAL_IMAGES = 16
    with joined_ranks() as ranks:
        prepared = prepare(Recipe().but_text({**SMOOTH, "data": "digits", "limit": "0"}), SilentReporter())
        splits = dataclasses.replace(prepared.data.splits, validation=prepared.data.splits.validation[:images])
        validator = build.Validator(prepared.training.evaluator, dataclasses.replace(prepared.data, splits=splits), "fp32", ranks=ranks)
        scores = validator(prepared.training.state.model, True)
        (folder / f"scores{ranks.rank}.json").write_text(json.dumps(scores))
        if validator.last is not None:
            assert ranks.is_first
            save_file({"ids": validator.last.ids, "logits": validator.last.logits}, folder / "outputs.safetensors")


@pytest.mark.slow
def test_evaluation_asks_each_image_once(tmp_path: Path) -> None:
    """101 images, seven batches of up to 16, on four ranks."""
    for size in (1, 4):
        (tmp_path / str(size)).mkdir()
        call_ranks(size, tmp_path / str(size), evaluate_in_ranks, tmp_path / str(size), 101)
    one, four = (load_file(tmp_path / size / "outputs.safetensors") for size in "14")
    assert len(one["ids"]) == len(set(four["ids"].tolist())) == 101
    assert torch.equal(one["ids"], four["ids"]) and torch.equal(one["logits"], four["logits"])
    scores = {json.dumps(json.loads(path.read_text())) for path in tmp_path.glob("?/scores?.json")}
    assert len(scores) == 1 and len(list(tmp_path.glob("?/scores?.json"))) == 5


# ---- runs ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process from its start to its end."""
    return train_in_ranks(1, "digits", tmp_path_factory.mktemp("whole") / "run", **SMOOTH)


def assert_same_run(run: Path, whole: Path) -> None:
    """The steps of the log once, with the same images, and the same weights and scores to rounding."""
    rows, expected = (Run(path).log("train") for path in (run, whole))
    assert [(row["step"], row["epoch"], row["lr"]) for row in rows] == [(row["step"], row["epoch"], row["lr"]) for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert weight_distance(run, whole) < 1e-5
    ours, theirs = (Run(path).scores["validation"] for path in (run, whole))
    assert (ours["images"], ours["accuracy"]) == (theirs["images"], theirs["accuracy"])


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(whole: Path, tmp_path: Path) -> None:
    two = train_in_ranks(2, "digits", tmp_path / "run", **SMOOTH)
    assert_same_run(two, whole)
    assert {path.relative_to(two) for path in two.rglob("*")} == {path.relative_to(whole) for path in whole.rglob("*")}
    said = [(tmp_path / "run-output" / f"rank{rank}" / name).read_text() for rank in (0, 1) for name in ("stdout.txt", "stderr.txt")]
    assert "Validation accuracy" in said[0] and "Reading digits." in said[1]
    assert said[2:] == ["", ""], "rank 1 says nothing"


@pytest.mark.slow
@pytest.mark.parametrize(("model", "most"), [("convnet(8, act=gelu, norm=none)", 1e-6), ("convnet(8, act=gelu)", 2e-5)])
def test_fifty_steps_in_float32(model: str, most: float, tmp_path: Path) -> None:
    changes = {
        **SMOOTH,
        "model": model,
        "optimizer": "sgd(0.05, momentum=0.9)",
        "budget": "50 steps",
        "save_every": "1 epoch",
        "keep": "last",
    }
    one, two, four = (train_in_ranks(ranks, "digits", tmp_path / str(ranks), **changes) for ranks in (1, 2, 4))
    assert weight_distance(two, one) < most and weight_distance(four, one) < most


@pytest.mark.slow
def test_any_number_of_processes_goes_on_with_a_run(whole: Path, tmp_path: Path) -> None:
    """Four are killed, two go on until Ctrl-C, and one ends it."""
    run = Run(tmp_path / "run")
    words = [word for key, value in SMOOTH.items() for word in (f"--{key.replace('_', '-')}", value)]
    command = ("train", "digits", "--out", run.path, "--resume", "auto", *words)
    four = start_ranks(4, tmp_path / "four", *command)
    wait_until(lambda: len(list(run.checkpoints.glob("*.json"))) > 1)
    for process in four:
        process.kill()
    killed_at = max(int(path.stem) for path in run.checkpoints.glob("*.json"))
    two = start_ranks(2, tmp_path / "two", *command)
    wait_until(lambda: max(int(path.stem) for path in run.checkpoints.glob("*.json")) > killed_at)
    for process in two:
        process.send_signal(signal.SIGINT)
    assert [process.wait() for process in two] == [130, 0], two[0].err
    assert run.read("about.json")["state"] == "interrupted" and "Stopped at step" in two[0].err
    said = goodfit(*command)
    assert said.code == 0, said.err
    assert_same_run(run.path, whole)


def test_other_images_than_those_of_rank_0_are_refused() -> None:
    recipe = prepare(Recipe().but_text({**SMOOTH, "data": "digits"}), SilentReporter()).recipe
    job = Job(recipe.plain(), Path("run"), {}, ("another", "digest"))
    with pytest.raises(DataError, match=r'^Rank 1 finds other images in "digits" than rank 0: '):
        train_along(Ranks(1, 2), job, "ready")


@pytest.mark.slow
def test_a_budget_in_seconds_ends_all_at_one_step(tmp_path: Path) -> None:
    run = train_in_ranks(2, "digits", tmp_path / "run", **{**SMOOTH, "budget": "4 s", "evaluate_every": "0.5", "save_every": "1 s"})
    assert Run(run).log("evaluate")[-1]["t"] == 1


@pytest.mark.slow
def test_pretrained_weights_and_their_averages(whole: Path, tmp_path: Path) -> None:
    """Rank 0 reads them; the others get them from it."""
    changes = {**SMOOTH, "from": str(whole), "average": "wise", "trainable": "head(0.3) | all", "head_init": "probe"}
    one, two = (train_in_ranks(ranks, "digits", tmp_path / str(ranks), **changes) for ranks in (1, 2))
    assert weight_distance(two, one) < 1e-5


@pytest.mark.slow
def test_norms_that_are_not_synchronized_depend_on_the_ranks(whole: Path, tmp_path: Path) -> None:
    run = train_in_ranks(2, "digits", tmp_path / "run", "--set", "sync_norms=false", **SMOOTH)
    assert 1e-4 < weight_distance(run, whole) < 1


# ---- ends ------------------------------------------------------------------------------------------------------------------------


def test_a_process_that_never_starts_is_missed(tmp_path: Path) -> None:
    (alone,) = start_ranks(2, tmp_path, "train", "digits", "--out", tmp_path / "run", started=1, GOODFIT_START_TIMEOUT="2")
    assert alone.wait() == 1
    assert alone.err.count("goodfit: ") == 1 and "Expected 2 processes to meet at 127.0.0.1:" in alone.err
