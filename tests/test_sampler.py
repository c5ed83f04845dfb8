"""Which images an epoch shows: laws over all samplers, equal classes, and the recipe's fields for unequal ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import goodfit
from goodfit.augment.crop import Crop
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.contracts import Sampler
from goodfit.core.errors import UsageError
from goodfit.data.dataset import Dataset
from goodfit.data.loader import Loader
from goodfit.data.pixels import RawPixels
from goodfit.data.sampler import Balanced, Shuffle
from goodfit.losses.class_weights import WeightedLoss
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training.step import Objective
from tests.support.build import build_training

SAMPLERS = [pytest.param(cls(), id=name) for name, cls in Catalog(["goodfit.data.sampler"]).kinds["sampler"].items()]
SORTED_LABELS = torch.tensor([0] * 30 + [2] * 7 + [3] * 1 + [4] * 12)  # no image of 1
LABELS = SORTED_LABELS[torch.randperm(50, generator=torch.Generator().manual_seed(0))]


def chance(epoch: int = 0, seed: int = 0) -> Chance:
    return Chance.of(seed, torch.arange(len(LABELS)), "order", epoch)


@pytest.fixture
def pixels(tmp_path: Path) -> RawPixels:
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 3), dtype=np.uint8)
    images.tofile(tmp_path / "pixels")
    return RawPixels(tmp_path / "pixels", images.shape)


def make_loader(pixels: RawPixels, sampler: Sampler, batch: int = 7, workers: int = 0) -> Loader:
    labels = torch.zeros(60, dtype=torch.int64)
    labels[5:55] = LABELS
    return Loader(pixels, labels, torch.arange(5, 55), 5, batch, 0, workers, sampler)


# ---- laws ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_is_a_function_of_seed_and_epoch_of_the_length_said(sampler: Sampler) -> None:
    orders = [sampler(LABELS, chance(epoch)) for epoch in range(3)]
    assert all(len(order) == sampler.length(LABELS) for order in orders)
    assert torch.equal(sampler(LABELS, chance(2)), orders[2])
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(sampler(LABELS, chance(0, 1)), orders[0])
    for order in orders:
        assert set(order.tolist()) == set(range(50)), "no image is left out"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", [0, 3, 19])
def test_batches_from_any_step_and_any_number_of_workers(sampler: Sampler, start: int, pixels: RawPixels) -> None:
    one = make_loader(pixels, sampler)
    assert one.epoch_steps == sampler.length(LABELS) // 7, "the last image of 50 joins the batch before it, as does that of 120"
    truth = [one.batch(step) for step in range(start, start + 10)]
    for workers in (0, 3):
        stream = make_loader(pixels, sampler, workers=workers).stream(start)
        for wanted, found in zip(truth, itertools.islice(stream, 10), strict=True):
            assert torch.equal(wanted.ids, found.ids) and torch.equal(wanted.images, found.images)
    epoch = [one.batch(step) for step in range(one.epoch_steps)]
    assert torch.equal(torch.cat([b.ids for b in epoch]), one.order(0))
    assert torch.equal(torch.cat([one.places(step)[1] for step in range(one.epoch_steps)]), torch.arange(one.epoch_images))
    for batch in epoch:
        assert torch.equal(batch.targets.argmax(1), one.labels[batch.ids])
        assert torch.equal(batch.images.permute(0, 2, 3, 1), pixels.read(batch.ids))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_of_all_keeps_its_order(sampler: Sampler, pixels: RawPixels) -> None:
    one = make_loader(pixels, sampler, sampler.length(LABELS))
    assert one.epoch_steps == 1
    assert torch.equal(one.batch(0).ids, one.batch(5).ids)
    assert sorted(set(one.batch(0).ids.tolist())) == list(range(5, 55))
    assert [one.places(step)[0] for step in (0, 5)] == [0, 5], "chance goes on"


# ---- each ------------------------------------------------------------------------------------------------------------------------


def test_shuffle_shows_every_image_once() -> None:
    assert sorted(Shuffle()(LABELS, chance()).tolist()) == list(range(50))


def test_balanced_shows_every_class_as_often_as_the_largest() -> None:
    order = Balanced()(LABELS, chance())
    assert len(order) == 4 * 30
    assert torch.bincount(LABELS[order], minlength=5).tolist() == [30, 0, 30, 30, 30]
    for label in (0, 2, 3, 4):
        times = torch.bincount(order, minlength=50)[label == LABELS]
        assert times.max() - times.min() <= 1, "each image of a class equally often, give or take one"
    odd = [torch.bincount(Balanced()(LABELS, chance(epoch)), minlength=50) for epoch in range(2)]
    assert not torch.equal(odd[0], odd[1]), "the odd repeats are drawn anew"
    halves = LABELS[order].view(2, 60)
    assert all((torch.bincount(half, minlength=5)[[0, 2, 3, 4]] > 5).all() for half in halves), "mixed, not class by class"


def test_equal_classes_are_shown_once() -> None:
    labels = torch.arange(40) % 4
    order = Balanced()(labels, Chance.of(0, torch.arange(40), "order", 0))
    assert sorted(order.tolist()) == list(range(40))


def test_repeated_images_are_augmented_differently(pixels: RawPixels) -> None:
    one = make_loader(pixels, Balanced(), batch=120)
    batch, (epoch, places) = one.batch(0), one.places(0)
    made = Crop(3)(batch, Chance.of(0, places, "augment", epoch), 0.5)
    rare = int(batch.ids[one.labels[batch.ids] == 3][0])  # the class of a single image
    views = {image.numpy().tobytes() for image in made.images[batch.ids == rare]}
    assert int((batch.ids == rare).sum()) == 30
    assert len(views) > 15


# ---- the recipe ------------------------------------------------------------------------------------------------------------------

BASE = Recipe(
    size=6, channels=3, model="linear", augment="none", optimizer="sgd(0.05)", schedule="constant", budget="4 epochs", batch_size=8,
    evaluate_every="4 epochs", precision="fp32", layout="contiguous", device="cpu", threads=1, workers=0, validation=0.25,
)  # fmt: skip


@pytest.fixture
def unbalanced(tmp_path: Path) -> Dataset:
    labels = np.repeat([0, 1, 2], [40, 8, 16])
    np.savez(tmp_path / "unequal.npz", images=np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), dtype=np.uint8), labels=labels)
    recipe = BASE.but(data=str(tmp_path / "unequal.npz"))
    return open_images(recipe)


def count_classes(data: Dataset) -> list[int]:
    return torch.bincount(data.labels[data.rows("train")]).tolist()


def test_the_epochs_of_a_recipe_with_a_balanced_sampler_are_longer(unbalanced: Dataset) -> None:
    plain, balanced = build_training(BASE, unbalanced), build_training(BASE.but(sampler="balanced"), unbalanced)
    assert plain.loader.epoch_images == sum(count_classes(unbalanced))
    assert balanced.loader.epoch_images == 3 * max(count_classes(unbalanced))
    assert balanced.plan.lengths.total_steps == 4 * -(-3 * max(count_classes(unbalanced)) // 8)
    whole = build_training(BASE.but(sampler="balanced", batch_size="all"), unbalanced)
    assert (whole.loader.epoch_steps, len(whole.loader.batch(0))) == (1, 3 * max(count_classes(unbalanced)))
    with pytest.raises(UsageError, match=r'Unknown sampler "balancd"\. Did you mean "balanced"'):
        build_training(BASE.but(sampler="balancd"), unbalanced)
    with goodfit.trust_code("torch"), pytest.raises(UsageError, match="derive yours from"):
        build_training(BASE.but(sampler="torch.arange"), unbalanced)


def test_class_weights_of_a_recipe(unbalanced: Dataset) -> None:
    n = count_classes(unbalanced)

    def weights(text: str | tuple[float, ...]) -> tuple[float, ...]:
        built = build_training(BASE.but(class_weights=text), unbalanced)
        assert isinstance(built.plan.loss, WeightedLoss)
        assert built.evaluator.loss == built.plan.loss.loss, "evaluation weighs all images alike"
        return built.plan.loss.weights

    assert weights("balanced") == pytest.approx([sum(n) / (3 * x) for x in n])
    assert weights((1, 2, 5)) == (1.0, 2.0, 5.0)
    assert weights(f"{unbalanced.classes[1]}=4") == (1.0, 4.0, 1.0)
    assert not isinstance(build_training(BASE, unbalanced).plan.loss, WeightedLoss)
    assert BASE.but_text({"class_weights": "(1, 2, 5)"}).class_weights == (1.0, 2.0, 5.0)
    assert BASE.but_text({"class_weights": "cat=2, dog=0.5"}).class_weights == "cat=2, dog=0.5"


def test_class_weights_go_through_toml(tmp_path: Path) -> None:
    for given in ("balanced", (1.0, 2.0, 5.0)):
        (tmp_path / "r.toml").write_text(BASE.but(class_weights=given).to_toml())
        assert Recipe.from_toml(tmp_path / "r.toml").class_weights == given


def test_penalties_on_layers_that_are_not_there_are_said_before_training(unbalanced: Dataset) -> None:
    build_training(BASE.but(penalty="l2(0.1, layers=head) | l1"), unbalanced, load_catalog())
    with pytest.raises(UsageError, match='received "haed"'):
        build_training(BASE.but(penalty="l2(0.1, layers=haed)"), unbalanced, load_catalog())


def test_clip_value_of_a_recipe(unbalanced: Dataset) -> None:
    def first_step(**changes: float) -> Tensor:
        built = build_training(BASE.but(optimizer="sgd(1.0, momentum=0, weight_decay=0)", **changes), unbalanced, load_catalog())
        before = [p.detach().clone() for p in built.state.model.parameters()]
        objective = Objective(built.state, built.loader.batch(0), built.plan, 0.0)
        built.state.optimizer.step(objective)  # type: ignore[arg-type]
        return torch.cat([(b - p.detach()).flatten() for b, p in zip(before, built.state.model.parameters(), strict=True)])

    free, held = first_step(), first_step(clip_value=0.01)
    assert float(free.abs().max()) > 0.02
    torch.testing.assert_close(held, free.clamp(-0.01, 0.01), rtol=0, atol=1e-6)
