"""Features against the net run by hand, the linear probe against scikit-learn's optimum, and the file they are exported to."""

from __future__ import annotations

import copy
import dataclasses
import random
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

import goodfit as library
from goodfit.core.errors import DataError, UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.recipe.prepare import open_source
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.transfer import features
from goodfit.recipe.transfer.features import HEAD, FeatureNet, compute_features, feature_places, pool_features
from goodfit.recipe.transfer.probe import PENALTIES, LinearProbe, SoftmaxRegression, deal_folds, fit_probe
from tests.support.command import copied, goodfit, refused, train
from tests.support.damage import DAMAGES
from tests.support.photos import make_photos
from tests.support.predict import center_probabilities


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "source"
    assert train(photos, out, model="convnet(4)", optimizer="sgd(0.05, momentum=0.9)").code == 0
    return out


@pytest.fixture(scope="module")
def opened(source: Path, photos: Path) -> tuple[FeatureNet, Dataset]:
    found, net = open_source(Recipe(data=str(photos), source=str(source), device="cpu"), SilentReporter())
    return net, found.data


@pytest.fixture(scope="module")
def net(opened: tuple[FeatureNet, Dataset]) -> FeatureNet:
    return opened[0]


@pytest.fixture(scope="module")
def data(opened: tuple[FeatureNet, Dataset]) -> Dataset:
    return opened[1]


# ---- features ----------------------------------------------------------------------------------------------------------------------


def seen(net: FeatureNet, data: Dataset, rows: Tensor) -> Tensor:
    """The images of rows as the net sees them, in float64 NumPy and back."""
    pre = net.preprocess
    images = np.stack([np.asarray(data.pixels.read_exact(rows[i : i + 1]))[0] for i in range(len(rows))]).astype(np.float64)
    top, left = ((box - side) // 2 for box, side in zip(pre.box, pre.size, strict=True))
    images = images[:, top : top + pre.size[0], left : left + pre.size[1]] / 255
    return torch.from_numpy((images - np.array(pre.mean)) / np.array(pre.std)).permute(0, 3, 1, 2).float()


def test_features_are_what_the_net_makes_by_hand(net: FeatureNet, data: Dataset) -> None:
    rows = data.rows("train")[3:20]
    found = compute_features(net, data, rows, feature_places(net.model))
    assert list(found) == ["stem", "stage1", "stage2", HEAD]
    x, children = seen(net, data, rows), dict(net.model.named_children())
    with torch.no_grad():
        for name in ("stem", "stage1", "stage2"):
            x = children[name](x)
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], x.numpy().mean(axis=(2, 3)), atol=1e-5)
    np.testing.assert_allclose(found[HEAD], found["stage2"], atol=1e-5)


def test_the_head_on_its_features_answers_as_the_run_does(source: Path, net: FeatureNet, data: Dataset) -> None:
    classifier = library.load(source, "cpu").members[0]
    net = dataclasses.replace(net, model=classifier.model)
    rows = data.rows("validation")
    scores = classifier.model.get_submodule("head")(torch.from_numpy(np.array(compute_features(net, data, rows, [HEAD])[HEAD])))
    expected = center_probabilities(classifier, data.pixels.read_exact(rows).permute(0, 3, 1, 2))
    torch.testing.assert_close(scores.softmax(1), expected, atol=1e-5, rtol=0)


def first_weight(net: FeatureNet) -> str:
    return next(name for name in net.model.state_dict() if name.startswith("stem"))


def with_changed(net: FeatureNet, name: str) -> FeatureNet:
    """The net with one number of a tensor changed."""
    model = copy.deepcopy(net.model)
    with torch.no_grad():
        x = model.state_dict()[name]
        x[(0,) * x.ndim] += 1
    return dataclasses.replace(net, model=model)


def test_they_are_computed_once(net: FeatureNet, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    data, rows = dataclasses.replace(data, digest="of no other test"), data.rows("train")
    calls: list[tuple[list[str], int]] = []
    fill_cache = features._fill_cache

    def counting_fill(net: FeatureNet, data: Dataset, rows: Tensor, files: dict[str, Path], progress: Any) -> None:
        calls.append((list(files), len(rows)))
        fill_cache(net, data, rows, files, progress)

    monkeypatch.setattr(features, "_fill_cache", counting_fill)
    first = compute_features(net, data, rows, ["stage1"])["stage1"]
    assert isinstance(first, np.memmap)
    reports: list[tuple[int, int]] = []
    compute_features(net, data, rows, ["stage1", "stage2"], lambda done, total: reports.append((done, total)))
    compute_features(net, data, rows, ["stage2", "stage1"])
    assert calls == [(["stage1"], len(rows)), (["stage2"], len(rows))]
    assert reports[-1] == (len(rows), len(rows))
    compute_features(net, data, rows[:-1], ["stage1"])  # other rows
    compute_features(dataclasses.replace(net, preprocess=net.preprocess.but(mean=(0.1, 0.2, 0.3))), data, rows, ["stage1"])
    compute_features(net, dataclasses.replace(data, digest="other"), rows, ["stage1"])
    compute_features(with_changed(net, first_weight(net)), data, rows, ["stage1"])
    assert len(calls) == 6


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ones_are_computed_again(
    net: FeatureNet, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path))
    rows, places = data.rows("train"), ["stage1", HEAD]
    truth = {name: np.array(x) for name, x in compute_features(net, data, rows, places).items()}
    for file in sorted(tmp_path.rglob("*.npy")):
        DAMAGES[damage](file, random.Random(f"{damage} {file.name}"))
        for name, x in compute_features(net, data, rows, places).items():
            assert np.array_equal(x, truth[name])


def test_weights_are_told_apart_and_heads_are_not(net: FeatureNet) -> None:
    running = next(name for name in net.model.state_dict() if name.endswith("running_var"))
    assert with_changed(net, "head.weight").digest == net.digest
    assert with_changed(net, first_weight(net)).digest != net.digest
    assert with_changed(net, running).digest != net.digest


def test_shapes_that_are_pooled() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert pool_features(x).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    assert pool_features((x, "aux")).shape == (2, 3)
    assert pool_features(torch.ones(2, 7, 5)).shape == (2, 5)
    assert pool_features(torch.ones(2, 5).half()).dtype == torch.float32


def test_a_later_layer_in_place_spoils_nothing(net: FeatureNet, data: Dataset) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.end = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.act(self.conv(x)).mean((2, 3)))

    net = dataclasses.replace(net, model=InPlace().eval())
    assert feature_places(net.model) == ["conv", HEAD]
    found = compute_features(net, data, data.rows("train"), ["conv", HEAD])
    assert found["conv"].min() < 0 <= found[HEAD].min()


def test_a_stage_that_never_runs_as_a_whole(net: FeatureNet, data: Dataset) -> None:
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(3, 4, 3), nn.ModuleList([nn.Conv2d(4, 4, 3)])
            self.last, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.head(self.last(x).mean((2, 3)))

    looping = dataclasses.replace(net, name="loops", model=Loops().eval())
    with pytest.raises(UsageError, match='"loops" never runs blocks as a whole'):
        compute_features(looping, data, data.rows("train"), ["blocks", HEAD])


def test_wrong_stages_and_images(net: FeatureNet, data: Dataset) -> None:
    with pytest.raises(UsageError, match=r'Unknown stage "stage3"\. Did you mean "stage2"'):
        compute_features(net, data, data.rows("train"), ["stage3"])
    narrow = dataclasses.replace(net, name="gray", model=nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)))
    with pytest.raises(UsageError, match='"gray" does not take images of 3x16x16'):
        compute_features(narrow, data, data.rows("train"), [HEAD])


# ---- the probe ---------------------------------------------------------------------------------------------------------------------


def blobs(n: int, length: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features [n, length] of overlapping classes on scales that differ by a thousand, and their labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    x = draw.normal(size=(classes, length))[labels] * 0.7 + draw.normal(size=(n, length))
    return torch.from_numpy((x * np.geomspace(0.03, 30, length) + 5).astype(np.float32)), torch.from_numpy(labels)


def standardized(x: Tensor) -> np.ndarray:
    y = x.double().numpy()
    return (y - y.mean(0)) / y.std(0)


def loss_of(x: np.ndarray, labels: Tensor, weight: np.ndarray, bias: np.ndarray, l2: float) -> float:
    scores = x @ weight.T + bias
    scores -= scores.max(1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return float(-logs[np.arange(len(x)), labels.numpy()].mean() + l2 / 2 * (weight**2).sum())


def optimum(x: np.ndarray, labels: Tensor, l2: float) -> LogisticRegression:
    return LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=10000).fit(x, labels.numpy())


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize(("n", "length", "classes"), [(60, 90, 4), (400, 12, 5)])
def test_a_fit_is_at_scikit_learns_optimum(n: int, length: int, classes: int, l2: float) -> None:
    x, labels = blobs(n, length, classes)
    y = standardized(x)
    theta = SoftmaxRegression(torch.from_numpy(y).float(), labels, torch.zeros(classes, length + 1), l2).minimize(1e-6).double().numpy()
    best = optimum(y, labels, l2)
    expected = loss_of(y, labels, best.coef_, best.intercept_, l2)
    assert expected - 1e-6 <= loss_of(y, labels, theta[:, :-1], theta[:, -1], l2) <= expected + 1e-4


def test_the_gradient_is_autograds() -> None:
    x, labels = blobs(40, 6, 3)
    made = SoftmaxRegression(x.double(), labels, torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 0.3)
    loss = made()
    theta = made.theta.detach().clone().requires_grad_()
    expected = F.cross_entropy(x.double() @ theta[:, :-1].T + theta[:, -1], labels) + 0.15 * theta[:, :-1].square().sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(made.theta.grad, theta.grad)


def test_the_whole_probe_is_the_optimum_of_the_penalty_it_chose() -> None:
    x, labels = blobs(300, 12, 4)
    found = fit_probe(x, labels, 4)
    best = optimum(standardized(x), labels, found.l2)
    expected = loss_of(standardized(x), labels, best.coef_, best.intercept_, found.l2)
    raw = found.weight.double().numpy() * x.double().numpy().std(0), found.bias.double().numpy()
    raw = raw[0], raw[1] + found.weight.double().numpy() @ x.double().numpy().mean(0)
    assert loss_of(standardized(x), labels, *raw, found.l2) == pytest.approx(expected, abs=1e-4)
    new, _ = blobs(50, 12, 4, seed=1)
    y = (new.double().numpy() - x.double().numpy().mean(0)) / x.double().numpy().std(0)
    agree = found(new).argmax(1).numpy() == best.predict(y)
    assert agree.mean() > 0.97


def test_the_penalty_is_chosen_on_held_out_folds() -> None:
    x, labels = blobs(200, 30, 3)
    found, y, fold = fit_probe(x, labels, 3), standardized(x), deal_folds(labels, 5).numpy()
    held, losses = {}, []
    for l2, _ in found.path:
        logs = np.zeros((len(y), 3))
        for k in range(5):
            logs[fold == k] = optimum(y[fold != k], labels[fold != k], l2).predict_log_proba(y[fold == k])
        losses.append(-logs[np.arange(len(y)), labels.numpy()].mean())
        held[l2] = logs.argmax(1)
    np.testing.assert_allclose([loss for _, loss in found.path], losses, atol=5e-3)
    assert found.l2 in [l2 for (l2, _), loss in zip(found.path, losses, strict=True) if loss < min(losses) + 5e-3]
    assert found.path[0][0] > found.l2 > PENALTIES[-1], "the least loss is inside of the grid"
    assert (found.held.numpy() == held[found.l2]).mean() > 0.98


def test_what_is_held_out_is_not_known() -> None:
    """Labels that have nothing to do with the features can be learned by heart, and still nothing is seen on the held-out folds."""
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.randn(300, 200, generator=draw), torch.randint(3, (300,), generator=draw)
    found = fit_probe(x, labels, 3)
    assert abs(float((found.held == labels).float().mean()) - 1 / 3) < 0.09
    assert found.l2 >= 0.1, "so the penalty is strong"


def test_folds_are_stratified() -> None:
    labels = torch.tensor([0] * 33 + [1] * 7 + [2] * 4 + [3])[torch.randperm(45, generator=torch.Generator().manual_seed(0))]
    fold = deal_folds(labels, 5)
    counts = np.array([[int(((labels == k) & (fold == f)).sum()) for f in range(5)] for k in range(4)])
    assert (counts.max(1) - counts.min(1) <= 1).all()
    assert counts.sum(0).max() - counts.sum(0).min() <= 1
    assert torch.equal(fold, deal_folds(labels, 5))
    assert not torch.equal(fold, deal_folds(labels, 5, seed=1))


def test_odd_features_and_few_images() -> None:
    x, labels = blobs(40, 5, 3)
    x[:, 2] = 7.0
    assert torch.isfinite(fit_probe(x, labels, 3).weight).all()
    labels = torch.tensor([0, 0, 0, 1, 1, 2])  # a class of one image, and one without
    found: LinearProbe = fit_probe(x[:6], labels, 4)
    assert found(x[:6]).shape == (6, 4)
    with pytest.raises(DataError, match="two images or more"):
        fit_probe(x[:1], labels[:1], 3)


# ---- the file ----------------------------------------------------------------------------------------------------------------------


def test_features_to_export_never_sit_in_memory(net: FeatureNet, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do those of a million images: what is allocated while 80 MB of them are written stays below a tenth."""
    train, n = data.rows("train"), 20_000
    cached = np.lib.format.open_memmap(tmp_path / "cached.npy", mode="w+", dtype=np.float32, shape=(n, 1000))
    cached[::777] = 1.5
    many = SimpleNamespace(rows=lambda split: train[:1].expand(n), truth=data.labels, names=data.names, classes=data.classes)
    monkeypatch.setattr(features, "compute_features", lambda net, data, rows, places: {HEAD: cached})
    tracemalloc.start()
    try:
        assert features.save_features(net, many, HEAD, tmp_path / "f.npz", ["train"]) == (n, 1000)  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < cached.nbytes / 10
    finally:
        tracemalloc.stop()
    with np.load(tmp_path / "f.npz") as file:
        assert np.array_equal(file["features"], cached)


def test_export(source: Path, photos: Path, net: FeatureNet, data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    said = goodfit("features", source, photos, "--stage", "stage1", "--out", out)
    assert said.code == 0
    rows = torch.cat([data.rows("train"), data.rows("validation")])
    assert f"{len(rows)} images, 4 features of stage1: {out}" in said.out
    with np.load(out, allow_pickle=False) as file:
        assert file["classes"].tolist() == ["blue", "green", "red"]
        assert file["names"].tolist() == [data.names[row] for row in rows.tolist()]
        assert [file["classes"][label] for label in file["labels"]] == [name.split("/")[-2] for name in file["names"]]
        assert file["splits"].tolist() == ["train"] * len(data.rows("train")) + ["validation"] * len(data.rows("validation"))
        np.testing.assert_array_equal(
            file["features"][: len(data.rows("train"))], compute_features(net, data, data.rows("train"), ["stage1"])["stage1"]
        )
    assert Run(source).read("about.json")["openings"] == []


def test_the_test_images_are_written_when_asked_for_and_that_is_logged(source: Path, photos: Path, tmp_path: Path) -> None:
    run, out = copied(source, tmp_path / "run"), tmp_path / "f.npz"
    assert goodfit("features", run, photos, "--test", "--out", out).code == 0
    with np.load(out) as file:
        assert set(file["splits"]) == {"train", "validation", "test"}
        assert len(file["features"]) == 90
    assert len(Run(run).read("about.json")["openings"]) == 1
    other = make_photos(tmp_path / "other", each=8)
    assert goodfit("features", run, other, "--test", "--out", out).code == 0
    assert len(Run(run).read("about.json")["openings"]) == 1, "those are no test images of the run"


def test_features_refuses(source: Path, photos: Path, tmp_path: Path) -> None:
    refused(goodfit("features", source, photos, "--out", tmp_path / "f.csv"), 2, "to end in .npz")
    refused(goodfit("features", source, photos, "--from", source), 2, "received --from, too")
    refused(goodfit("features", source, photos, "--stage", "layer4", "--out", tmp_path / "f.npz"), 2, 'Unknown stage "layer4"')
    refused(goodfit("features", tmp_path / "none", photos, "--out", tmp_path / "f.npz"), 2, "found nothing at")
    assert not (tmp_path / "f.npz").exists()
