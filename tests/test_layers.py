"""Layers: activations, norms, noise and initialization, by laws over the catalog and by the lecture's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.catalog import Catalog
from goodfit.core.contracts import Activation, Norm
from goodfit.core.errors import UsageError
from goodfit.layers import activation, norm
from goodfit.layers.activation import Elu, Gelu, LeakyRelu, Relu, Sigmoid, Silu, Tanh, width_of
from goodfit.layers.init import HEAD_SCORE_SCALE, He, Xavier, initialize
from goodfit.layers.noise import Dropout
from goodfit.layers.norm import Batch, Group, Instance, Layer, Lrn

CATALOG = Catalog(["goodfit.layers"])
ACTIVATIONS = [pytest.param(cls(), id=name) for name, cls in CATALOG.kinds["activation"].items()]
NORMS = [pytest.param(cls(), id=name) for name, cls in CATALOG.kinds["norm"].items()]
X = np.array([-10.0, -2.0, -1.0, -0.1, 0.0, 0.1, 1.0, 2.0, 10.0])


def values(act: Activation, x: list[float] | np.ndarray = X) -> Tensor:  # type: ignore[type-arg]
    return act()(torch.tensor(x, dtype=torch.float64))


def slopes(act: Activation, x: list[float]) -> list[float]:
    points = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    act()(points).sum().backward()
    assert points.grad is not None
    return points.grad.tolist()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 2


# ---- activations -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activation_gradient_width_and_purity(act: Activation) -> None:
    x = images(3, 4 * width_of(act), 5, 5).double().requires_grad_()
    before = x.detach().clone()
    module = act().double()
    assert module(x).shape == (3, 4, 5, 5)
    assert torch.equal(x, before)
    assert torch.autograd.gradcheck(module, images(2, 2 * width_of(act)).double().requires_grad_())


FORMULAS = [
    (Relu(), np.maximum(0, X)),
    (LeakyRelu(0.1), np.maximum(0.1 * X, X)),
    (Sigmoid(), 1 / (1 + np.exp(-X))),
    (Tanh(), np.tanh(X)),
    (Elu(0.7), np.where(X > 0, X, 0.7 * (np.exp(X) - 1))),
    (Gelu(), X * np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in X])),
    (Silu(), X / (1 + np.exp(-X))),
    (activation.None_(), X),
]


@pytest.mark.item("S047", "S050", "S051", "S056")
@pytest.mark.parametrize(("act", "expected"), FORMULAS, ids=str)
def test_activation_equals_its_formula(act: Activation, expected: np.ndarray) -> None:  # type: ignore[type-arg]
    np.testing.assert_allclose(values(act), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.item("S047", "S048")
def test_sigmoid_saturates() -> None:
    assert values(Sigmoid(), [0.0]).item() == 0.5
    np.testing.assert_allclose(slopes(Sigmoid(), [-10, 0, 10]), [4.54e-5, 0.25, 4.54e-5], rtol=1e-3)


@pytest.mark.item("S050", "S051", "S056")
def test_slopes_of_tanh_relu_and_elu() -> None:
    np.testing.assert_allclose(slopes(Tanh(), [0, 10]), [1, 8.2e-9], rtol=1e-2)
    assert slopes(Relu(), [-10, 0, 10]) == [0, 0, 1]
    assert values(Elu(), [-1.0]).item() == pytest.approx(-0.632121, abs=1e-6)


@pytest.mark.item("S054")
def test_both_slopes_of_leaky_relu() -> None:
    assert slopes(LeakyRelu(), [-1, 1]) == [0.01, 1]
    assert slopes(LeakyRelu(0.1), [-1, 1]) == [0.1, 1]


@pytest.mark.item("S013")
def test_linear_layers_in_a_row_are_one() -> None:
    first, second = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)
    deep = nn.Sequential(first, activation.None_()(), second)
    x = images(4, 6)
    torch.testing.assert_close(deep(x), x @ (second.weight @ first.weight).T, atol=1e-5, rtol=0)


# ---- norms -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", NORMS)
@pytest.mark.parametrize("shape", [(8, 6, 4, 4), (8, 6)])
def test_norm_keeps_the_shape_and_learns(part: Norm, shape: tuple[int, ...]) -> None:
    module = part(6)
    if isinstance(part, Instance) and len(shape) == 2:
        with pytest.raises(UsageError, match="instance"):
            module(images(*shape))
        return
    out = module(images(*shape).requires_grad_())
    assert out.shape == shape
    (out * images(*shape, seed=1)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert isinstance(part, (norm.None_, Lrn)) or len(list(module.parameters())) == 2


@pytest.mark.item("S204")
@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (2, 7), (2, 2, 3, 1)])
def test_local_response_norm_equals_its_formula(shape: tuple[int, ...]) -> None:
    a = images(*shape).double().numpy()
    expected = np.empty_like(a)
    for i in range(shape[1]):
        expected[:, i] = a[:, i] / (0.5 + 0.3 * (a[:, max(0, i - 1) : i + 2] ** 2).sum(1)) ** 0.6
    np.testing.assert_allclose(Lrn(3, 0.3, 0.6, 0.5)(shape[1])(images(*shape)).numpy(), expected, rtol=1e-5)


@pytest.mark.item("S065")
def test_batch_norm_equals_its_formula() -> None:
    x = images(8, 3, 4, 4)
    module = Batch(eps=1e-3)(3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[operator, union-attr]
        module.bias.copy_(torch.tensor([0.0, -1.0, 5.0]))  # type: ignore[operator, union-attr]
    a = x.double().numpy()
    mean, var = a.mean(axis=(0, 2, 3), keepdims=True), a.var(axis=(0, 2, 3), keepdims=True)  # var over m, not m - 1
    expected = np.array([1, 2, 3]).reshape(1, 3, 1, 1) * (a - mean) / np.sqrt(var + 1e-3) + np.array([0, -1, 5]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(module(x).detach(), expected, atol=1e-5)
    torchs = nn.BatchNorm2d(3, eps=1e-3)
    torchs(x)
    assert torch.equal(module.running_var, torchs.running_var)  # type: ignore[arg-type]


@pytest.mark.item("S066")
def test_batch_norm_ignores_the_neighbors_in_evaluation() -> None:
    module = Batch()(3)
    module(images(8, 3, 4, 4))
    one, others = images(1, 3, 4, 4, seed=1), images(7, 3, 4, 4, seed=2)
    together = torch.cat([one, others])
    assert not torch.allclose(module(together)[:1], module(torch.cat([one, others * 2]))[:1])
    module.eval()
    torch.testing.assert_close(module(together)[:1], module(one), rtol=0, atol=0)


@pytest.mark.item("S067")
def test_batch_norm_can_be_the_identity() -> None:
    x = images(64, 3, 4, 4)
    module = Batch()(3)
    with torch.no_grad():
        module.weight.copy_(x.var(dim=(0, 2, 3), correction=0).add(1e-5).sqrt())  # type: ignore[operator, union-attr]
        module.bias.copy_(x.mean(dim=(0, 2, 3)))  # type: ignore[operator, union-attr]
    assert (module(x) - x).abs().max() < 1e-5


@pytest.mark.item("S071")
def test_batch_norm_is_noise_in_training_only() -> None:
    module = Batch()(2)
    one = images(1, 2, 4, 4)
    batches = [torch.cat([one, images(3, 2, 4, 4, seed=seed)]) for seed in range(1, 9)]
    assert torch.stack([module(b)[0] for b in batches]).var(dim=0).min() > 0
    module.eval()
    assert torch.stack([module(b)[0] for b in batches]).var(dim=0).max() < 1e-10


@pytest.mark.item("S070")
def test_layer_and_instance_norm_are_group_norms() -> None:
    x = images(4, 6, 5, 5)
    torch.testing.assert_close(Group(1)(6)(x), Layer()(6)(x))
    torch.testing.assert_close(Layer()(6)(x), nn.functional.layer_norm(x, (6, 5, 5)))
    torch.testing.assert_close(Group(6)(6)(x), Instance()(6)(x))
    torch.testing.assert_close(Instance()(6)(x), nn.functional.instance_norm(x))
    torch.testing.assert_close(Layer()(6)(x[:, :, 0, 0]), nn.functional.layer_norm(x[:, :, 0, 0], (6,)))
    assert Group(32)(48).num_groups == 16  # type: ignore[comparison-overlap]


def test_a_last_batch_of_one_image_does_not_stop_training() -> None:
    module = Batch()(3)
    module(images(8, 3))
    kept = module.running_mean.clone()  # type: ignore[operator, union-attr]
    x = images(1, 3, seed=5)
    out = module(x)
    assert torch.equal(module.running_mean, kept)  # type: ignore[arg-type]
    assert torch.equal(out, module.eval()(x))


# ---- noise -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S107", "S109")
@pytest.mark.parametrize("p", [0.5, 0.2])
def test_inverted_dropout(p: float) -> None:
    module = Dropout(p)()
    torch.manual_seed(0)
    n = 100_000
    out = module(torch.ones(n))
    kept = out != 0
    assert torch.equal(out[kept], torch.full_like(out[kept], 1 / (1 - p)))
    assert abs(kept.double().mean().item() - (1 - p)) < 3 * math.sqrt(p * (1 - p) / n)
    assert abs(out.double().mean().item() - 1) < 3 * math.sqrt(p / (1 - p) / n)
    assert torch.equal(module.eval()(torch.ones(9)), torch.ones(9))


@pytest.mark.parametrize("name", CATALOG.kinds["noise"])
def test_noise_is_seeded_by_torch_and_off_in_evaluation(name: str) -> None:
    module = CATALOG.kinds["noise"][name]()()
    x = images(16, 32)
    torch.manual_seed(7)
    first = module(x)
    torch.manual_seed(7)
    assert torch.equal(module(x), first)
    kept = 0.5 if name == "stochastic_depth" else 1.0  # the mean over its masks
    torch.testing.assert_close(module.eval()(x), kept * x)


# ---- initialization --------------------------------------------------------------------------------------------------------------


def moments(layer: nn.Linear | nn.Conv2d, variance: float) -> None:
    """Mean 0 and the variance, each within three standard errors of a normal sample."""
    w = layer.weight.detach().double()
    assert abs(w.mean().item()) < 3 * math.sqrt(variance / w.numel())
    assert abs(w.var().item() / variance - 1) < 3 * math.sqrt(2 / w.numel())
    assert layer.bias is None or not layer.bias.any()


@pytest.mark.item("S061", "S062", "S063")
def test_variances() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3072, 100)
    for init, variance in [
        (Xavier(), 2 / (3072 + 100)),
        (Xavier("in"), 1 / 3072),
        (Xavier("out"), 1 / 100),
        (He(), 2 / 3072),
        (He("out"), 2 / 100),
    ]:
        init(layer)
        moments(layer, variance)
    assert pytest.approx(6.305e-4, abs=1e-7) == 2 / (3072 + 100)
    conv = nn.Conv2d(32, 64, 3, groups=2)
    He()(conv)
    moments(conv, 2 / (16 * 9))
    He("out")(conv)
    moments(conv, 2 / (32 * 9))  # of 64 outputs an input reaches those of its group; torch's own initializations count all


@pytest.mark.item("S062")
def test_he_keeps_the_signal_through_relu_and_xavier_halves_it() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(512, 512) for _ in range(10)]
    net = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))
    power = {}
    for init in (He(), Xavier()):
        init(net)
        power[str(init)] = net(torch.randn(256, 512)).square().mean().item()
    assert 0.5 < power["he"] < 2  # second moment; 1 at the start
    assert 2**-11 < power["xavier"] < 2**-9


@pytest.mark.parametrize("name", CATALOG.kinds["init"])
def test_init_is_seeded_and_the_head_starts_small(name: str) -> None:
    init = CATALOG.kinds["init"][name]()

    def net(small: bool) -> nn.Sequential:
        torch.manual_seed(3)
        made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))
        if small:
            initialize(made, init, made[2])  # type: ignore[arg-type]
        else:
            init(made)
        return made

    whole, small, again = net(False), net(True), net(True)
    assert torch.equal(small[0].weight, whole[0].weight)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))
    assert small[2].weight.square().mean().sqrt().item() * math.sqrt(8) <= HEAD_SCORE_SCALE * 1.0001  # type: ignore[union-attr, operator]
    assert name == "zero" or F.cosine_similarity(small[2].weight.flatten(), whole[2].weight.flatten(), dim=0) > 0.9999  # type: ignore[union-attr, operator, arg-type]
