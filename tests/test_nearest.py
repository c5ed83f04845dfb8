"""Nearest neighbors from end to end: `goodfit train` memorizes, and everything that follows a training works on what it leaves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import goodfit
from goodfit.core.parameters import has_parameters
from goodfit.core.parts import pipe_parts, spell
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from tests.support.build import build_training
from tests.support.command import goodfit as command

SIDE, CLASSES, EACH = 6, 4, 20
RECIPE = Recipe(
    size=SIDE, channels=1, model="nearest", augment="none", optimizer="sgd", schedule="constant", budget="3 epochs", batch_size=8,
    evaluate_every="1 epoch", probes="none", precision="fp32", layout="contiguous", device="cpu", threads=1, validation=0.25,
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distinct gray images: a level for each class, and much noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(CLASSES * EACH) % CLASSES
    images = rng.integers(0, 120, (len(labels), SIDE, SIDE)) + 30 * labels[:, None, None]
    path = tmp_path_factory.mktemp("nearest") / "levels.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="module")
def data(file: Path) -> Dataset:
    recipe = RECIPE.but(data=str(file))
    return open_images(recipe)


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run of `goodfit train FILE --model "nearest(3)"`, and what it said."""
    out = tmp_path_factory.mktemp("run") / "run"
    said = command("train", file, "--model", "nearest(3)", "--out", out)
    assert said.code == 0, said.err
    return Run(out), said.out + said.err


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]


def pixels(data: Dataset, split: str) -> np.ndarray:
    """The images [n, D] of a split as the model sees them, in float64."""
    raw = data.pixels.read_exact(data.rows(split)).numpy().astype(np.float64) / 255
    values: np.ndarray = (raw - np.array(data.statistics.mean)) / np.array(data.statistics.std)
    return values.reshape(len(raw), -1)


def voted(data: Dataset, split: str, k: int, metric: str) -> np.ndarray:
    """The class of each image of a split by the plain rule: most votes, then the nearest neighbor, then the first memorized."""
    known, labels = pixels(data, "train"), data.labels[data.rows("train")].numpy()
    found = []
    for asked in pixels(data, split):
        apart = known - asked
        far = np.abs(apart).sum(1) if metric == "l1" else np.square(apart).sum(1)
        near = labels[far.argsort(kind="stable")[:k]].tolist()
        found.append(max(dict.fromkeys(near), key=near.count))  # of equally many the first, which is the nearest
    return np.array(found)


# ---- the parts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S001")
def test_one_neighbor_is_right_on_every_training_image(data: Dataset) -> None:
    built = build_training(RECIPE, data)
    assert built.evaluator(built.state.model, data.rows("train")).accuracy == 1.0


@pytest.mark.item("S002")
@pytest.mark.parametrize("metric", ["l1", "l2"])
@pytest.mark.parametrize("k", [1, 4, 5])
def test_answers_are_those_of_the_plain_rule(data: Dataset, k: int, metric: str) -> None:
    built = build_training(RECIPE.but(model=f"nearest({k}, metric={metric})"), data, load_catalog())
    answers = built.evaluator(built.state.model, data.rows("validation"))
    assert answers.logits.argmax(1).tolist() == voted(data, "validation", k, metric).tolist()


def test_all_training_images_are_memorized_and_no_others(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodfit.recipe.memorize.IMAGES_READ_AT_ONCE", 7)
    tensors = build_training(RECIPE.but(layout="channels_last"), data).state.model.state_dict()
    np.testing.assert_allclose(tensors["neighbors.images"].numpy(), pixels(data, "train"), atol=1e-5)
    assert torch.equal(tensors["neighbors.labels"], data.labels[data.rows("train")])


def test_no_step_is_made_and_it_is_judged_once(data: Dataset) -> None:
    built = build_training(RECIPE.but(average="ema", trainable="all"), data)
    rows: list[dict[str, Any]] = []
    for _ in range(2):  # the second time there is nothing left to do
        fit(built.state, built.loader, built.plan, built.watch, MetricLog((rows.extend,)))
    assert built.state.step == 0 and not has_parameters(built.state.model)
    assert [(row["kind"], row["step"]) for row in rows] == [("evaluate", 0)]
    assert rows[0]["clean_train"]["accuracy"] == 1.0


def test_a_net_of_the_users_own_without_parameters_is_judged_as_it_is(data: Dataset) -> None:
    built = build_training(RECIPE.but(model="torch.nn.Flatten"), data)
    assert built.notes == ("torch.nn.Flatten() has nothing to train: it is evaluated as it is",)
    assert not build_training(RECIPE.but(model="linear"), data).notes


# ---- the whole --------------------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_does(run: tuple[Run, str]) -> None:
    said = run[1]
    assert "nearest(3) has memorized 56 training images; there is nothing to train, so no steps are made" in said
    assert "  network: nearest(3), 0 parameters" in said and "training:" not in said
    assert "images/s" not in said, "nothing is measured"
    assert "budget" not in said and "images a step" not in said, "no steps are made"
    assert [row["kind"] for row in rows_of(run[0])] == ["evaluate"]
    assert run[0].read("about.json")["state"] == "finished"


def test_the_run_is_whole(run: tuple[Run, str], file: Path) -> None:
    path = run[0].path
    said = command("evaluate", path, "--json")
    score = run[0].read("scores.json")["validation"]["accuracy"]
    assert json.loads(said.out)["accuracy"] == score
    assert command("report", path).code == 0
    with np.load(file) as stored:
        images = stored["images"]
    assert len(safetensors.torch.load_file(path / "model.safetensors")["neighbors.labels"]) == 56
    predictions = goodfit.load(path).predict([*images])
    assert all(sum(x.probabilities) == pytest.approx(1.0, abs=1e-5) and not x.problem for x in predictions)
    right = [int(x.classes[0]) == place % CLASSES for place, x in enumerate(predictions)]
    assert np.mean(right) > 0.9


def test_a_resume_has_nothing_left_to_do(run: tuple[Run, str], file: Path) -> None:
    path = run[0].path
    before = (path / "model.safetensors").read_bytes()
    said = command("train", file, "--model", "nearest(3)", "--out", path, "--resume", "auto")
    assert said.code == 0, said.err
    assert (path / "model.safetensors").read_bytes() == before
    assert len(rows_of(run[0])) == 1


def test_a_budget_in_minutes_is_borne(file: Path, tmp_path: Path) -> None:
    said = command("train", file, "--model", "nearest", "--budget", "5 h", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert [row["step"] for row in rows_of(Run(tmp_path / "run"))] == [0]


def test_what_trains_by_steps_is_refused(file: Path) -> None:
    said = command("lr", file, "--model", "nearest")
    assert said.code == 2
    assert said.sentence == "goodfit: nearest has nothing to train: it memorizes the training images and is evaluated as it is."


# ---- presets ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S153")
def test_alexnet_2012_is_as_the_paper_says() -> None:
    recipe = Recipe.from_toml("alexnet-2012")
    known = load_catalog()
    model: Any = known.make(recipe.model, "model")
    assert (model.drop.p, str(model.act), str(model.groups)) == (0.5, "relu", "2")
    with torch.device("meta"):
        net = model(1000, 3, (227, 227))
    kinds = [type(module).__name__ for module in net.modules()]
    assert kinds.count("Dropout") + kinds.count("DropUnits") == 2
    assert sum("Response" in kind for kind in kinds) == 2
    moves: Any = known.make(recipe.optimizer, "optimizer")
    assert (moves.lr, moves.momentum, moves.weight_decay, moves.nesterov) == (0.01, 0.9, 5e-4, False)
    assert str(recipe.plateau) == "plateau(0.1)" and known.make(str(recipe.plateau), "plateau")([1.0] * 10) == pytest.approx(0.1)
    assert (recipe.batch_size, recipe.size, recipe.schedule) == (128, 227, "constant")
    crop, flip, colors = pipe_parts(known.make(recipe.augment, "augment"))
    assert [spell(part, full=True) for part in (crop, flip, colors)] == [
        "scale_crop((256, 256), patch=224, p=1.0)",
        "flip(0.5, axes='horizontal', alternate=False)",
        "pca(0.1, p=1.0)",
    ], "patches of 224 of the image at 256, mirrored or not, and an offset of 0.1 along the principal components of the colors"
    views: Any = known.make(recipe.views, "views")
    shown = [(view.scale, view.place, view.mirrored) for view in views((227, 227), (259, 259))]
    corners = [(0.5, 0.5), *itertools.product((0.0, 1.0), repeat=2)]
    assert sorted(shown) == sorted((256, place, mirrored) for place in corners for mirrored in (False, True))
    assert views.average == "probability"


@pytest.mark.parametrize(
    ("name", "model"),
    [("alexnet-2012", "alexnet2012(hidden=16)"), ("resnet20-cifar10", "resnet(20)"), ("swift-cifar10", "swift(4)")],
)
def test_presets_of_nets_make_their_plan(name: str, model: str, photos: Path) -> None:
    words = ("--model", model, "--size", "32", "--views", "center", "--precision", "fp32", "--layout", "contiguous", "--threads", "1")
    said = command("train", photos, "--recipe", name, *words, "--dry")
    assert said.code == 0, said.err
    assert "parameters" in said.out + said.err
