"""The life of a run: extended, stopped early and taken up again, below its best, fought over, killed before it began, or out of time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import goodfit
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.files import lock
from goodfit.core.run import Run
from goodfit.recipe.build import Validator
from goodfit.runs.finish import describe_result
from goodfit.runs.resume import LOCK_FILE
from goodfit.runs.train import RunOptions
from goodfit.runs.train import train as train_recipe
from goodfit.training.evaluate import Outputs, RowEvaluator
from tests.support.command import goodfit as command
from tests.support.runs import BASE, assert_equal_weights, recipe, train


def evaluated(run: Run) -> list[int]:
    return [row["step"] for row in run.log("evaluate")]


def test_an_extended_run_goes_on_evaluating(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="4 epochs", evaluate_every="0.25")
    per_epoch = len(run.log("train")) // 4
    assert evaluated(run) == [per_epoch * n for n in (1, 2, 3, 4)]
    goodfit.train(photos, recipe(budget="8 epochs", evaluate_every="0.25"), out=run.path, resume="auto", quiet=True)
    assert evaluated(run) == [per_epoch * n for n in (1, 2, 3, 4, 6, 8)]


def test_a_budget_behind_the_step_of_a_run_is_refused(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="4 epochs")
    recipe_before, model_before = ((run.path / file).read_bytes() for file in ("recipe.toml", "model.safetensors"))
    with pytest.raises(UsageError, match=r"is at step \d+ already, past the budget of 2 epochs"):
        goodfit.train(photos, recipe(budget="2 epochs"), out=run.path, resume="auto", quiet=True)
    assert (run.path / "recipe.toml").read_bytes() == recipe_before
    assert (run.path / "model.safetensors").read_bytes() == model_before


def test_an_extended_run_forgets_the_test_score_of_other_weights(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="2 epochs")
    goodfit.evaluate(run, test=True)
    assert "test" in run.read("scores.json")
    goodfit.train(photos, recipe(budget="3 epochs"), out=run.path, resume="auto", quiet=True)
    assert "test" not in run.read("scores.json")
    assert len(run.read("about.json")["openings"]) == 1, "but that it was opened is remembered"


@pytest.mark.item("S136")
def test_what_a_run_has_cost_is_said_under_a_budget_in_money(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="1 epoch")
    assert not any("Spent" in line for line in describe_result(run))
    text = (run.path / "recipe.toml").read_text()
    (run.path / "recipe.toml").write_text(text.replace('budget = "1 epoch"', 'budget = "2 EUR at 1.50/h"'))
    run.update("about.json", {"seconds": {"startup": 100.0, "training": 1100.0}})
    assert "Spent 0.5 of 2 EUR." in describe_result(run)
    run.update("about.json", {"seconds": {"startup": 100.0, "training": 3500.0}})
    assert "Spent 1.50 of 2 EUR." in describe_result(run)


@pytest.mark.item("S136")
def test_a_run_that_stopped_early_stays_stopped(photos: Path, tmp_path: Path) -> None:
    words = {"budget": "40 epochs", "stop": "patience(2)", "optimizer": "sgd(1e-9)"}
    run = train(photos, tmp_path / "run", **words)
    steps, kept = len(run.log("train")), run.read("scores.json")["kept"]
    assert run.read("about.json")["state"] == "stopped early"
    before = (run.path / "model.safetensors").read_bytes()
    run.update("about.json", {"state": "running"})  # as after a kill between the last step and the end
    goodfit.train(photos, recipe(**words), out=run.path, resume="auto", quiet=True)
    assert (len(run.log("train")), run.read("scores.json")["kept"]) == (steps, kept)
    assert (run.path / "model.safetensors").read_bytes() == before


# ---- which weights are kept ------------------------------------------------------------------------------------------------------

STEPS = 3  # of an epoch of the photos, twelve of which are for validation
CONSTANT = {"schedule": "constant", "average": "ema(0.5)"}  # under which a longer training begins as a shorter one
BREAKDOWN = [0.5, 1.0, 0.25, 0.25]  # the accuracy after each epoch


def score_as(accuracies: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the evaluations of trainings from now on find these validation accuracies, one after the other."""
    script = iter(accuracies)

    def validate(self: Validator, model: torch.nn.Module, is_last: bool) -> dict[str, Any]:
        scores = {"loss": 1.0, "accuracy": next(script), "balanced_accuracy": 1.0}
        return {"score": scores["accuracy"], "validation": scores, "clean_train": scores}

    monkeypatch.setattr(Validator, "__call__", validate)


def kept_step(run: Run) -> int:
    return int(run.read("scores.json")["kept"])


def test_the_best_weights_are_kept_where_the_last_are_clearly_worse(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of a training that ends there."""
    shorter = train(photos, tmp_path / "shorter", **CONSTANT, budget="2 epochs")
    score_as(BREAKDOWN, monkeypatch)
    run = train(photos, tmp_path / "run", **CONSTANT, budget="4 epochs")
    assert kept_step(run) == 2 * STEPS
    assert_equal_weights(run.path, shorter.path)
    assert run.read("scores.json")["validation"] == shorter.read("scores.json")["validation"], "which are scored, too"
    assert sorted(int(path.stem) for path in run.checkpoints.glob("*.json")) == [2 * STEPS, 3 * STEPS, 4 * STEPS], "one file more than two"


@pytest.mark.parametrize(("keep", "scores"), [("last", BREAKDOWN), ("best", [0.5, 1.0, 0.9, 0.9]), ("best", [0.1, 0.2, 0.3, 0.4])])
def test_the_last_weights_are_kept_on_demand_and_where_the_best_lead_by_noise(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, scores: list[float]
) -> None:
    plain = train(photos, tmp_path / "plain", **CONSTANT, keep="last")
    score_as(scores, monkeypatch)
    run = train(photos, tmp_path / "run", **CONSTANT, keep=keep)
    assert kept_step(run) == 4 * STEPS
    assert_equal_weights(run.path, plain.path)


def test_a_finished_run_may_keep_other_weights_without_being_trained_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_as(BREAKDOWN, monkeypatch)
    run = train(photos, tmp_path / "run", **CONSTANT, keep="last")
    rows, last = run.log("train"), (run.path / "model.safetensors").read_bytes()
    goodfit.train(photos, recipe(**CONSTANT, keep="best"), out=run.path, resume="auto", quiet=True)
    assert kept_step(run) == 2 * STEPS
    assert goodfit.Recipe.of_run(run.path).keep == "best"
    goodfit.train(photos, recipe(**CONSTANT, keep="last"), out=run.path, resume="auto", quiet=True)
    assert kept_step(run) == 4 * STEPS
    assert (run.path / "model.safetensors").read_bytes() == last
    assert run.log("train") == rows


def test_a_run_that_kept_its_best_is_extended_from_its_last_step(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(photos, tmp_path / "whole", **CONSTANT, budget="6 epochs", keep="last")
    score_as([*BREAKDOWN, 0.25, 1.0], monkeypatch)
    run = train(photos, tmp_path / "run", **CONSTANT, budget="4 epochs")
    assert kept_step(run) == 2 * STEPS
    goodfit.train(photos, recipe(**CONSTANT, budget="6 epochs"), out=run.path, resume="auto", quiet=True)
    assert kept_step(run) == 6 * STEPS
    assert_equal_weights(run.path, whole.path)


def test_where_the_best_weights_are_gone_the_last_are_kept_and_it_is_said(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_as(BREAKDOWN, monkeypatch)
    words = [word for key, value in {**BASE, **CONSTANT}.items() for word in (f"--{key.replace('_', '-')}", value)]
    assert command("train", photos, "--out", tmp_path / "run", "--keep", "last", *words).code == 0
    for path in (tmp_path / "run" / "checkpoints").glob(f"{2 * STEPS:08d}.*"):
        path.unlink()
    done = command("train", photos, "--out", tmp_path / "run", "--resume", "auto", *words)
    assert done.code == 0, done.err
    assert f"Warning: the best weights, those of step {2 * STEPS}, do not read: those of step {4 * STEPS} are kept instead." in done.err
    assert kept_step(Run(tmp_path / "run")) == 4 * STEPS


# ---- trouble ---------------------------------------------------------------------------------------------------------------------


def test_two_processes_do_not_train_one_run(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="2 epochs")
    with lock(run.path / LOCK_FILE), pytest.raises(UsageError, match="is being trained by another process"):
        goodfit.train(photos, recipe(budget="3 epochs"), out=run.path, resume="auto", quiet=True)


def test_a_run_killed_before_it_was_written_down_is_begun_anew(photos: Path, tmp_path: Path) -> None:
    half = tmp_path / "run"
    (half / "checkpoints").mkdir(parents=True)
    (half / "splits.csv").write_text("path,label,split\n")
    (half / "about.json").write_text("{}")
    run = goodfit.train(photos, recipe(budget="1 epoch"), out=half, resume="auto", quiet=True)
    assert run.read("about.json")["state"] == "finished"


def test_changed_data_starts_anew_without_out_and_is_refused_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.photos import make_photos

    monkeypatch.chdir(tmp_path)
    photos = make_photos(tmp_path / "own", each=12)
    first = goodfit.train(photos, recipe(budget="1 epoch"), quiet=True)
    first.update("about.json", {"state": "running"})
    make_photos(photos, each=13)
    second = goodfit.train(photos, recipe(budget="1 epoch"), resume="auto", quiet=True)
    assert second.path != first.path
    with pytest.raises(GoodfitError, match="have changed since"):
        goodfit.train(photos, recipe(budget="1 epoch"), out=first.path, resume="auto", quiet=True)


def test_a_budget_that_is_over_before_the_first_step_is_said(photos: Path, tmp_path: Path) -> None:
    options = RunOptions(tmp_path / "run", started=time.time() - 100)
    with pytest.raises(GoodfitError, match="over before the first step: starting up took 1 min 4"):
        train_recipe(recipe(budget="90 s").but(data=str(photos)), options)
    assert not (tmp_path / "run").exists()


def test_two_files_of_one_name_are_both_kept_in_order(photos: Path, tmp_path: Path) -> None:
    text = (
        "import dataclasses, torch\nfrom goodfit.core.contracts import Activation\n"
        "@dataclasses.dataclass(frozen=True)\nclass {name}(Activation):\n    '''An activation.'''\n"
        "    def __call__(self):\n        return torch.nn.{module}()\n"
    )
    files = []
    for place, classes in enumerate(((("Mine", "Tanh"), ("Bent", "ReLU")), (("Mine", "Sigmoid"),))):
        file = tmp_path / str(place) / "parts.py"
        file.parent.mkdir()
        file.write_text("".join(text.format(name=name, module=module) for name, module in classes))
        files.append(str(file))
    run = goodfit.train(
        photos, recipe(model="mlp((8,), act=mine)", budget="1 epoch").but(use=tuple(files)), out=tmp_path / "run", quiet=True
    )
    assert [path.name for path in sorted((run.path / "use").iterdir())] == ["00-parts.py", "01-parts.py"]
    assert "Sigmoid" in repr(goodfit.load(run).members[0].model)
    again = goodfit.train(
        photos, recipe(model="mlp((8,), act=bent)", budget="1 epoch").but(use=tuple(files)), out=tmp_path / "b", quiet=True
    )
    assert "ReLU" in repr(goodfit.load(again).members[0].model)


PLAIN = """
import torch
def squared(logits, targets):
    return ((logits - targets) ** 2).sum(1)
def mean(logits, targets):
    return ((logits - targets) ** 2).mean()
class Net(torch.nn.Module):
    def __init__(self, classes, channels, size):
        super().__init__()
        self.head = torch.nn.Linear(channels * size[0] * size[1], classes)
    def forward(self, x):
        return self.head(x.flatten(1) + torch.zeros(1))
def loss():
    return squared
def one_number():
    return mean
"""


def test_plain_losses_and_nets_of_ones_own(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plainpkg.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    run = train(photos, tmp_path / "run", model="plainpkg.Net", loss="plainpkg.squared", budget="2 epochs", precision="auto", pieces="auto")
    assert json.loads((run.path / "config.json").read_text())["loss"] == "plainpkg.squared()"
    found = goodfit.load(run).predict(next((photos / "red").iterdir()))[0]
    assert sum(found.probabilities) == pytest.approx(1)
    with pytest.raises(UsageError, match=r"to return one number per example, of shape \[B\], received shape \[\] for 2 examples"):
        train(photos, tmp_path / "bad", loss="plainpkg.mean")
    with pytest.raises(UsageError, match="does not take"):
        train(photos, tmp_path / "worse", optimizer="torch.optim.LBFGS()")


def test_seconds_of_all_sessions_add_up(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="1 epoch")
    first = run.read("about.json")["seconds"]["training"]
    goodfit.train(photos, recipe(budget="2 epochs"), out=run.path, resume="auto", quiet=True)
    assert run.read("about.json")["seconds"]["training"] > first


def test_a_run_goes_on_by_its_own_recipe(photos: Path, tmp_path: Path) -> None:
    """Which has everything that the command left open."""
    run = tmp_path / "run"
    train(photos, run)
    said = command("train", "--recipe", run / "recipe.toml", "--out", run, "--resume", "auto")
    assert said.code == 0, said.err
    said = command("train", "--recipe", run / "recipe.toml", "--out", run, "--resume", "auto", "--seed", "7")
    assert said.code == 2 and f'The run "{run}" was started with another seed;' in said.err


def test_a_rerun_of_a_finished_command_gives_the_same_model(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="2 epochs")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "model.safetensors").write_bytes((run.path / "model.safetensors").read_bytes())
    goodfit.train(photos, recipe(budget="2 epochs"), out=run.path, resume="auto", quiet=True)
    assert_equal_weights(run.path, tmp_path / "copy")


# ---- the last evaluation ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", ["center", "flip_pair"])
def test_a_run_is_scored_by_its_last_evaluation(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: str) -> None:
    """One number, in fp32 whatever the training's precision, and no second pass over the images."""
    asked: list[str] = []
    evaluate = RowEvaluator.__call__

    def counted(
        self: RowEvaluator, model: torch.nn.Module, rows: torch.Tensor, precision: str = "fp32", seed: int | None = None
    ) -> Outputs:
        asked.append(precision)
        return evaluate(self, model, rows, precision, seed)

    monkeypatch.setattr(RowEvaluator, "__call__", counted)
    run = train(photos, tmp_path / "run", precision="bf16", views=views, model="mlp((24,))", budget="3 epochs", evaluate_every="1 epoch")
    scores, last = run.scores["validation"], run.log("evaluate")[-1]["validation"]
    center = scores if views == "center" else scores["viewed"]["center"]
    assert last["accuracy"] == pytest.approx(center["accuracy"], rel=1e-6)
    assert last["loss"] == pytest.approx(center["loss" if views == "center" else "log_loss"], rel=1e-5)
    assert asked == ["bf16"] * 4 + ["fp32", "bf16"], "the validation images, then some training images; and none after training"
    again = goodfit.evaluate(run)
    assert again["accuracy"] == scores["accuracy"]
