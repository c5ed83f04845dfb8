"""What is frozen is computed once: the cut gives the same outputs, training on cached features is training on images, and it resumes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import goodfit as package
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.reporter import SilentReporter
from goodfit.models.weights.cut import find_cut
from goodfit.models.weights.stages import find_head, find_stages
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.recipe.prepare import Prepared, prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.frozen import CachedViews, frozen_place
from goodfit.runs.train import with_cached_features
from goodfit.training.freezing import freezing_phases
from goodfit.training.loop import fit
from goodfit.training.step import train_step
from tests.support.photos import make_photos

FAST: dict[str, Any] = {
    "threads": 1, "precision": "fp32", "layout": "contiguous", "pieces": 1, "device": "cpu", "batch_size": 16, "optimizer": "adamw(0.001)",
}  # fmt: skip
NETS = ["convnet(4)", "resnet(20)", "mobilenet_v2(0.25)", "vgg(11, norm=batch)", "mlp((16, 8))", "alexnet"]


@pytest.mark.parametrize("text", NETS)
def test_the_network_above_a_cut_computes_the_same(text: str) -> None:
    model = make_model(load_catalog().make(text, "model"), 5, 3, (64, 64)).eval()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    places = [*(stage.modules[-1] for stage in find_stages(model)), find_head(model)[0]]
    cuts = [find_cut(model, place, images) for place in places]
    assert all(cuts), text
    for cut in cuts:
        assert cut is not None
        upper = cut.upper(model)
        with torch.no_grad():
            assert torch.allclose(upper(cut.features(model, images)), model(images), atol=1e-5)
        own = dict(model.named_parameters())
        assert all(p is own[name] for name, p in upper.named_parameters()), "its parameters are the model's own, under the same names"
    first, last = cuts[0], cuts[-1]
    assert first and last and len(list(first.upper(model).parameters())) > len(list(last.upper(model).parameters())) == 2


def test_a_shortcut_around_the_place_is_no_cut() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            early = self.first(x)
            return self.head(self.second(early) + early)  # type: ignore[no-any-return]

    assert find_cut(Around().eval(), "second", torch.randn(3, 4)) is None
    assert find_cut(Around().eval(), "first", torch.randn(3, 4)) is not None


def test_networks_that_cannot_be_cut() -> None:
    class Stack(nn.Module):
        """Its list of blocks is a stage that never runs itself."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.head = nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return self.head(x)  # type: ignore[no-any-return]

    assert find_cut(Stack().eval(), "blocks", torch.randn(3, 4)) is None
    model = make_model(load_catalog().make("googlenet", "model"), 5, 3, (64, 64)).eval()
    assert find_cut(model, find_head(model)[0], torch.randn(2, 3, 64, 64)) is None, "its extra heads look at what is below"


def test_modules_that_are_shared_or_missing() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.middle, self.head = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)
            self.again = self.act
            self.add_module("absent", None)

        def forward(self, x: Tensor) -> Tensor:
            x = self.again(self.middle(self.act(self.first(x))))
            return self.head(x if self.absent is None else self.absent(x))  # type: ignore[no-any-return]

    assert find_cut(Twice().eval(), "first", torch.randn(3, 4)) is not None


def test_a_penalty_is_of_the_whole_model(data: Path, source: Path) -> None:
    losses = []
    for views in (1, 0):
        training = prepared(data, source, augment="none", cached_views=views, penalty="l2(0.1, layers='stem')").training
        losses.append(float(train_step(training.state, training.loader.batch(0), training.plan, 0.0, 0.0)[0].numbers()["loss"]))  # type: ignore[attr-defined]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_where_nothing_moves() -> None:
    model = make_model(load_catalog().make("convnet(4)", "model"), 5, 3, (16, 16))

    def place(text: str) -> str:
        return frozen_place(model, freezing_phases(load_catalog().make(text, "trainable"), model))

    stages = find_stages(model)
    assert place("head") == find_head(model)[0]
    assert place("last(1)") == stages[-2].modules[-1]
    assert place("head(0.5) | last(2)") == stages[-3].modules[-1]
    assert place("head(0.5) | all") == place("all") == place("all(statistics=all_fixed)") == ""
    assert place("head(statistics=moving)") == "", "what moves are statistics"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    run = package.train(make_photos(folder / "photos"), Recipe(model="convnet(4)", size=16, budget="2 epochs", **FAST), out=folder / "run")
    return Path(run.path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("others") / "others")


def prepared(data: Path, source: Path, **changes: Any) -> Prepared:
    recipe = Recipe(data=str(data), source=str(source), budget="3 epochs", augment="flip | crop(2)", trainable="last(1)", **FAST)
    return with_cached_features(prepare(recipe.but(**changes), SilentReporter()), SilentReporter())


@pytest.mark.parametrize("trainable", ["head", "last(1)", "head(0.5) | last(2, statistics=all_fixed)"])
def test_training_on_features_is_training_on_images(data: Path, source: Path, trainable: str) -> None:
    """Without augmentation the steps are the same to the rounding of the features to 16 bits, and so is what is evaluated: what rounding
    changes of a tensor is a small part of what training changes, on any processor.
    """
    states, starts = [], []
    for views in (1, 0):
        training = prepared(data, source, augment="none", trainable=trainable, cached_views=views).training
        starts.append({name: value.clone() for name, value in training.state.model.state_dict().items()})
        assert isinstance(training.loader, CachedViews) == bool(views)
        states.append(fit(training.state, training.loader, training.plan))
    for (name, a), b in zip(states[0].model.state_dict().items(), states[1].model.state_dict().values(), strict=True):
        moved = (b.double() - starts[1][name].double()).norm()
        assert (a.double() - b.double()).norm() <= 0.1 * moved + 1e-6, name
    assert states[0].history == pytest.approx(states[1].history, abs=0.15) and len(states[0].history) == len(states[1].history)


def test_views_are_the_epochs_of_the_augmentation(data: Path, source: Path) -> None:
    """The features of view v are those of the images as epoch v augments them: other views differ, the same view comes again."""
    training = prepared(data, source, cached_views=2, budget="6 epochs").training
    loader, cut, model = training.loader, training.plan.cut, training.state.model.eval()
    assert cut is not None
    steps = loader.loader.epoch_steps
    of_epoch = []
    for epoch in range(3):
        batches = [loader.batch(step) for step in range(epoch * steps, (epoch + 1) * steps)]
        order = torch.cat([batch.ids for batch in batches]).argsort()
        of_epoch.append(torch.cat([batch.images for batch in batches])[order])
    assert torch.equal(of_epoch[0], of_epoch[2]) and not torch.equal(of_epoch[0], of_epoch[1])
    plain = prepared(data, source, cached_views=0).training
    rows = loader.cached.rows
    order = Chance.for_epoch(0, "views", 1, torch.arange(len(rows)), rows).permutation()
    chance = Chance.for_epoch(0, "augment", 1, torch.arange(len(rows)), rows[order])
    batch = Batch(plain.loader.pixels.read(rows[order]).permute(0, 3, 1, 2), torch.zeros(len(rows), 3), rows[order], chance)
    with torch.no_grad():
        expected = cut.features(model, plain.plan.prepare(batch, 0.75).images)[order.argsort()]
    assert torch.allclose(expected, of_epoch[1].float(), atol=2e-2, rtol=1e-2)


def test_mixed_targets_are_cached_too(data: Path, source: Path) -> None:
    training = prepared(data, source, cached_views=2, augment="mixup(1.0) | smooth(0.1)").training
    batch = training.loader.batch(0)  # type: ignore[attr-defined]
    assert torch.allclose(batch.targets.sum(1), torch.ones(len(batch)), atol=1e-6)
    mixed = (batch.targets > 0.2).sum(1) > 1
    assert float(mixed.double().mean()) > 0.25, "partners are of other classes as well"
    assert torch.isfinite(training.plan.loss(torch.zeros(len(batch), 3), batch.targets)).all()


def test_a_resume_is_bit_equal_without_the_source(data: Path, source: Path, tmp_path: Path) -> None:
    """Ended after one epoch and resumed, with the source gone, a run at a constant rate has the weights of one that did not stop."""
    copied = tmp_path / "source"
    shutil.copytree(source, copied)
    changes = {"augment": "flip", "trainable": "last(1)", "cached_views": 2, "schedule": "constant", "evaluate_every": "1 epoch"}
    recipe = Recipe(source=str(copied), budget="2 epochs", **changes, **FAST)
    whole = package.train(data, recipe, out=tmp_path / "whole")
    first = package.train(data, recipe.but(budget="1 epoch"), out=tmp_path / "cut")
    assert (Path(first.path) / "start.safetensors").is_file()
    shutil.rmtree(copied)
    resumed = package.train(data, recipe, out=tmp_path / "cut", resume="auto")
    a, b, start = (load_file(path / "model.safetensors") for path in (Path(whole.path), Path(resumed.path), source))
    assert a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())
    moved = {name.partition(".")[0] for name, x in a.items() if not torch.equal(x, start.get(name, torch.zeros(0)))}
    assert moved == {"stage2", "head"}


def test_a_cache_that_is_too_small_is_said(data: Path, source: Path) -> None:
    made = prepared(data, source, cached_views=4, cache=1e-6)
    assert made.training.plan.cut is None
    assert any("Nothing is cached" in note for note in made.training.notes)
    assert math.isfinite(float(made.training.loader.batch(0).images.float().mean()))
