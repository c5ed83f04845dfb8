"""goodfit describe --signals: the lecture's pictures of initialization as numbers, against calculations in NumPy float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.reporter import SilentReporter
from goodfit.inspection.layer_spread import measure_spread
from goodfit.layers.init import Gaussian
from goodfit.recipe.parts import load_catalog
from goodfit.study.layer_signals import account_for_signals, draw_images, make_started
from goodfit.study.networks import NetworkOptions
from tests.support import patients
from tests.support.command import goodfit, refused, train

SLIDES = "100, " * 9 + "100"  # ten hidden layers, as in the lecture
Array = np.ndarray[Any, np.dtype[np.float64]]


def rms(x: Array) -> float:
    return float(np.sqrt((x**2).mean()))


def calculate(weights: list[Array], x: Array, y: Array, act: str) -> list[dict[str, float]]:
    """The layers of a fully connected net without biases, forward and backward, by hand: x [B, D], weights [n_out, n_in]."""
    rows, inputs, slopes = [], [], []
    for i, w in enumerate(weights):
        z = x @ w.T
        a = z if i == len(weights) - 1 else np.tanh(z) if act == "tanh" else np.maximum(z, 0)
        row = {"enters": rms(x), "leaves": rms(z), "passes": rms(a), "differs": rms(z - z.mean(0)) / rms(z)}
        if i < len(weights) - 1:
            row |= {"dead": float((a == 0).all(0).mean()), "flat": float((np.abs(a) > 0.97).mean()) if act == "tanh" else 0.0}
        inputs.append(x)
        slopes.append(1 - a**2 if act == "tanh" else (z > 0).astype(float))
        rows.append(row)
        x = a
    p = np.exp(x - x.max(1, keepdims=True))
    delta = (p / p.sum(1, keepdims=True) - np.eye(x.shape[1])[y]) / len(y)
    for i in reversed(range(len(weights))):
        rows[i]["gradient"] = float(np.linalg.norm(delta.T @ inputs[i]) / np.linalg.norm(weights[i]))
        if i:
            delta = delta @ weights[i] * slopes[i - 1]
    return rows


@pytest.mark.item("S060")
@pytest.mark.parametrize("init", ["gaussian(0.01)", "gaussian(1.0)", "xavier", "he"])
@pytest.mark.parametrize("act", ["tanh", "relu"])
def test_every_number_of_a_deep_net_by_hand(act: str, init: str) -> None:
    part: Any = load_catalog().make(f"mlp(({SLIDES}), act={act}, init={init})", "model")
    images, labels = draw_images(10, 1, (8, 8), 40)
    net = make_started(part, 10, 1, (8, 8), images)
    weights = [p.detach().double().numpy() for p in net.parameters() if p.ndim == 2]
    spread = measure_spread(net, F.cross_entropy, images, labels)
    expected = calculate(weights, images.flatten(1).double().numpy(), labels.numpy(), act)
    assert len(spread.layers) == 11 and spread.norms == 0
    for layer, row in zip(spread.layers, expected, strict=True):
        found = {key: getattr(layer, key) for key in row}
        assert found == pytest.approx(row, rel=2e-3, abs=1e-12), layer.name
    assert math.isnan(spread.layers[-1].dead)  # the head has no activation


def account(model: str, inits: list[str], **options: Any) -> dict[str, Any]:
    made_for = NetworkOptions(classes=10, channels=1, size="8", batch=64, **options)
    return {found.name: found for found in account_for_signals(model, made_for, inits, "", SilentReporter())}


def share_left(found: Any) -> float:
    """What the last hidden layer passes on of what the first does."""
    *hidden, _ = found.spread.layers
    return float(hidden[-1].passes / hidden[0].passes)


@pytest.mark.item("S060")
def test_the_lectures_pictures_of_a_tanh_net() -> None:
    found = account(f"mlp(({SLIDES}), act=tanh)", ["gaussian(0.01)", "gaussian(1)", "xavier"])
    small, large, right = found.values()
    assert share_left(small) == pytest.approx(0.1**9, rel=0.5)  # each layer passes on 0.01 sqrt(100) of what it gets
    assert max(layer.gradient for layer in small.spread.layers[:-1]) < 1e-6
    assert "Signals fade: each layer passes on 0.1 times" in small.notes[0] and "too small (CS231n" in small.notes[0]
    assert min(layer.flat for layer in large.spread.layers[:-1]) > 0.7
    assert "saturated" in large.notes[0] and "too large (CS231n" in large.notes[0]
    assert all(0.15 < layer.passes < 0.8 and layer.flat < 0.1 for layer in right.spread.layers[:-1])
    assert right.notes[0].startswith("Signals keep their size")


@pytest.mark.item("S060", "S062")
def test_he_keeps_the_signals_of_a_relu_net_and_xavier_halves_their_power() -> None:
    found = account(f"mlp(({SLIDES}), act=relu)", ["he", "xavier", "gaussian(0.5)", "zero", "lsuv"])
    he, xavier, large, zero, lsuv = found.values()
    assert 0.5 < share_left(he) < 2 and he.notes[0].startswith("Signals keep their size")
    assert share_left(xavier) ** (1 / 9) == pytest.approx(math.sqrt(0.5), rel=0.1) and "Signals fade" in xavier.notes[0]
    assert share_left(large) > 1e3 and "Signals grow" in large.notes[0]
    assert len(zero.notes) == 2 and zero.notes[0].startswith("Nothing passes layer1.linear.weight, whose weights are zero")
    assert all(0.99 < layer.leaves < 1.3 for layer in lsuv.spread.layers[:-1])  # it makes the variance 1, to which the mean's square comes


@pytest.mark.item("S064")
def test_batch_norm_takes_the_scale_of_the_weights_away() -> None:
    inits = ["gaussian(0.01)", "gaussian(0.1)", "gaussian(1)"]
    with_norm, without = (list(account(f"mlp(({SLIDES}), norm={norm})", inits).values()) for norm in ("batch", "none"))
    sizes = np.array([[layer.passes for layer in found.spread.layers[:-1]] for found in with_norm])
    assert np.ptp(sizes, 0).max() < 0.1 * sizes.mean() and all("norms set it anew" in found.notes[0] for found in with_norm)
    sizes = np.array([[layer.passes for layer in found.spread.layers[:-1]] for found in without])
    assert (sizes[2] / sizes[0])[-1] > 1e10


@pytest.mark.item("S064")
def test_with_batch_norm_every_scale_learns() -> None:
    """Accuracy on digits after three epochs over a sweep of sigma: its range is far narrower with batch norm."""

    def accuracy(norm: bool, std: float) -> float:
        torch.manual_seed(0)
        blocks = [m for i in range(6) for m in (nn.Linear(64, 64), *([nn.BatchNorm1d(64)] if norm else []), nn.ReLU())]
        net = nn.Sequential(nn.Flatten(), *blocks, nn.Linear(64, 10))
        Gaussian(std)(net)
        nn.init.kaiming_normal_(net[-1].weight)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
        rows = np.random.default_rng(0).permutation(1200)
        for images, labels in [*patients.iterate("train", 64, rows)] * 3:
            patients.step(net, optimizer, F.cross_entropy, images, labels)
        return patients.evaluate(net, patients.iterate("validation", 200))

    sweep = (0.001, 0.03, 0.17, 1.0)
    with_norm, without = ([accuracy(norm, std) for std in sweep] for norm in (True, False))
    assert np.ptp(with_norm) < 0.2 and np.ptp(without) > 0.6
    assert min(with_norm) > 0.8


def test_dead_channels_and_functions_are_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x)).amax((2, 3)))

    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.conv.bias[:3] = -100.0
    images, labels = draw_images(3, 1, (9, 9), 12)
    conv, head = measure_spread(net, F.cross_entropy, images, labels).layers
    windows = np.lib.stride_tricks.sliding_window_view(images[:, 0].double().numpy(), (3, 3), (1, 2))
    z = np.einsum("bhwij,oij->bohw", windows, net.conv.weight[:, 0].detach().double().numpy())
    z += net.conv.bias.detach().double().numpy()[:, None, None]
    assert conv.dead == 3 / 8 and conv.leaves == pytest.approx(rms(z), rel=1e-5)
    assert conv.passes == pytest.approx(rms(np.maximum(z, 0)), rel=1e-5)
    assert head.enters == pytest.approx(rms(np.maximum(z, 0).max((2, 3))), rel=1e-5)
    assert net.conv.weight.grad is None and net.training


# ---- the command -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S060")
def test_the_command_prints_a_table_and_what_it_means() -> None:
    words = ("describe", "mlp((30, 30, 30), act=tanh, init=gaussian(0.01))", "--size", "8", "--classes", "5", "--signals")
    said = goodfit(*words)
    assert said.code == 0, said
    lines = said.out.splitlines()
    assert lines[0].split() == ["layer", "enters", "leaves", "passes", "differs", "dead", "flat", "gradient"]
    assert [line.split()[0] for line in lines[1:5]] == ["layer1.linear", "layer2.linear", "layer3.linear", "head"]
    assert "Signals fade" in said.out and "CS231n" in said.out
    (network,) = json.loads(goodfit(*words, "--json").out)["networks"]
    assert [f"{layer['passes']:.3g}" for layer in network["layers"]] == [line.split()[3] for line in lines[1:5]]
    assert network["layers"][-1]["dead"] is None and network["notes"][0] in said.out


@pytest.mark.item("S060")
def test_initializations_side_by_side() -> None:
    words = ("describe", "mlp((30, 30, 30))", "--size", "8", "--classes", "5", "--inits", "gaussian(0.01)", "he")
    lines = goodfit(*words).out.splitlines()
    assert lines[0].split() == ["layer", "gaussian(0.01)", "gradient", "he", "gradient"]
    assert lines[-2].startswith("gaussian(0.01): Signals fade") and lines[-1].startswith("he: Signals keep their size")


@pytest.mark.item("S132")
def test_the_command_says_whether_twenty_images_are_learned() -> None:
    words = ("describe", "mlp((32,))", "--data", "digits", "--size", "8", "--inits", "he", "zero", "--json")
    he, zero = json.loads(goodfit(*words).out)["networks"]
    assert he["fit"]["right"] == he["fit"]["images"] == 20 and 0 < he["fit"]["steps"] < 100
    assert he["descent"] == pytest.approx(1.0, abs=0.1)
    assert f"It fits 20 of 20 images after {he['fit']['steps']} steps" in he["notes"][-1]
    assert zero["fit"]["right"] < 10 and zero["fit"]["steps"] == 200, "nothing but the bias of the head learns"


def test_a_runs_network_on_its_own_images(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(photos, run, model="mlp((8, 8))").code == 0
    (network,) = json.loads(goodfit("describe", run, "--signals", "--json").out)["networks"]
    assert [layer["name"] for layer in network["layers"]] == ["layer1.linear.weight", "layer2.linear.weight", "head.weight"]
    assert network["fit"]["right"] == network["fit"]["images"]
    said = goodfit("describe", "mlp((8, 8))", "--data", photos, "--size", "16", "--json")
    assert said.code == 0, said
    (fresh,) = json.loads(said.out)["networks"]
    assert fresh["layers"][0]["enters"] == pytest.approx(network["layers"][0]["enters"], rel=0.05)  # the same images, normalized
    assert fresh["layers"][2]["leaves"] < network["layers"][2]["leaves"]  # the head starts small
    refused(goodfit("describe", run, "--inits", "he"), 2, "whose weights are trained")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("linear", "--signals", "--csv"), "received --csv too"),
        (("--compare", "linear", "--signals"), "received --compare too"),
        (("torch.nn.Flatten(7)", "--signals"), "does not take images of 3x224x224"),
        (("torch.nn.Identity()", "--inits", "he"), 'has no setting "init"'),
        (("mlp", "--inits", "hee"), 'Did you mean "he"?'),
    ],
)
def test_signals_are_refused_in_a_sentence(words: tuple[str, ...], said: str) -> None:
    refused(goodfit("describe", *words), 2, said)
