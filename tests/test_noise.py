"""Noise layers: their mean is what evaluation gives, their strength follows progress, and their passes can be averaged."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.batch import Batch, one_hot
from goodfit.core.catalog import Catalog
from goodfit.core.chance import Chance
from goodfit.core.progress import Length, Lengths
from goodfit.core.run import Run
from goodfit.layers.noise import Dropconnect, Dropout, GaussianNoise, StochasticDepth, mask_weights
from goodfit.layers.pool import FractionalMax, window_starts
from goodfit.losses.softmax import Softmax
from goodfit.models.anatomy.account import account_for
from goodfit.models.resnet import ResidualBlock
from goodfit.predict.predictor import load_classifier
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.evaluate import Outputs, collect_outputs, score_noisy_passes
from goodfit.training.loop import fit
from goodfit.training.noise import evaluating, noise_layers, set_progress
from goodfit.training.rules.average import Ema
from goodfit.training.state import Plan, State
from tests.support.command import goodfit, refused, train

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])


def build(text: str, classes: int = 10, channels: int = 3, size: tuple[int, int] = (32, 32)) -> nn.Module:
    torch.manual_seed(0)
    return CATALOG.make(text, "model")(classes, channels, size)  # type: ignore[operator, no-any-return]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_mean(draw: Callable[[], Tensor], expected: Tensor, n: int = 4000) -> None:
    """The mean of n draws of a tensor lies within 3 standard errors of `expected`, along three random directions."""
    torch.manual_seed(1)
    with torch.no_grad():
        draws = torch.stack([draw().flatten() for _ in range(n)]).double()
    directions = images(draws.shape[1], 3, seed=2).double()
    seen, mean = draws @ directions, expected.detach().flatten().double() @ directions
    error = seen.std(0) / math.sqrt(n)
    assert (error > 0).all()
    assert ((seen.mean(0) - mean).abs() < 3 * error).all()


# ---- dropout -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S108")
def test_vanilla_dropout_scales_at_test_by_the_share_kept() -> None:
    """All four masks of the slide's neuron average to .5 (w1 x + w2 y) = 7, which is what evaluation gives. Erratum: the slide says to
    multiply by the dropout probability; its code's p is the share kept, which is another number unless p is 0.5.
    """
    w, x = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 4.0])
    masks = [torch.tensor(mask) for mask in itertools.product([0.0, 1.0], repeat=2)]
    assert sum((w * m * x).sum() for m in masks) / 4 == 7
    assert (w * Dropout(0.5, inverted=False)().eval()(x)).sum() == 7
    module = Dropout(0.2, inverted=False)()
    torch.testing.assert_close(module.eval()(x), 0.8 * x)
    module.train()
    assert set(module(torch.ones(1000)).tolist()) == {0.0, 1.0}, "nothing is scaled in training"
    check_mean(lambda: module(x), 0.8 * x)


@pytest.mark.item("S107", "S109")
@pytest.mark.parametrize("part", [Dropout(0.3), Dropout(0.3, ramp="linear"), Dropout(0.3, inverted=False)], ids=str)
def test_the_mean_of_dropout_is_its_output_at_test(part: Dropout) -> None:
    module, x = part(), images(3, 7)
    check_mean(lambda: module.train()(x), module.eval()(x))


@pytest.mark.item("S110")
def test_how_many_thinned_nets_there_are() -> None:
    """4096 units with dropout: 2^4096, about 10^1233 masks, against about 10^82 atoms in the universe."""
    rows = account_for(build("mlp((4096,), drop=dropout)", 10, 1, (8, 8)), 1, (8, 8)).rows
    units = next(row.output[0] for row in rows if row.name == "layer1.linear")
    assert units * math.log10(2) == pytest.approx(1233.02, abs=0.005)
    assert 10**82 < 10**1233 <= 2**units < 10**1234


@pytest.mark.item("S110")
def test_dropout_draws_every_thinned_net_of_a_few_units() -> None:
    """Of 6 units 2^6 masks, each as often as the others: their frequencies differ by no more than chance (chi-square, 63 degrees)."""
    module, passes = build("mlp((6,), drop=dropout)").layer1.drop.train(), 6400  # type: ignore[union-attr, operator]
    torch.manual_seed(0)
    masks = (module(torch.ones(passes, 6)) != 0).long() @ 2 ** torch.arange(6)
    counts = torch.bincount(masks, minlength=64).double()
    assert len(counts) == 2**6 and float(counts.min()) > 0
    assert float((counts - 100).square().sum() / 100) < 115  # chance exceeds it once in 20,000 times


# ---- dropconnect -------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S112")
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_mean_of_dropconnect_is_that_of_the_mean_weights(kind: str) -> None:
    layer = nn.Linear(6, 4) if kind == "linear" else nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
    masked = mask_weights(Dropconnect(0.3), layer)
    masked.load_state_dict(layer.state_dict())
    x = images(3, 6) if kind == "linear" else images(2, 2, 5, 5)
    mean = {"weight": 0.7 * layer.weight, "bias": layer.bias}  # "at test all connections", each at its mean; biases are never masked
    expected = torch.func.functional_call(layer, mean, (x,))
    torch.testing.assert_close(masked.eval()(x), expected)
    masked.train()
    check_mean(lambda: masked(x), expected, 2000)
    assert mask_weights(Dropout(), layer) is layer


@pytest.mark.item("S112")
def test_dropconnect_drops_weights_where_dropout_drops_units() -> None:
    """One mask entry per weight: on x = 1 an output is a sum of kept weights. The variance of the sum over outputs tells the two apart:
    p (1 - p) sum over weights of w^2 against p (1 - p) sum over units of (sum of their weights)^2.
    """
    p, n = 0.4, 6000
    masked = mask_weights(Dropconnect(p), nn.Linear(4, 3, bias=False))
    drop = Dropout(p, inverted=False)()
    torch.manual_seed(0)
    with torch.no_grad():
        masked.weight.copy_(torch.rand(3, 4) + 0.5)
        w = masked.weight.double()
        one = masked(torch.eye(4)).T  # the masked weights themselves
        assert torch.equal(one, torch.where(one == 0, 0, masked.weight))
        weights = torch.stack([masked(torch.ones(1, 4)).sum() for _ in range(n)]).double()
        units = torch.stack([F.linear(drop(torch.ones(1, 4)), masked.weight).sum() for _ in range(n)]).double()
    assert weights.var().item() == pytest.approx(p * (1 - p) * w.square().sum().item(), rel=0.08)
    assert units.var().item() == pytest.approx(p * (1 - p) * w.sum(0).square().sum().item(), rel=0.08)
    assert units.var() > 2 * weights.var()


def test_dropconnect_masks_the_layers_that_models_give_it() -> None:
    def masked(text: str) -> list[str]:
        return [name for name, m in build(text).named_modules() if type(m).__name__ in ("DropLinear", "DropConv")]

    assert masked("mlp((8, 8), drop=dropconnect)") == ["layer1.linear", "layer2.linear"]
    assert masked("convnet(4, drop=dropconnect)") == ["head"]
    assert masked("resnet(drop=dropconnect)") == ["fc"]
    assert len(masked("resnet(branch=dropconnect(0.1))")) == 16


# ---- stochastic depth --------------------------------------------------------------------------------------------------------------


def block(part: StochasticDepth, act: str = "relu") -> ResidualBlock:
    made = build(f"resnet(norm=none, act={act}, branch={part})").get_submodule("layer1.1")
    assert isinstance(made, ResidualBlock)
    return made


@pytest.mark.item("S114")
def test_a_dropped_block_is_the_identity() -> None:
    made, x = block(StochasticDepth(0.5, rule="uniform")), images(64, 64, 4, 4).relu()
    torch.manual_seed(0)
    same = (made(x) == x).flatten(1).all(1)
    assert abs(same.double().mean().item() - 0.5) < 3 * math.sqrt(0.25 / 64)
    made.noise = nn.Identity()
    assert not (made(x) == x).flatten(1).all(1).any()


@pytest.mark.item("S114")
def test_the_mean_of_stochastic_depth_is_the_branch_times_its_survival() -> None:
    made, x = block(StochasticDepth(0.3, rule="uniform"), act="none"), images(2, 64, 3, 3)
    branch = made.train(False).get_submodule("conv2")(made.get_submodule("conv1")(x))
    torch.testing.assert_close(made(x), x + 0.7 * branch)
    made.train()
    check_mean(lambda: made(x), x + 0.7 * branch, 1000)


@pytest.mark.item("S114")
def test_survival_falls_with_depth() -> None:
    """Huang et al. 2016: p_l = 1 - l / L (1 - p_L), the last block drops most."""
    linear = [m.p for m in build("resnet(branch=stochastic_depth(0.4))").modules() if hasattr(m, "p")]
    assert linear == pytest.approx([0.4 * place / 8 for place in range(1, 9)])
    assert {m.p for m in build('resnet(branch=stochastic_depth(0.4, rule="uniform"))').modules() if hasattr(m, "p")} == {0.4}


# ---- fractional max pooling --------------------------------------------------------------------------------------------------------


@pytest.mark.item("S113")
@pytest.mark.parametrize("factor", [1.2, 1.414, 1.75])
def test_fractional_pooling_sizes_and_regions(factor: float) -> None:
    module = FractionalMax(factor)()
    for height, width in [(32, 25), (9, 14), (5, 7), (3, 2)]:
        x = images(4, 3, height, width).requires_grad_()
        torch.manual_seed(0)
        y = module(x)
        assert y.shape == (4, 3, max(1, int(height / factor)), max(1, int(width / factor)))
        torch.manual_seed(0)
        assert torch.equal(module(x), y)
        torch.manual_seed(1)
        assert torch.equal(module(x), y) == (height == 3)
        values = set(x.detach().flatten().tolist())
        assert all(v in values for v in y.flatten().tolist())
        y.sum().backward()
        assert x.grad is not None and x.grad.sum() == y.numel()


@pytest.mark.item("S113")
@pytest.mark.parametrize(("n", "factor"), [(9, 1.5), (12, 1.414), (16, 1.9)])
def test_fractional_pooling_equals_torchs_and_its_exact_mean(n: int, factor: float) -> None:
    """For every choice of regions what torch's own function gives for the same draw; evaluation is the mean over them all."""
    out = int(n / factor)
    table, x = window_starts(n, out), images(1, 2, n, n).double()
    last = int(table.max())
    total = torch.zeros(1, 2, out, out, dtype=torch.float64)
    for i, j in itertools.product(range(len(table)), repeat=2):
        ours = F.max_pool2d(x, n - last, 1)[:, :, table[i]][:, :, :, table[j]]
        total += ours
        if i == j:  # one draw for both sides
            u = torch.full((1, 2, 2), (2 * i + 1) / (2 * last), dtype=torch.float64)
            torchs = F.fractional_max_pool2d(x, n - last, output_size=out, _random_samples=u)
            torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(FractionalMax(factor)().eval()(x), total / len(table) ** 2)


@pytest.mark.item("S113", "S115")
def test_the_mean_of_fractional_pooling_is_its_output_at_test() -> None:
    module, x = FractionalMax(1.5)(), images(2, 2, 8, 7)
    check_mean(lambda: module.train()(x), module.eval()(x), 3000)


def test_fractional_regions_leave_no_pixel_out() -> None:
    for n in range(2, 50):
        for out in range(n // 2, n):
            table = window_starts(n, out)
            window = n - int(table.max())
            assert window <= 3
            for row in table:
                assert {int(start) + k for start in row for k in range(window)} == set(range(n)), (n, out)


# ---- gaussian noise, ramps ---------------------------------------------------------------------------------------------------------


def test_gaussian_noise() -> None:
    module, x = GaussianNoise(0.3)(), images(200, 200)
    torch.manual_seed(0)
    added = (module(x) - x).double()
    assert abs(added.mean().item()) < 3 * 0.3 / 200
    assert added.std().item() == pytest.approx(0.3, rel=3 / math.sqrt(2 * 40_000))
    assert module.eval()(x) is x


@pytest.mark.parametrize("part", ["dropout", "dropout(inverted=False)", "dropconnect", "stochastic_depth", "gaussian_noise"])
def test_strength_follows_progress(part: str) -> None:
    text = part.removesuffix(")") + (", " if "(" in part else "(") + "ramp='linear')"
    noise = CATALOG.make(text, "noise")
    module = nn.Sequential(mask_weights(noise, nn.Linear(40, 40)), noise())  # type: ignore[arg-type, operator]
    x = images(64, 40) + 3

    @torch.no_grad()
    def spread(t: float) -> float:
        set_progress(module, t)
        torch.manual_seed(0)
        return float((module(x) - module.eval()(x)).square().mean() if module.train() else 0)

    at = [spread(t) for t in (0.0, 0.25, 0.5, 1.0)]
    assert at[0] == 0
    assert 0 < at[1] < at[2] < at[3]
    set_progress(module, 0.75)
    kept = {name: float(x) for name, x in module.state_dict().items() if name.endswith("strength")}
    assert set(kept.values()) == {0.75}, "the strength is saved with the weights it belongs to"
    assert not list(CATALOG.make(part, "noise")().state_dict())  # type: ignore[operator]


# ---- resume ------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Random:
    """Batches by step."""

    def stream(self, start: int):  # type: ignore[no-untyped-def]
        for step in itertools.count(start):
            chance = Chance.of(0, torch.arange(8), "augment", 0)
            yield Batch(images(8, 3, 8, 8, seed=step), one_hot(torch.arange(8) % 3, 3), torch.arange(8), chance)


NETS = [
    "mlp((16,), drop=dropout(ramp='linear'))",
    "mlp((16,), drop=dropout(inverted=False))",
    "mlp((16,), drop=dropconnect(0.3, ramp='linear'))",
    "mlp((16,), drop=gaussian_noise(0.5))",
    "convnet(4, pool=fractional_max(1.5), act=prelu)",
    "convnet(4, drop=stochastic_depth(0.3, ramp='linear'), act=maxout, order='act_norm')",
    "resnet(20, branch=stochastic_depth(0.5, ramp='linear'))",
]


@pytest.mark.parametrize("text", NETS)
def test_resumed_in_the_middle_is_bit_equal(text: str, tmp_path: Path) -> None:
    def fresh() -> State:
        model = build(text, 3, 3, (8, 8))
        return State.start(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), Ema(0.9))

    def go(state: State, halt: int = 99) -> State:
        plan = Plan(Softmax(), Lengths(6, 8, Length(6, "step")), lambda b, c, t: b, lambda x: x, lambda t: 1.0, average=Ema(0.9))
        return fit(state, Random(), plan, halt=lambda: state.step >= halt)

    whole, half, again = go(fresh()), go(fresh(), 3), fresh()
    Checkpoints(tmp_path).save(half)
    torch.manual_seed(123)
    Checkpoints(tmp_path).restore(again)
    go(again)
    assert again.step == whole.step == 6
    for name, x in whole.model.state_dict().items():
        assert torch.equal(x, again.model.state_dict()[name]), name
    for name, x in whole.eval_model.state_dict().items():
        assert torch.equal(x, again.eval_model.state_dict()[name]), name
    strengths = [float(x) for name, x in whole.model.state_dict().items() if name.endswith("strength")]
    assert all(s == pytest.approx(5 / 6) for s in strengths)


# ---- averaging noisy passes --------------------------------------------------------------------------------------------------------


def test_noise_at_work_while_evaluating_leaves_batch_norm_alone() -> None:
    net = build("resnet(branch=stochastic_depth(0.5), drop=dropout)", size=(8, 8))
    before = {name: x.clone() for name, x in net.state_dict().items()}
    with evaluating(net, noisy=True):
        on = [m for m in net.modules() if m.training]
        assert len(on) == 9 and on == noise_layers(net)
        net(images(4, 3, 8, 8))
    assert all(m.training for m in net.modules())
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    with evaluating(net):
        assert not any(m.training for m in net.modules())


def questions(n: int = 30) -> list[Batch]:
    return [Batch(images(n, 3, 8, 8, seed=place), one_hot(torch.arange(n) % 3, 3), torch.arange(n)) for place in range(2)]


@pytest.mark.item("S115")
def test_the_mean_of_passes_is_numpys_and_repeats() -> None:
    net = build("convnet(4, pool=fractional_max, drop=dropout)", 3, 3, (8, 8))

    def ask(place: int) -> Outputs:
        return collect_outputs(net, questions(), Softmax(), lambda x: x, torch.device("cpu"), seed=place)

    rows = score_noisy_passes(ask, 6, Softmax().probabilities)
    assert [row["passes"] for row in rows] == [1, 2, 4, 6]
    assert rows == score_noisy_passes(ask, 6, Softmax().probabilities)
    logits = np.stack([ask(place).logits.double().numpy() for place in range(6)])
    assert not np.array_equal(logits[0], logits[1])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = ask(0).labels.numpy()
    for row in rows:
        mean = p[: row["passes"]].mean(0)
        assert row["accuracy"] == (mean.argmax(1) == labels).mean()
        assert row["log_loss"] == pytest.approx(-np.log(mean[np.arange(60), labels]).mean(), rel=1e-5)


@pytest.mark.item("S115")
def test_evaluate_marginalize_from_the_command_line(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = "mlp((32,), drop=dropout(0.5))"
    assert train(photos, run, model=model, optimizer="sgd(0.02)", budget="4 epochs").code == 0
    first, second = (json.loads(goodfit("evaluate", run, "--marginalize", "5", "--json").out) for _ in range(2))
    assert first == second, "the passes are seeded"
    found = first["marginalized"]
    assert [row["passes"] for row in found["passes"]] == [1, 2, 4, 5]
    assert found["deterministic"]["accuracy"] == first["accuracy"]
    assert found["deterministic"]["log_loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert len({row["log_loss"] for row in found["passes"]}) == 4
    said = goodfit("evaluate", run, "--marginalize", "2").out
    assert "without noise" in said and "1 noisy pass:" in said and "2 noisy passes:" in said
    assert "marginalized" not in json.loads(goodfit("evaluate", run, "--json").out)
    refused(goodfit("evaluate", run, "--marginalize", "-1"), 2, "received -1")
    assert "marginalized" not in Run(run).read("scores.json")["validation"]


def test_marginalize_without_noise_is_refused(photos: Path, tmp_path: Path) -> None:
    assert train(photos, tmp_path / "run").code == 0
    refused(goodfit("evaluate", tmp_path / "run", "--marginalize", "4"), 2, "no noise layer")


@pytest.mark.item("S115", "S122")
def test_passes_over_augmented_images_are_the_mean_of_their_answers(photos: Path, tmp_path: Path) -> None:
    """Of a linear model, which has no noise: an alternating flip shows it and its mirror image in turn."""
    run = tmp_path / "run"
    assert train(photos, run, augment="flip(alternate=True) | mixup").code == 0
    words = ("evaluate", run, "--marginalize", "8", "--json")
    given, trained = (json.loads(goodfit(*words, "--augment", text).out) for text in ("flip(alternate=True)", "train"))
    assert given["marginalized"] == trained["marginalized"], "that of the training, without what mixes targets"
    rows = given["marginalized"]["passes"]
    assert [row["passes"] for row in rows] == [1, 2, 4, 8]
    classifier = load_classifier(run, "cpu")
    data = open_images(Recipe.of_run(run))
    pixels = torch.from_numpy(np.asarray(data.pixels.read_exact(data.rows("validation")))).permute(0, 3, 1, 2)
    pixels, labels = data.preprocess.center_crop(pixels), data.labels[data.rows("validation")]
    with torch.no_grad():
        plain, mirrored = (classifier.model(data.preprocess.normalize(x)).softmax(1).double() for x in (pixels, pixels.flip(3)))
    n = torch.arange(len(labels))

    def loss(probabilities: Tensor) -> float:
        return -float(probabilities[n, labels].log().mean())

    assert rows[1]["log_loss"] == pytest.approx(loss((plain + mirrored) / 2), rel=1e-5), "two passes in a row show both"
    assert rows[3]["log_loss"] == pytest.approx(rows[1]["log_loss"], rel=1e-5)
    assert loss(plain) != pytest.approx(rows[0]["log_loss"], rel=1e-4) != loss(mirrored), "some of each"
    always = json.loads(goodfit(*words, "--augment", "flip(1.0)").out)["marginalized"]
    assert [row["log_loss"] for row in always["passes"]] == pytest.approx([loss(mirrored)] * 4, rel=1e-5)
    assert always["deterministic"]["log_loss"] == pytest.approx(loss(plain), rel=1e-5)
    assert "8 noisy passes:" in goodfit("evaluate", run, "--marginalize", "8", "--augment", "flip | crop(2)").out


def test_augmentation_at_test_time_that_cannot_be_is_refused(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(photos, run).code == 0
    refused(goodfit("evaluate", run, "--augment", "flip"), 2, "--marginalize")
    refused(goodfit("evaluate", run, "--marginalize", "2", "--augment", "train"), 2, 'received "none"')
    refused(goodfit("evaluate", run, "--marginalize", "2", "--augment", "mixup"), 2, "changes single images", "mixup")
    refused(goodfit("evaluate", run, "--marginalize", "2", "--augment", "flop"), 2, "flip")
