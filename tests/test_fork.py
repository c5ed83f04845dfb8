"""Forks: a new run goes on from a checkpoint of another, by its recipe but for what is given; the other run is not touched."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from goodfit.core.run import Run
from goodfit.recipe.run_recipe import record_recipe, trained_recipe
from goodfit.training.checkpoint import Checkpoints
from tests.support.command import goodfit, refused, train
from tests.support.runs import assert_equal_weights

TRAINED = {
    "model": "convnet(4)", "augment": "flip | crop(2) | mixup(0.3)", "optimizer": "sgd(0.05, momentum=0.9)", "schedule": "constant",
    "budget": "4 epochs", "evaluate_every": "2 epochs", "average": "ema(0.9)", "snapshots": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def parent(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint in its middle is the best."""
    out = tmp_path_factory.mktemp("parent") / "run"
    assert train(photos, out, **TRAINED).code == 0
    return out


def middle(run: Path) -> int:
    return Checkpoints(run / "checkpoints").steps()[0]


def test_a_fork_that_changes_nothing_is_the_run_itself(parent: Path, tmp_path: Path) -> None:
    before = {file: hashlib.sha256(file.read_bytes()).digest() for file in parent.rglob("*") if file.is_file()}
    step = middle(parent)
    said = goodfit("train", "--fork", f"{parent}@{step}", "--out", tmp_path / "fork")
    assert said.code == 0, said
    assert_equal_weights(parent, tmp_path / "fork")
    assert f"at step {step}, with the same recipe." in said.err
    assert {file: hashlib.sha256(file.read_bytes()).digest() for file in parent.rglob("*") if file.is_file()} == before
    rows, others = Run(tmp_path / "fork").log("train"), Run(parent).log("train")
    assert [(row["step"], row["loss"]) for row in rows] == [(row["step"], row["loss"]) for row in others]
    assert trained_recipe(tmp_path / "fork").fork == f"{parent.resolve()}@{step}"


def test_another_rate_is_that_which_is_steered(photos: Path, parent: Path, tmp_path: Path) -> None:
    """The optimizer remembers, but has its new settings: the same as a rate that is halved by hand at that step."""
    step = middle(parent)
    assert goodfit("train", "--fork", f"{parent}@{step}", "--lr", "0.025", "--out", tmp_path / "fork").code == 0
    assert train(photos, tmp_path / "steered", steering=f"lr(0.5, step={step})", **TRAINED).code == 0
    assert_equal_weights(tmp_path / "steered", tmp_path / "fork")
    assert goodfit("train", "--recipe", tmp_path / "fork" / "recipe.toml", "--out", tmp_path / "again").code == 0
    assert_equal_weights(tmp_path / "again", tmp_path / "fork")


def test_what_begins_anew_is_said(parent: Path, tmp_path: Path) -> None:
    options = ("--optimizer", "adam(0.001)", "--average", "ema(0.5)", "--budget", "5 epochs")
    said = goodfit("train", "--fork", parent, "--out", tmp_path / "fork", *options)
    assert said.code == 0, said
    told = [row["text"] for row in Run(tmp_path / "fork").log("event")]
    assert "with another average, optimizer, budget." in told[0] or "with another optimizer, average, budget." in told[0]
    assert told[1] == "Its optimizer is another one, whose memory begins anew."
    plain = goodfit("train", "--fork", parent, "--out", tmp_path / "plain", "--average", "none", "--budget", "5 epochs")
    assert plain.code == 0 and "begin" not in " ".join(row["text"] for row in Run(tmp_path / "plain").log("event"))
    again = goodfit("train", "--fork", tmp_path / "plain", "--out", tmp_path / "third", "--average", "ema(0.5)", "--budget", "6 epochs")
    assert again.code == 0 and "Its running average begins with the weights of this step." in again.err


def test_a_killed_fork_goes_on_as_it_would_have(parent: Path, tmp_path: Path) -> None:
    """Before its first checkpoint of its own it goes on from its copy of the other run's, which may be gone by then."""
    moved = Path(shutil.copytree(parent, tmp_path / "parent"))
    whole, out = tmp_path / "whole", tmp_path / "fork"
    words = ("train", "--fork", f"{moved}@{middle(moved)}", "--lr", "0.02")
    assert goodfit(*words, "--out", whole).code == 0
    assert goodfit(*words, "--out", out).code == 0
    shutil.rmtree(out / "checkpoints")
    for name in ("model.safetensors", "scores.json", "config.json"):
        (out / name).unlink()
    Run(out).update("about.json", {"state": "running"})
    shutil.rmtree(moved / "checkpoints")
    said = goodfit(*words, "--out", out, "--resume", "auto")
    assert said.code == 0, said
    assert_equal_weights(whole, out)


def test_later_commands_by_hand_are_left_out(photos: Path, parent: Path, tmp_path: Path) -> None:
    step = middle(parent)
    planned, by_hand = f"lr(0.5, step=2) | lr(0.9, step={step + 3})", f"lr(0.1, step={step})"
    assert train(photos, tmp_path / "steered", steering=planned, **TRAINED).code == 0
    recipe = trained_recipe(tmp_path / "steered")
    record_recipe(Run(tmp_path / "steered"), recipe.but(steering=f"lr(0.5, step=2) | {by_hand} | lr(0.9, step={step + 3})"))
    said = goodfit("train", "--fork", f"{tmp_path / 'steered'}@{step}", "--out", tmp_path / "fork")
    assert said.code == 0 and f"Left out: {by_hand}, which the other run got later, by hand." in said.err
    assert trained_recipe(tmp_path / "fork").plain()["steering"] == planned, "what was planned stays"
    asked = ("--steering", f"lr(0.1, step={step})", "--out", tmp_path / "asked")
    assert goodfit("train", "--fork", f"{tmp_path / 'steered'}@{step}", *asked).code == 0
    assert trained_recipe(tmp_path / "asked").plain()["steering"] == f"lr(0.1, step={step})"


def test_what_cannot_be_forked_is_said(parent: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "fork")
    refused(goodfit("train", "--fork", f"{parent}@1", *out, "-q"), 2, "with one of the steps", 'received "1"')
    refused(goodfit("train", "--fork", parent, "--model", "convnet(8)", *out, "-q"), 2, "has another network", "size mismatch")
    refused(goodfit("train", "--fork", parent, "--budget", "1 epoch", *out, "-q"), 2, "past the budget of 1 epoch")
    refused(goodfit("train", "--fork", tmp_path / "none", *out, "-q"), 2, "Expected a run folder")
    damaged = Path(shutil.copytree(parent, tmp_path / "damaged"))
    newest = max((damaged / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-9])
    refused(goodfit("train", "--fork", damaged, *out, "-q"), 2, "does not read")
    shutil.rmtree(damaged / "checkpoints")
    refused(goodfit("train", "--fork", damaged, *out, "-q"), 2, "Expected a checkpoint", "found none")
    assert not (tmp_path / "fork").exists()


def test_other_images_that_validate_are_noted(parent: Path, tmp_path: Path) -> None:
    said = goodfit(
        "train", "--fork", parent, "--split-seed", "3", "--validation", "0.3", "--budget", "5 epochs", "--out", tmp_path / "fork"
    )
    assert said.code == 0 and "it may have been trained on some that now validate" in said.err
    refused(goodfit("train", "--fork", parent, "--folds", "2", "--out", tmp_path / "folds"), 2, "Expected no --fork beside --folds")


def test_what_a_plateau_rule_has_done_stays(photos: Path, tmp_path: Path) -> None:
    changes = {**TRAINED, "plateau": "plateau(0.5, patience=1)", "optimizer": "sgd(1e-9)", "evaluate_every": "2 steps"}
    assert train(photos, tmp_path / "run", **changes).code == 0
    (step,) = [row["step"] for row in Run(tmp_path / "run").log("train")][-1:]
    said = goodfit("train", "--fork", tmp_path / "run", "--budget", "5 epochs", "--out", tmp_path / "fork")
    assert said.code == 0 and "The plateau rule has multiplied the learning rate by" in said.err
    rates = {row["step"]: row["lr"] for row in Run(tmp_path / "fork").log("train")}
    assert rates[step + 1] <= rates[step] and trained_recipe(tmp_path / "fork").plain()["steering"].startswith("lr(")


def test_a_fork_goes_on_though_its_origin_was_steered_since(parent: Path, tmp_path: Path) -> None:
    origin = Path(shutil.copytree(parent, tmp_path / "origin"))
    words = ("train", "--fork", f"{origin}@{middle(origin)}", "--lr", "0.02", "--out", tmp_path / "fork")
    assert goodfit(*words).code == 0
    record_recipe(Run(origin), trained_recipe(origin).but(steering="lr(0.5, step=2)"))
    Run(tmp_path / "fork").update("about.json", {"state": "running"})
    assert goodfit(*words, "--resume", "auto").code == 0


def test_parts_of_ones_own_are_forked(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom goodfit.optim.first_order import Sgd\n"
        "@dataclasses.dataclass(frozen=True)\nclass Heavy(Sgd):\n    '''Mine.'''\n"
    )
    options = {**TRAINED, "optimizer": "heavy(0.05, momentum=0.9)"}
    assert train(photos, tmp_path / "run", "--use", tmp_path / "mine.py", **options).code == 0
    assert goodfit("train", "--fork", f"{tmp_path / 'run'}@{middle(tmp_path / 'run')}", "--out", tmp_path / "fork").code == 0
    assert_equal_weights(tmp_path / "run", tmp_path / "fork")


def test_a_fork_may_train_less(parent: Path, tmp_path: Path) -> None:
    """The frozen stages come from the checkpoint, so they are not random."""
    said = goodfit("train", "--fork", parent, "--trainable", "head", "--budget", "5 epochs", "--out", tmp_path / "fork")
    assert said.code == 0, said


def test_what_a_rescue_has_done_stays(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Checkpoints.read

    def read_rescued(checkpoints: Checkpoints, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        values, tree = read(checkpoints, step)
        return {**values, "rescue_factor": 0.1}, tree

    monkeypatch.setattr(Checkpoints, "read", read_rescued)
    assert goodfit("train", "--fork", f"{parent}@{middle(parent)}", "--out", tmp_path / "fork").code == 0
    rates = {row["step"]: row["lr"] for row in Run(tmp_path / "fork").log("train")}
    assert rates[middle(parent) + 1] == pytest.approx(0.1 * rates[middle(parent)])
