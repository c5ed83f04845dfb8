"""The advisor: its figures against formulas, its cells against the lecture's table, and that a training does what it says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.reporter import SilentReporter
from goodfit.data.dataset import Dataset
from goodfit.recipe.prepare import Opened, open_source, prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.advise import LECTURE, accuracy_with_error, advise
from goodfit.recipe.transfer.domain_shift import is_similar, measure_shift
from goodfit.recipe.transfer.features import FeatureNet, compute_features
from goodfit.recipe.transfer.probe import fit_probe
from tests.support.command import FAST, goodfit, refused, train
from tests.support.photos import make_photos


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "source"
    changes = {"model": "convnet(4)", "optimizer": "sgd(0.05, momentum=0.9)", "budget": "6 epochs"}
    assert train(photos, out, **changes).code == 0
    return out


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of other classes."""
    folder = make_photos(tmp_path_factory.mktemp("data") / "target", each=24)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name in ("blue", "green", "red"):
            path.rename(path.with_name(f"dark {path.name}"))
    return folder


@pytest.fixture(scope="module")
def opened(source: Path, target: Path) -> tuple[Opened, FeatureNet]:
    return open_source(Recipe(data=str(target), source=str(source), device="cpu"), SilentReporter())


# ---- figures -----------------------------------------------------------------------------------------------------------------------


def test_standard_errors() -> None:
    """Against the spread over many draws of the images."""
    draw, n, p = np.random.default_rng(0), 400, 0.7
    share = (draw.random((4000, n)) < p).mean(1)
    assert accuracy_with_error(torch.arange(n) < p * n) == (p, pytest.approx(share.std(), rel=0.05))
    accuracy, error = accuracy_with_error(torch.ones(20, dtype=torch.bool))
    assert (accuracy, error > 0.03) == (1, True), "all right is not certain"


def test_large_splits_are_sampled_alike_from_all_over() -> None:
    rows = torch.arange(0, 60000, 3)

    def sample_rows(rows: Tensor) -> Tensor:
        return Dataset.sample_rows(SimpleNamespace(local_rows=lambda split: rows), "train", 4000)  # type: ignore[arg-type]

    taken = sample_rows(rows)
    assert len(taken) == 4000
    assert torch.isin(taken, rows).all()
    assert torch.equal(taken, taken.unique())
    assert abs(float(taken.double().mean()) - 30000) < 1200
    assert torch.equal(sample_rows(rows[:100]), rows[:100])


# ---- the whole ---------------------------------------------------------------------------------------------------------------------


def test_only_training_images_are_looked_at(opened: tuple[Opened, FeatureNet], monkeypatch: pytest.MonkeyPatch) -> None:
    (found, net), seen, fitted = opened, set(), []
    rows = found.data.rows("train")

    def recording_features(net: Any, data: Any, rows: Tensor, *rest: Any) -> Any:
        seen.update(rows.tolist())
        return compute_features(net, data, rows, *rest)

    def recording_fit(x: Any, labels: Tensor, classes: int) -> Any:
        fitted.append(np.array(x))
        assert torch.equal(labels, found.data.labels[rows.sort().values])
        return fit_probe(x, labels, classes)

    monkeypatch.setattr("goodfit.recipe.transfer.advise.compute_features", recording_features)
    monkeypatch.setattr("goodfit.recipe.transfer.advise.fit_probe", recording_fit)
    advice = advise(found.chooser, net, found.data)
    assert seen == set(rows.tolist()) and advice.judged == len(rows)
    assert [x.shape[1] for x in fitted] == [probe.length for probe in advice.probes]
    right = fit_probe(fitted[-1], found.data.labels[rows.sort().values], 3).held == found.data.labels[rows.sort().values]
    assert advice.probes[-1].accuracy == pytest.approx(float(right.double().mean()))


def test_it_repeats_and_leaves_the_generator_alone(source: Path, target: Path, opened: tuple[Opened, FeatureNet]) -> None:
    state = torch.get_rng_state()
    again, net = open_source(Recipe(data=str(target), source=str(source), device="cpu"), SilentReporter())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.digest == opened[1].digest
    assert advise(again.chooser, net, again.data) == advise(opened[0].chooser, opened[1], opened[0].data)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.item("S179")
@pytest.mark.parametrize(
    ("limits", "shift", "cell", "trainable"),
    [
        ((17, 17), 0.3, "little similar", "head"),
        ((17, 17), 0.4, "little different", 'last(2, statistics="all_fixed")'),
        ((16, 17), 0.3, "much similar", 'last(2, statistics="all_fixed")'),
        ((16, 16), 0.4, "much different", 'all(statistics="all_fixed")'),
    ],
)
def test_the_cells_of_the_table(
    opened: tuple[Opened, FeatureNet], monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], shift: float, cell: str, trainable: str
) -> None:
    """16 images a class are little where the limit is 17; data is different where it moves the statistics of the norms far."""
    found, net = opened
    for module, name, limit in (
        ("advise", "MIN_IMAGES_PER_CLASS", limits[0]),
        ("defaults", "MIN_IMAGES_PER_CLASS", limits[0]),
        ("defaults", "MANY_IMAGES_PER_CLASS", limits[1]),
    ):
        monkeypatch.setattr(f"goodfit.recipe.transfer.{module}.{name}", limit)
    monkeypatch.setattr("goodfit.recipe.transfer.advise.measure_shift", lambda net, data: shift)
    advice = advise(found.chooser, net, found.data)
    assert (f"{advice.amount} {advice.kinship}", advice.trainable, advice.per_class) == (cell, trainable, 16)
    assert advice.lecture == LECTURE[advice.amount, advice.kinship]


@pytest.mark.item("S179")
def test_the_shift_is_numpys_and_tells_similar_images_from_others(opened: tuple[Opened, FeatureNet]) -> None:
    """Of the first norm against its formula in float64; images of noise are unlike photos."""
    found, net = opened
    data, norms = found.data, [m for m in net.model.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: dict[nn.Module, np.ndarray] = {}
    hooks = [m.register_forward_hook(lambda m, inputs, output: seen.update({m: inputs[0].double().numpy()})) for m in norms]
    shift = measure_shift(net, data)
    for hook in hooks:
        hook.remove()
    each = [
        np.mean(abs(x.mean((0, 2, 3)) - m.running_mean.numpy()) / np.sqrt(m.running_var.numpy() + m.eps))  # type: ignore[union-attr]
        for m, x in seen.items()
    ]
    assert len(each) == len(norms) > 1 and shift == pytest.approx(np.mean(each), rel=1e-5)
    noise = torch.randint(0, 256, data.pixels.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    others = dataclasses.replace(data, pixels=SimpleNamespace(read=lambda rows: noise[rows]))  # type: ignore[arg-type]
    other_shift = measure_shift(net, others)
    assert other_shift is not None and shift is not None and other_shift > 2 * shift
    without = dataclasses.replace(net, model=nn.Sequential(nn.Flatten(), nn.Linear(3 * data.preprocess.size[0] ** 2, 2)))
    assert measure_shift(without, data) is None and is_similar(None) and is_similar(0.3) and not is_similar(0.4)


def chosen(data: Path, source: Path, **changes: Any) -> tuple[str, str, str]:
    """What a training of this data takes for trainable, by which rule, on what evidence."""
    fields = {key: value for key, value in FAST.items() if key not in ("size", "model", "trainable", "budget", "batch_size", *changes)}
    prepared = prepare(Recipe(data=str(data), source=str(source), device="cpu").but_text(fields).but(**changes))
    choice = next(choice for choice in prepared.choices if choice.field == "trainable")
    return choice.value, choice.rule, choice.evidence


@pytest.mark.item("S179")
def test_the_verb_advises_what_a_training_does(source: Path, target: Path) -> None:
    said = goodfit("advise", target, "--from", source, "--json")
    assert said.code == 0, said
    found = json.loads(said.out)
    assert (found["amount"], found["per_class"], found["chance"]) == ("much", 16.0, pytest.approx(1 / 3))
    assert [probe["name"] for probe in found["probes"]] == ["stem", "stage1", "head"]
    for probe in found["probes"]:
        assert 0 < probe["accuracy"] <= 1 and probe["error"] > 0
    words = goodfit("advise", target, "--from", source)
    for word in ("head", "The lecture:", found["lecture"], f"Advice: {found['patch']}"):
        assert word in words.out
    assert "those of the pretraining" in found["evidence"]
    assert chosen(target, source) == (found["trainable"], found["rule"], found["evidence"])


@pytest.mark.parametrize("changes", [{"head_init": "random"}, {"optimizer": "lbfgs", "noise": "allow"}])
@pytest.mark.thorough
def test_it_agrees_with_a_training_where_no_probe_is_asked(source: Path, target: Path, photos: Path, changes: dict[str, str]) -> None:
    """Of photos, whose classes are those of the source, the head is kept."""
    for data, others in ((photos, {}), (target, changes)):
        found, net = open_source(Recipe(data=str(data), source=str(source), device="cpu").but(**others), SilentReporter())
        advice = advise(found.chooser, net, found.data)
        assert "leads" not in advice.evidence
        assert chosen(data, source, **others) == (advice.trainable, advice.rule, advice.evidence)


def test_what_is_trained_is_chosen_where_it_is_open(source: Path, target: Path) -> None:
    fields = {key: value for key, value in FAST.items() if key not in ("size", "model", "trainable")}
    asked = Recipe(data=str(target), source=str(source), device="cpu").but_text(fields)
    resolved = prepare(asked).recipe
    assert (resolved.trainable, resolved.rates) == ("last(2, length=1.0, statistics='all_fixed')", "none")
    resolved = prepare(asked.but(rates="layer_decay(0.5)")).recipe
    assert (resolved.trainable, resolved.rates) == ("last(2, length=1.0, statistics='all_fixed')", "layer_decay(0.5)")
    resolved = prepare(asked.but(trainable="last(1)", head_init="random")).recipe
    assert str(resolved.trainable).startswith("last(1") and resolved.rates == "backbone(0.1)"
    resolved = prepare(asked.but(source="", model="linear")).recipe
    assert (resolved.trainable, resolved.rates) == ("all(1.0, statistics='moving')", "none")


def test_a_net_that_is_one_layer(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "linear").code == 0
    said = goodfit("advise", photos, "--from", tmp_path / "linear", "--json")
    assert said.code == 0, said
    found = json.loads(said.out)
    assert [probe["name"] for probe in found["probes"]] == ["head"]
    assert found["trainable"] == 'all(statistics="all_fixed")'


def test_advise_refuses(target: Path, tmp_path: Path) -> None:
    refused(goodfit("advise", target), 2, "Expected --from: a run folder")
    refused(goodfit("advise", target, "--from", tmp_path / "none"), 2, "found nothing at")
    refused(goodfit("advise", tmp_path / "none", "--from", "nothing-at-all"), 3)
