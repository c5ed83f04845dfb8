"""The life of a run: extended, stopped early and taken up again, fought over, killed before it began, or out of time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import goodfit
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.files import lock
from goodfit.core.run import Run
from goodfit.runs.resume import LOCK_FILE
from goodfit.runs.train import RunOptions
from goodfit.runs.train import train as train_recipe
from tests.support.runs import assert_equal_weights, recipe, train


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
    with pytest.raises(GoodfitError, match="over before the first step: packing the images took 1 min 4"):
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


def test_a_rerun_of_a_finished_command_gives_the_same_model(photos: Path, tmp_path: Path) -> None:
    run = train(photos, tmp_path / "run", budget="2 epochs")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "model.safetensors").write_bytes((run.path / "model.safetensors").read_bytes())
    goodfit.train(photos, recipe(budget="2 epochs"), out=run.path, resume="auto", quiet=True)
    assert_equal_weights(run.path, tmp_path / "copy")
