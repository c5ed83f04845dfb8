"""Which layers a net is made of: learned and wide activations, ways to start, and the order of norm and activation."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import goodfit
from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.core.parameters import weight_parameters
from goodfit.layers.activation import Elu, Maxout, Prelu, Relu
from goodfit.layers.data_init import Lsuv, Whitening, whitening_filters
from goodfit.layers.init import Constant, Dirac, Gaussian, Orthogonal, Zero, calibrate_init, weight_layers
from goodfit.losses.binary import Binary
from goodfit.losses.mse import Mse
from goodfit.losses.softmax import Softmax
from goodfit.models.anatomy.account import account_for
from goodfit.models.weights.stages import find_head
from goodfit.optim.first_order import Sgd
from goodfit.optim.groups import parameter_groups

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])


def build(text: str, classes: int = 10, channels: int = 3, size: tuple[int, int] = (32, 32)) -> nn.Module:
    torch.manual_seed(0)
    return CATALOG.make(text, "model")(classes, channels, size)  # type: ignore[operator, no-any-return]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- activations -------------------------------------------------------------------------------------------------------------------


def fitted(net: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Training accuracy after a full-batch training to convergence."""
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return float((net(x).argmax(1) == labels).double().mean())


@pytest.mark.item("S013")
def test_a_deep_linear_net_fits_what_a_linear_one_does() -> None:
    """Four noisy corners labeled by XOR, and three overlapping clouds: W4 W3 W2 W1 x does as W x does, a relu net does better."""
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]).repeat(25, 1)
    xor = (corners + 0.1 * images(100, 2)).view(100, 1, 1, 2), torch.tensor([0, 1, 1, 0]).repeat(25)
    clouds = torch.arange(3).repeat(50)
    overlapping = (1.2 * images(150, 4) + torch.eye(4)[clouds]).view(150, 1, 2, 2), clouds
    for (x, labels), gain in ((xor, 0.2), (overlapping, 0.0)):
        size = tuple(x.shape[2:])
        linear, deep, relu = (
            fitted(build(text, int(labels.max()) + 1, 1, size), x, labels)  # type: ignore[arg-type]
            for text in ("linear", "mlp((16, 16, 16), act=none)", "mlp((16, 16, 16))")
        )
        assert deep == pytest.approx(linear, abs=0.021)
        assert relu > linear + gain
    assert linear < 1


@pytest.mark.item("S049")
def test_sigmoids_in_a_row_starve_the_first_layer() -> None:
    norms = {}
    for act in ("sigmoid", "relu"):
        net = build(f"mlp(({', '.join(['64'] * 8)}), act={act}, init=xavier)", 10, 1, (8, 8))
        F.cross_entropy(net(images(64, 1, 8, 8)), torch.arange(64) % 10).backward()  # type: ignore[no-untyped-call]
        norms[act] = float(net.get_parameter("layer1.linear.weight").grad.norm())  # type: ignore[union-attr]
    assert norms["sigmoid"] < 1e-3 * norms["relu"]


@pytest.mark.item("S055")
def test_prelu_learns_its_slope_and_is_spared_from_decay() -> None:
    module, x, g = Prelu()(), images(5, 7, seed=1), images(5, 7, seed=2)
    (module(x) * g).sum().backward()
    (alpha,) = module.parameters()
    assert alpha.tolist() == [0.25]
    assert alpha.grad is not None
    assert alpha.grad.item() == pytest.approx(float((x * g)[x < 0].sum()), rel=1e-5)
    torch.testing.assert_close(module(x), torch.maximum(0.25 * x, x))
    net = build("mlp((8, 8), act=prelu)")
    assert len([name for name in dict(net.named_parameters()) if name.endswith("act.weight")]) == 2
    assert not [name for name in weight_parameters(net) if "act" in name]
    spared = [p for group in parameter_groups(net, Sgd(weight_decay=0.1)) if group["weight_decay"] == 0 for p in group["params"]]
    assert sum(p is q for p in spared for q in net.parameters() if q.shape == (1,)) == 2


@pytest.mark.item("S056")
def test_elu_is_closer_to_zero_mean_than_relu_and_deaf_to_noise_below() -> None:
    x = images(10_000)
    assert abs(Elu()()(x).mean()) < 0.5 * abs(Relu()()(x).mean())
    low = torch.full((1000,), -6.0)
    assert Elu()()(low + 0.5 * images(1000, seed=3)).std() < 0.01 < nn.LeakyReLU(0.1)(low + 0.5 * images(1000, seed=3)).std()


@pytest.mark.item("S057")
def test_maxout_is_the_largest_of_its_pieces() -> None:
    w, b, x = images(2, 3, 4), images(2, 3, seed=1), images(6, 4, seed=2)
    expected = np.maximum(*(x.double().numpy() @ w[i].double().numpy().T + b[i].double().numpy() for i in range(2)))
    np.testing.assert_allclose(Maxout()()(F.linear(x, w.flatten(0, 1), b.flatten())), expected, atol=1e-5)
    y = images(6, 4, 3, 3)
    torch.testing.assert_close(Maxout()()(torch.cat([y, 0 * y], 1)), y.relu())  # relu: the second piece is zero
    torch.testing.assert_close(Maxout()()(torch.cat([y, 0.1 * y], 1)), F.leaky_relu(y, 0.1))
    far = torch.tensor([[-100.0, -200.0], [100.0, 50.0]], requires_grad=True)
    Maxout()()(far).sum().backward()  # does not saturate, never dies: some piece always has the whole gradient
    assert far.grad is not None and far.grad.sum(1).tolist() == [1, 1]
    with pytest.raises(UsageError, match="from 2"):
        Maxout(1)


@pytest.mark.item("S057")
@pytest.mark.parametrize("pieces", [2, 3])
def test_maxout_multiplies_the_parameters_per_neuron(pieces: int) -> None:
    def rows(text: str, size: tuple[int, int] = (32, 32)) -> dict[str, int]:
        return {row.name: row.parameters for row in account_for(build(text, size=size), 3, size).rows if row.parameters}

    plain, maxout = rows("mlp((20, 30))"), rows(f"mlp((20, 30), act=maxout({pieces}))")
    assert maxout == {name: n * (1 if name == "head" else pieces) for name, n in plain.items()}
    for model in ("convnet(8, norm=none, act={})", "resnet(norm=none, act={})"):
        plain, maxout = rows(model.format("relu")), rows(model.format(f"maxout({pieces})"))
        convs = [name for name in plain if name not in ("head", "fc") and "downsample" not in name]
        assert {name: maxout[name] for name in convs} == {name: pieces * plain[name] for name in convs}


@pytest.mark.item("S059")
def test_hidden_layers_are_relu_and_the_last_one_is_for_the_loss_to_read() -> None:
    """The rule of the slides as defaults: relu inside; scores come out bare, and the loss reads them as softmax, sigmoid or themselves."""
    for text in ("mlp", "resnet"):
        net = build(text)
        assert {type(m) for m in net.modules() if type(m).__module__ == "torch.nn.modules.activation"} == {nn.ReLU}
    for text in ("linear", "mlp", "convnet", "resnet"):
        net = build(text)
        assert list(net.modules())[-1] is find_head(net)[1]
    scores = images(4, 3).double()
    e = np.exp(scores.numpy())
    np.testing.assert_allclose(Softmax().probabilities(scores), e / e.sum(1, keepdims=True))
    s = 1 / (1 + np.exp(-scores.numpy()))
    np.testing.assert_allclose(Binary().probabilities(scores), s / s.sum(1, keepdims=True))
    p = torch.tensor([[0.2, 0.5, 0.3]])
    torch.testing.assert_close(Mse().probabilities(p), p)


# ---- order -------------------------------------------------------------------------------------------------------------------------

ORDERS = ["norm_act", "act_norm"]


@pytest.mark.item("S068")
@pytest.mark.parametrize(
    ("order", "text"), list(itertools.product(ORDERS, ["mlp((12,), norm=batch{})", "convnet(8{})", "resnet(18{})", "resnet(50{})"]))
)
def test_norm_before_or_after_the_activation(order: str, text: str) -> None:
    """The slides put the norm after the layer and before the non-linearity: the default; the other order is a setting."""
    net = build(text.format(f", act=relu, order={order}"), 10, 3, (16, 16)).train()
    ran: list[str] = []
    for name, m in net.named_modules():
        if isinstance(m, (nn.ReLU, nn.BatchNorm2d)) and "downsample" not in name:
            m.register_forward_hook(lambda m, i, o, name=name: ran.append(type(m).__name__))
    net(images(4, 3, 16, 16))
    pairs = list(zip(ran[::2], ran[1::2], strict=True))
    assert set(pairs) == {("BatchNorm", "ReLU") if order == "norm_act" else ("ReLU", "BatchNorm")}
    inner = [m for m in weight_layers(net) if m is not find_head(net)[1]]
    biased = [m.bias is not None for m in inner if m not in [d for n, d in net.named_modules() if "downsample" in n]]
    assert set(biased) == {order == "act_norm"}, "a bias right before a norm would be for nothing"


@pytest.mark.item("S068")
def test_the_norm_comes_first_where_nothing_else_is_asked() -> None:
    assert {CATALOG.make(model, "model").order for model in ("mlp", "convnet", "resnet")} == {"norm_act"}  # type: ignore[attr-defined]


@pytest.mark.item("S068")
def test_the_two_orders_compared() -> None:
    """Norm last: hidden numbers have mean 0 and variance 1; activation last: none is negative. Both learn the same small task."""
    x, labels = images(48, 3, 8, 8), torch.arange(48) % 3
    x = x + labels[:, None, None, None] - 1
    hidden, losses = {}, {}
    for order in ORDERS:
        net = build(f"convnet(8, act=relu, order={order})", 3, 3, (8, 8))
        net.get_submodule("stem").register_forward_hook(lambda m, i, o, order=order: hidden.setdefault(order, o.detach()))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for _ in range(40):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        losses[order] = loss.item()
    assert hidden["norm_act"].min() == 0 and hidden["act_norm"].min() < -0.1
    assert hidden["act_norm"].mean().abs() < 1e-4 and hidden["act_norm"].var().item() == pytest.approx(1, abs=0.01)
    assert max(losses.values()) < 0.5
    assert losses["norm_act"] != losses["act_norm"]


# ---- initialization ----------------------------------------------------------------------------------------------------------------


def deep(width: int = 256, depth: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.Tanh())))


@pytest.mark.item("S063")
def test_small_and_large_gaussians_kill_and_saturate_a_deep_tanh_net() -> None:
    net = deep()
    spread = {}
    for std in (0.01, 1.0, 1 / 16):  # 1 / 16 is Xavier's for 256 inputs
        Gaussian(std)(net)
        w = net[0].weight.detach().double()
        assert abs(w.mean().item()) < 3 * std / 256 and w.std().item() == pytest.approx(std, rel=3 / math.sqrt(2 * w.numel()))  # type: ignore[operator, union-attr]
        spread[std] = net(images(64, 256)).detach()
    assert spread[0.01].std() < 1e-6
    assert (spread[1.0].abs() > 0.99).double().mean() > 0.8
    assert 0.1 < spread[1 / 16].std() < 0.7


def test_constant_weights_never_part() -> None:
    net = build("mlp((6, 6), act=tanh, init=constant(0.05))", 3, 1, (4, 4))
    assert set(net.get_parameter("layer1.linear.weight").flatten().tolist()) == {torch.tensor(0.05).item()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for step in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(images(9, 1, 4, 4, seed=step)), torch.arange(9) % 3).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    w = net.get_parameter("layer1.linear.weight")
    torch.testing.assert_close(w, w[:1].expand_as(w))


def test_zero_weights_let_only_the_last_bias_learn() -> None:
    net = build("mlp((6,), init=zero)", 3, 1, (4, 4))
    assert not any(p.any() for p in net.parameters())
    F.cross_entropy(net(images(4, 1, 4, 4)), torch.tensor([0, 0, 1, 2])).backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in net.named_parameters() if p.grad.any()] == ["head.bias"]  # type: ignore[union-attr]


def test_zero_constant_and_none_leave_biases_as_they_say() -> None:
    for init in (Zero(), Constant(2.0), Orthogonal(), Gaussian(), Dirac()):
        layer = nn.Linear(4, 4)
        init(layer)
        assert not layer.bias.any()


@pytest.mark.parametrize("layer", [nn.Linear(20, 8), nn.Linear(8, 20), nn.Conv2d(3, 10, 3)], ids=str)
def test_orthogonal(layer: nn.Module) -> None:
    Orthogonal(1.5)(layer)
    w = layer.weight.detach().flatten(1).double()  # type: ignore[operator, union-attr]
    w = w if w.shape[0] <= w.shape[1] else w.T
    torch.testing.assert_close(w @ w.T, 2.25 * torch.eye(len(w), dtype=torch.float64), atol=1e-5, rtol=0)


def test_dirac_hands_its_input_on() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1))
    Dirac()(net)
    x = images(2, 3, 6, 6)
    torch.testing.assert_close(net(x), x)
    line = nn.Linear(4, 6)
    Dirac()(line)
    torch.testing.assert_close(line(x[0, 0, :, :4]), F.pad(x[0, 0, :, :4], (0, 2)))


@pytest.mark.parametrize("text", ["mlp((32, 32, 32, 32, 32), act=tanh)", "convnet(8, norm=none)", "resnet(norm=none)", "convnet(8)"])
def test_lsuv_gives_every_hidden_layer_variance_1(text: str) -> None:
    net = build(text.removesuffix(")") + ", init=lsuv)", size=(16, 16))
    before = {name: x.clone() for name, x in net.named_buffers()}
    x = 3 * images(64, 3, 16, 16) + 1
    calibrate_init(Lsuv(), net, x)
    assert all(m.training for m in net.modules())
    assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())
    seen = []
    for layer in weight_layers(net):
        layer.register_forward_hook(lambda m, i, o: seen.append(o.var().item()))
    net.eval()(x)
    assert len(seen) == len(list(weight_layers(net)))
    assert seen[:-1] == pytest.approx([1.0] * (len(seen) - 1), rel=1e-3)
    assert seen[-1] < 0.2, "the head stays small"


def correlated(n: int = 200, side: int = 12) -> Tensor:
    """Images whose neighboring pixels and channels are alike, as in photos."""
    noise = images(n, 1, side + 4, side + 4) + 0.3 * images(n, 3, side + 4, side + 4, seed=1)
    return F.avg_pool2d(noise, 5, 1)


def test_whitening_filters_against_numpy() -> None:
    x, eps = correlated(), 1e-3
    filters = whitening_filters(x, torch.Size((3, 3)), eps).double().numpy()
    assert filters.shape == (54, 3, 3, 3)
    assert np.array_equal(filters[::2], -filters[1::2])
    a = x.double().numpy()
    patches = np.stack([a[:, :, i : i + 10, j : j + 10] for i in range(3) for j in range(3)], 2)  # [N, C, 9, h, w]
    flat = patches.transpose(0, 3, 4, 1, 2).reshape(-1, 27)
    values = np.linalg.eigvalsh(np.cov(flat.T, bias=True))[::-1]
    out = np.cov((flat @ filters[::2].reshape(27, 27).T).T, bias=True)
    np.testing.assert_allclose(out, np.diag(values / (values + eps)), atol=1e-6)


@pytest.mark.parametrize("width", [20, 64])
def test_whitening_fills_the_first_conv_and_leaves_the_rest(width: int) -> None:
    text = f"convnet({width}, init=whitening(rest=orthogonal))"
    before, net = build(text, size=(12, 12)), build(text, size=(12, 12))
    x = correlated()
    calibrate_init(Whitening(), net, x)
    count = min(width, 54)
    filters = whitening_filters(x, torch.Size((3, 3)), Whitening().eps)[:count].float()
    changed = [name for name, p in net.named_parameters() if not torch.equal(p, before.get_parameter(name))]
    assert changed == ["stem.conv.weight"]
    w = net.get_parameter("stem.conv.weight")
    torch.testing.assert_close(w[:count], filters)
    assert torch.equal(w[count:], before.get_parameter("stem.conv.weight")[count:])
    for model in ("mlp", "linear"):
        with pytest.raises(UsageError, match="first layer is a conv"):
            build(f"{model}(init=whitening)")


@pytest.mark.parametrize("init", ["whitening", "lsuv"])
def test_a_run_starts_from_its_training_images(photos: Path, tmp_path: Path, init: str) -> None:
    """With a learning rate of nothing the kept weights are those at the start: fitted to the training images, the same each time."""
    recipe = goodfit.Recipe(
        size="16", model=f"convnet(8, norm=none, init={init})", optimizer="sgd(1e-30)", budget="1 epoch", batch_size=16,
        augment="none", precision="fp32", layout="contiguous", threads=1,
    )  # fmt: skip
    run = goodfit.train(photos, recipe, out=tmp_path / "run", quiet=True)
    (classifier,) = goodfit.load(run).members
    rows = [line.split(",") for line in (run.path / "splits.csv").read_text().splitlines()[1:]]
    boxes = [classifier.preprocess.decode(photos / row[0]) for row in rows if row[2] == "train"]
    stored = torch.from_numpy(np.stack(boxes)).permute(0, 3, 1, 2)
    x = classifier.preprocess.normalize(classifier.preprocess.center_crop(stored))
    stem = classifier.model.get_submodule("stem.conv")
    with torch.no_grad():
        out = stem(x)[:, :, 1:-1, 1:-1] if init == "whitening" else stem(x)
    if init == "lsuv":
        assert out.std().item() == pytest.approx(1, rel=1e-3)
        return
    spread = np.cov(out.transpose(0, 1).flatten(1).double().numpy())
    np.testing.assert_allclose(spread, np.kron(np.eye(4), [[1, -1], [-1, 1]]), atol=0.01)
