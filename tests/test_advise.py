"""The advisor: its figures against formulas, its cells against the lecture's table, and what it may not look at."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.models.weights.files import from_run
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import open_origin, prepare
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer.advise import (
    LITTLE_DATA,
    MAX_PROBED_IMAGES,
    MIN_IMAGES_TO_TRAIN_ALL,
    MIN_IMAGES_TO_TRAIN_STAGES,
    MIN_SIMILARITY,
    Advice,
    StageProbe,
    accuracy_with_error,
    advise,
    decide,
    feature_similarity,
    lead_in_errors,
)
from goodfit.recipe.transfer.features import compute_features, feature_places
from goodfit.recipe.transfer.origin import Origin, make_origin
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
    return make_photos(tmp_path_factory.mktemp("data") / "target", each=24)


@pytest.fixture(scope="module")
def origin(source: Path, target: Path) -> Origin:
    return open_origin(Recipe(data=str(target), source=str(source), device="cpu"), SilentReporter())


# ---- the cell and the action -------------------------------------------------------------------------------------------------------


def advised(per_class: int, pretrained: float, random: float, sooner: float = 0.0, stages: int = 4, n: int = 2000) -> Advice:
    """The advice for a net of some stages whose last one has those accuracies, and the one before it `sooner`."""

    def right(share: float) -> Tensor:
        return torch.arange(n) < share * n

    children = {f"stage{i}": nn.Linear(2, 2) for i in range(1, stages + 1)}
    model = nn.Sequential()
    for name, child in [*children.items(), ("head", nn.Linear(2, 3))]:
        model.add_module(name, child)
    names = list(children)
    shares = dict.fromkeys(names, min(0.2, pretrained)) | {names[-1]: pretrained} | ({names[-2]: sooner} if sooner else {})
    rungs = tuple(StageProbe(name, 2, *accuracy_with_error(right(shares[name])), *accuracy_with_error(right(random))) for name in names)
    data: Any = SimpleNamespace(class_counts=lambda: (per_class,) * 3)
    net: Any = SimpleNamespace(data=data, pretrained=SimpleNamespace(model=model))
    return decide(net, rungs, {name: right(shares[name]) for name in names}, *feature_similarity(right(pretrained), right(random)))


@pytest.mark.item("S179")
@pytest.mark.parametrize(
    ("per_class", "pretrained", "cell", "lecture", "patch"),
    [
        (
            MIN_IMAGES_TO_TRAIN_STAGES - 1,
            0.8,
            "little similar",
            "a linear classifier on the top layer",
            '--trainable "head" --rates "none"',
        ),
        (LITTLE_DATA - 1, 0.99, "little similar", "a linear classifier on the top layer", '--trainable "head" --rates "none"'),
        (LITTLE_DATA - 1, 0.8, "little similar", "a linear classifier on the top layer", '--trainable "last(2)" --rates "backbone(0.1)"'),
        (LITTLE_DATA - 1, 0.5, "little different", "different stages", '--trainable "last(2)" --rates "none"'),
        (MIN_IMAGES_TO_TRAIN_STAGES - 1, 0.5, "little different", "different stages", '--trainable "last(2)" --rates "none"'),
        (LITTLE_DATA, 0.8, "much similar", "a few layers", '--trainable "last(2)" --rates "backbone(0.3)"'),
        (MIN_IMAGES_TO_TRAIN_ALL, 0.8, "much similar", "a few layers", '--trainable "all" --rates "none"'),
        (LITTLE_DATA, 0.5, "much different", "a larger number of layers", '--trainable "all" --rates "none"'),
    ],
)
def test_the_table(per_class: int, pretrained: float, cell: str, lecture: str, patch: str) -> None:
    found = advised(per_class, pretrained, 0.4)
    assert f"{found.amount} {found.kinship}" == cell
    assert lecture in found.lecture
    assert found.patch == patch
    assert (found.per_class, found.judged) == (per_class, 2000)
    assert found.chance == pytest.approx(1 / 3)
    known = load_catalog()
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    learning = known.make(found.trainable, "trainable")(model)  # type: ignore[operator]
    stages = {"head": ["4"], "last(2)": ["2", "3", "4"], "all": ["0", "1", "2", "3", "4"]}[found.trainable]
    assert learning == {f"{stage}.{kind}" for stage in stages for kind in ("weight", "bias")}
    factors = known.make(found.rates, "rates")(model)  # type: ignore[operator]
    assert set(factors.values()) == {"none": set(), "backbone(0.1)": {0.1}, "backbone(0.3)": {0.3}}[found.rates]
    assert found.reasons[0].startswith(f"{per_class} training images per class are {found.amount} data")


def test_an_earlier_stage_must_be_better_beyond_doubt() -> None:
    assert advised(3, 0.8, 0.4, sooner=0.9).best == "stage3"
    assert any("stage3 serves better than stage4" in reason for reason in advised(3, 0.8, 0.4, sooner=0.9).reasons)
    assert advised(3, 0.8, 0.4, sooner=0.9).trainable == "last(2)", "a linear classifier on the last stage would not do"
    near = advised(3, 0.8, 0.4, sooner=0.801)
    assert (near.best, near.trainable) == ("stage3", "head")
    assert not any("serves better" in reason for reason in near.reasons)


def test_the_line_is_said_where_it_is_near() -> None:
    q = 0.4
    p = q + MIN_SIMILARITY * (1 - q)
    assert "reach across" in advised(40, p + 0.01, q).reasons[1]
    assert "reach across" not in advised(40, p + 0.2, q).reasons[1]
    assert advised(40, p + 0.01, q).kinship == "similar"
    assert advised(40, p - 0.01, q).kinship == "different"


def test_nets_of_few_stages() -> None:
    assert advised(10, 0.8, 0.4, stages=2).trainable == "last(1)"
    assert advised(10, 0.8, 0.4, stages=7).trainable == "last(3)"


# ---- figures -----------------------------------------------------------------------------------------------------------------------


def test_standard_errors() -> None:
    """Against the spread over many draws of the images."""
    draw, n, p, q = np.random.default_rng(0), 400, 0.7, 0.4
    pretrained, random = draw.random((4000, n)) < p, draw.random((4000, n)) < q
    share, rest = pretrained.mean(1), random.mean(1)
    assert accuracy_with_error(torch.arange(n) < p * n) == (p, pytest.approx(share.std(), rel=0.05))
    similarity, doubt = feature_similarity(torch.arange(n) < p * n, torch.arange(n) < q * n)
    assert similarity == pytest.approx((p - q) / (1 - q))
    assert doubt == pytest.approx(((share - rest) / (1 - rest)).std(), rel=0.1)
    accuracy, error = accuracy_with_error(torch.ones(20, dtype=torch.bool))
    assert (accuracy, error > 0.03) == (1, True), "all right is not certain"


def test_paired_differences() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.random(500) < 0.6, draw.random(500) < 0.5
    wins, losses, n = int((a & ~b).sum()), int((b & ~a).sum()), 500
    expected = (wins - losses) / np.sqrt(wins + losses - (wins - losses) ** 2 / n)
    assert lead_in_errors(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected)
    assert lead_in_errors(torch.from_numpy(a), torch.from_numpy(a)) == 0


def test_similarity_at_its_ends() -> None:
    ones, none = torch.ones(50, dtype=torch.bool), torch.zeros(50, dtype=torch.bool)
    assert feature_similarity(ones, none)[0] == 1
    assert feature_similarity(none, ones)[0] == -1
    assert feature_similarity(ones, ones)[0] == 0


def test_large_splits_are_sampled_alike_from_all_over() -> None:
    rows = torch.arange(0, 60000, 3)

    def sample_rows(rows: Tensor) -> Tensor:
        return Dataset.sample_rows(SimpleNamespace(rows=lambda split: rows), "train", MAX_PROBED_IMAGES)  # type: ignore[arg-type]

    taken = sample_rows(rows)
    assert len(taken) == MAX_PROBED_IMAGES
    assert torch.isin(taken, rows).all()
    assert torch.equal(taken, taken.unique())
    assert abs(float(taken.double().mean()) - 30000) < 1200
    assert torch.equal(sample_rows(rows[:100]), rows[:100])


# ---- the whole ---------------------------------------------------------------------------------------------------------------------


def test_only_training_images_are_fitted_to_and_no_test_image_is_seen(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    data = origin.data
    train_rows, test = set(data.rows("train").tolist()), set(data.rows("test").tolist())
    fitted: list[tuple[Tensor, Tensor]] = []
    seen: set[int] = set()

    def recording_fit(x: Any, labels: Tensor, classes: int) -> Any:
        fitted.append((torch.as_tensor(np.array(x)), labels))
        return fit_probe(x, labels, classes)

    def recording_features(net: Any, data: Any, rows: Tensor, *rest: Any) -> Any:
        seen.update(rows.tolist())
        return compute_features(net, data, rows, *rest)

    monkeypatch.setattr("goodfit.recipe.transfer.advise.fit_probe", recording_fit)
    monkeypatch.setattr("goodfit.recipe.transfer.advise.compute_features", recording_features)
    found = advise(origin)
    assert seen and not seen & test
    assert len(fitted) == 2 * len(found.rungs)
    rows = torch.tensor(sorted(train_rows))
    names = feature_places(origin.pretrained.model)[: len(found.rungs)]
    for (x, labels), (net, name) in zip(fitted, [(net, name) for net in (origin.pretrained, origin.random) for name in names], strict=True):
        assert torch.equal(labels, data.labels[rows])
        np.testing.assert_array_equal(x.numpy(), compute_features(net, data, rows, [name])[name])
    assert found.judged == len(train_rows) + len(data.rows("validation"))


def test_labels_that_are_held_out_change_only_what_is_judged(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    rungs = advise(origin).rungs
    held = origin.data.rows("validation")
    before = origin.data.labels[held].clone()
    origin.data.labels[held] = (before + 1) % 3
    try:
        worse = advise(origin).rungs
    finally:
        origin.data.labels[held] = before
    share = len(held) / (len(held) + len(origin.data.rows("train")))
    assert all(0 <= a.accuracy - b.accuracy <= share + 1e-9 for a, b in zip(rungs, worse, strict=True))
    assert any(a.accuracy > b.accuracy for a, b in zip(rungs, worse, strict=True))


def test_it_repeats_and_leaves_the_generator_alone(source: Path, target: Path, origin: Origin) -> None:
    again = open_origin(Recipe(data=str(target), source=str(source), device="cpu"), SilentReporter())
    assert again.random.digest == origin.random.digest
    state = torch.get_rng_state()
    assert advise(again) == advise(origin)
    assert torch.equal(torch.get_rng_state(), state)
    weights = from_run(Run(source))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert (
        make_origin(weights, load_catalog().make("convnet(4)", "model"), origin.data, torch.device("cpu")).random.digest
        == origin.random.digest
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_random_weights_are_random_and_have_the_statistics_of_the_images(origin: Origin) -> None:
    pretrained, random = origin.pretrained.model, origin.random.model
    assert [name for name, _ in pretrained.named_parameters()] == [name for name, _ in random.named_parameters()]
    assert not torch.allclose(next(pretrained.parameters()), next(random.parameters()))
    rows, pre = origin.data.rows("train"), origin.random.preprocess
    images = pre.normalize(pre.center_crop(origin.data.pixels.read_exact(rows).permute(0, 3, 1, 2)))
    convs = [m for m in random.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in random.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        maps = convs[0](images)
    assert norms[0].running_mean is not None
    torch.testing.assert_close(norms[0].running_mean, maps.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not any(m.training for m in random.modules())


@pytest.mark.item("S179")
def test_the_verb_measures_and_its_patch_trains(source: Path, target: Path, tmp_path: Path) -> None:
    said = goodfit("advise", target, "--from", source, "--json")
    assert said.code == 0, said
    found = json.loads(said.out)
    assert (found["amount"], found["per_class"], found["chance"]) == ("little", 16.0, pytest.approx(1 / 3))
    assert [rung["name"] for rung in found["rungs"]] == ["stem", "stage1", "stage2"]
    for rung in found["rungs"]:
        assert 0 < rung["accuracy"] <= 1
        assert rung["error"] > 0
    words = goodfit("advise", target, "--from", source)
    assert words.out == ""
    for word in ("stage2", "The lecture:", found["lecture"], f"Advice: {found['patch']}"):
        assert word in words.err
    run = tmp_path / "run"
    options = ("--from", source, "--trainable", found["trainable"], "--rates", found["rates"])
    chosen = [word for key, value in FAST.items() if key not in ("model", "size") for word in (f"--{key.replace('_', '-')}", value)]
    assert goodfit("train", target, "--out", run, *options, *chosen).code == 0


def test_what_is_trained_is_chosen_where_it_is_open(source: Path, target: Path) -> None:
    fields = {key: value for key, value in FAST.items() if key not in ("size", "model", "trainable")}
    asked = Recipe(data=str(target), source=str(source), device="cpu").but_text(fields)
    resolved = prepare(asked).recipe
    assert (resolved.trainable, resolved.rates) == ("all(1.0, statistics='all_fixed')", "none")
    resolved = prepare(asked.but(rates="layer_decay(0.5)")).recipe
    assert (resolved.trainable, resolved.rates) == ("all(1.0, statistics='all_fixed')", "layer_decay(0.5)")
    resolved = prepare(asked.but(trainable="last(1)", head_init="random")).recipe
    assert str(resolved.trainable).startswith("last(1") and resolved.rates == "backbone(0.1)"
    resolved = prepare(asked.but(source="", model="linear")).recipe
    assert (resolved.trainable, resolved.rates) == ("all(1.0, statistics='moving')", "none")


def test_a_net_that_is_one_layer(target: Path, photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "linear").code == 0
    found = json.loads(goodfit("advise", target, "--from", tmp_path / "linear", "--json").out)
    assert [rung["name"] for rung in found["rungs"]] == ["head"]
    assert found["patch"] == '--trainable "all" --rates "none"'


def test_advise_refuses(target: Path, tmp_path: Path) -> None:
    refused(goodfit("advise", target), 2, "Expected --from: a run folder")
    refused(goodfit("advise", target, "--from", tmp_path / "none"), 2, "found nothing at")
    refused(goodfit("advise", tmp_path / "none", "--from", "nothing-at-all"), 2)
