"""Fine-tuning in trainings built from a recipe: pretrained weights reach l2_sp and wise, and a resume is bit-equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.device import select_device
from goodfit.core.errors import UsageError
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.recipe.build import Training, bind_penalties
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.study.ensemble.soup import NormRecalibrator
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.loop import fit
from tests.support.build import build_training

KNOWN = load_catalog()
RECIPE = Recipe(
    data="digits", limit=8, size=8, channels=1, model="convnet(4)", augment="none", optimizer="sgd(0.05, weight_decay=0)",
    schedule="constant", rates="none", budget="6 steps", evaluate_every="2 steps", batch_size=16, precision="fp32", layout="contiguous",
    storage="raw", device="cpu", threads=1, workers=0, probes="none",
)  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_images(RECIPE)


def net(seed: int = 7, model: str = "convnet(4)") -> nn.Module:
    """A net whose every tensor differs from a fresh one's."""
    torch.manual_seed(seed)
    made = make_model(KNOWN.make(model, "model"), 10, 1, (8, 8))
    with torch.no_grad():
        for x in made.state_dict().values():
            x.add_(0.1 * torch.rand(x.shape) if x.is_floating_point() else 7)
    return made


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in tensors.items()}


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


def trained(recipe: Recipe, data: Dataset, **options: Any) -> Training:
    built = build_training(recipe, data, KNOWN, net())
    fit(built.state, built.loader, built.plan, built.watch, **options)
    return built


@pytest.mark.parametrize("model", ["convnet(4)", "convnet(4, init=lsuv)"])
def test_training_starts_from_the_pretrained_net(digits: Dataset, model: str) -> None:
    given = net(model=model)
    before = copies(given.state_dict())
    built = build_training(RECIPE.but(model=model, average="ema"), digits, KNOWN, given)
    assert built.plan.start is not None and built.state.average is not None
    for tensors in (built.state.model.state_dict(), built.state.average.state_dict(), built.plan.start):
        assert_equal(tensors, before)
    fit(built.state, built.loader, built.plan)
    assert_equal(built.plan.start, before)
    assert not torch.equal(built.state.model.state_dict()["head.weight"], before["head.weight"])
    assert build_training(RECIPE, digits, KNOWN).plan.start is None


def test_l2_sp_pulls_all_but_the_head_to_its_start(digits: Dataset) -> None:
    built = build_training(RECIPE.but(penalty="l2_sp(0.4, beta=0.6) | l2(0.1, layers=head)"), digits, KNOWN, net())
    model, (penalty, _) = built.state.model, built.plan.penalties
    head = float((model.get_parameter("head.weight").detach().double() ** 2).sum())
    assert float(penalty(model).detach()) == pytest.approx(0.6 / 2 * head, rel=1e-6), "at the start the others have no distance"
    with torch.no_grad():
        model.get_parameter("stage1.first.conv.weight").add_(0.5)
        model.get_parameter("stage1.first.norm.weight").add_(0.5)
    n = model.get_parameter("stage1.first.conv.weight").numel()
    assert float(penalty(model).detach()) == pytest.approx(0.6 / 2 * head + 0.4 / 2 * n * 0.25, rel=1e-5)


def test_auxiliary_heads_count_as_new() -> None:
    model = make_model(KNOWN.make("googlenet", "model"), 3, 3, (32, 32))
    start = copies(model.state_dict())
    (penalty,) = bind_penalties(KNOWN.make("l2_sp(1.0, beta=2.0)", "penalty"), model, start)
    new = sum(float((x.double() ** 2).sum()) for name, x in start.items() if name in ("fc.weight", "aux1.fc2.weight", "aux2.fc2.weight"))
    assert new > 0 and float(penalty(model).detach()) == pytest.approx(new, rel=1e-5)


def test_l2_sp_keeps_the_net_nearer_to_its_start(digits: Dataset) -> None:
    def distance(penalty: str) -> float:
        weight = trained(RECIPE.but(penalty=penalty, budget="40 steps"), digits).state.model.get_parameter("stage1.first.conv.weight")
        return float((weight - net().get_parameter("stage1.first.conv.weight")).detach().norm())

    assert distance("l2_sp(2.0)") < 0.5 * distance("none")


def test_wise_is_between_the_pretrained_net_and_the_trained_one(digits: Dataset) -> None:
    plain, wise = trained(RECIPE, digits), trained(RECIPE.but(average="wise(0.25)"), digits)
    assert_equal(plain.state.model.state_dict(), wise.state.model.state_dict())
    assert wise.state.eval_model is wise.state.average
    current, start = wise.state.model.state_dict(), net().state_dict()
    for name, x in wise.state.eval_model.named_parameters():
        expected = 0.75 * start[name].double().numpy() + 0.25 * current[name].double().numpy()
        assert np.allclose(x.numpy(), expected, atol=1e-6), name
    validate: Any = wise.plan.evaluate
    assert wise.state.history[-1] == validate(wise.state.eval_model, True)["score"]


@pytest.mark.parametrize(
    "changes",
    [
        {"penalty": "l2_sp(0.5)"},
        {"average": "wise"},
        {"trainable": "gradual(0.7)", "average": "wise(0.8)"},
        {"trainable": "all(statistics=all_fixed)", "penalty": "l2_sp"},
    ],
)
def test_a_resume_from_the_same_start_is_bit_equal(changes: dict[str, str], digits: Dataset, tmp_path: Path) -> None:
    recipe = RECIPE.but(**changes, budget="9 steps")
    whole = trained(recipe, digits).state
    first = build_training(recipe, digits, KNOWN, net())
    fit(first.state, first.loader, first.plan, save=Checkpoints(tmp_path).save, halt=lambda: first.state.step == 5)
    second = build_training(recipe, digits, KNOWN, net())
    Checkpoints(tmp_path).restore(second.state)
    assert second.state.step == 5
    assert second.plan.start is not None
    assert_equal(second.plan.start, net().state_dict())
    fit(second.state, second.loader, second.plan)
    assert_equal(second.state.model.state_dict(), whole.model.state_dict())
    assert_equal(second.state.eval_model.state_dict(), whole.eval_model.state_dict())
    assert second.state.history == whole.history


@pytest.mark.parametrize(
    ("changes", "said"), [({"penalty": "l2_sp"}, "l2_sp: expected pretrained weights"), ({"average": "wise"}, '"wise" averages with')]
)
def test_without_pretrained_weights_they_are_refused(changes: dict[str, str], said: str, digits: Dataset) -> None:
    with pytest.raises(UsageError, match=said) as error:
        build_training(RECIPE.but(**changes), digits, KNOWN)
    assert "give --from" in str(error.value) and str(error.value).count(". ") == 0


def test_soups_of_such_runs_need_no_start(digits: Dataset, tmp_path: Path) -> None:
    recipe, model = RECIPE.but(average="wise", penalty="l2_sp", resolution="full", views="center", loss="softmax"), net()
    before = copies(model.state_dict())
    (tmp_path / "run").mkdir()
    NormRecalibrator(Run(tmp_path / "run"), recipe, digits, select_device("cpu")).recalibrate(model)
    changed = {name.rpartition(".")[2] for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
