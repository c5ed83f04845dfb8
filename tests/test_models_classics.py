"""The classic nets: torchvision's names, the counts of the papers and the lecture, and what each layer computes."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.layers.noise import DropLinear
from goodfit.layers.norm import LocalResponseNorm
from goodfit.losses.mse import Mse
from goodfit.losses.softmax import Softmax
from goodfit.models.anatomy.account import Account, account_for
from goodfit.models.classic import AdaptiveMean
from goodfit.models.nearest import Neighbors
from goodfit.models.weights.stages import find_head, find_stages

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])
KEYS: dict[str, list[list[object]]] = json.loads((Path(__file__).parent / "data" / "torchvision_keys.json").read_text())


def build(text: str, classes: int = 1000, channels: int = 3, size: tuple[int, int] = (224, 224), device: str = "meta") -> nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        made: nn.Module = CATALOG.make(text, "model")(classes, channels, size)  # type: ignore[operator]
    return made


def small(text: str, classes: int = 4, channels: int = 3, size: tuple[int, int] = (12, 12)) -> nn.Module:
    return build(text, classes, channels, size, "cpu")


def counts(text: str, side: int = 224) -> Account:
    return account_for(build(text, size=(side, side)), 3, (side, side))


def images(n: int, channels: int = 3, size: tuple[int, int] = (12, 12), seed: int = 5) -> Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def shapes(text: str, side: int, *types: str) -> list[tuple[int, ...]]:
    return [row.output for row in counts(text, side).rows if row.type in types]


# ---- names and sizes -------------------------------------------------------------------------------------------------------------

TORCHVISIONS = {
    "alexnet": "alexnet",
    **{f"vgg({depth})": f"vgg{depth}" for depth in (11, 13, 16, 19)},
    **{f"vgg({depth}, norm=batch)": f"vgg{depth}_bn" for depth in (11, 13, 16, 19)},
}


@pytest.mark.item("S185")
@pytest.mark.parametrize("text", TORCHVISIONS)
def test_names_and_shapes_are_torchvisions(text: str) -> None:
    expected = KEYS[TORCHVISIONS[text]]
    assert [[key, list(value.shape)] for key, value in build(text).state_dict().items()] == expected
    tiny = build(text, 10, 1, (32, 32)).state_dict()
    assert list(tiny) == [key for key, _ in expected]
    assert tiny["classifier.6.weight"].shape == (10, 512)


@pytest.mark.parametrize("side", [96, 224, 256])
def test_pretrained_sizes_at_any_size_of_the_imagenet_stem(side: int) -> None:
    for text, n in (("alexnet", 9216), ("vgg(11)", 25088)):
        net = build(text, size=(side, side + 16))
        assert [m.in_features for m in net.modules() if isinstance(m, nn.Linear)] == [n, 4096, 4096]
        assert net(torch.empty(2, 3, side, side + 16, device="meta")).shape == (2, 1000)


LEAST = {"alexnet": 8, "alexnet(imagenet)": 64, "alexnet2012(stem=imagenet)": 64, "vgg": 8, "vgg(stem=imagenet)": 32, "vgg_f": 8}
LEAST |= {"vgg_s(imagenet)": 96, "nin": 8, "nin(imagenet)": 51, "lenet": 4, "swift": 4}


@pytest.mark.parametrize(("text", "least"), LEAST.items())
def test_too_small_images_are_refused(text: str, least: int) -> None:
    assert build(text, size=(least, least))(torch.empty(2, 3, least, least, device="meta")).shape == (2, 1000)
    with pytest.raises(UsageError, match=f"at least {least}x{least} pixels, received {least - 1}x{least}"):
        build(text, size=(least - 1, least))


def test_stages_have_the_papers_names() -> None:
    def names(text: str) -> list[str]:
        net = build(text, size=(32, 32))
        return [*(stage.name for stage in find_stages(net)), find_head(net)[0]]

    convs = [f"conv{i}" for i in range(1, 6)]
    assert names("alexnet") == [*convs, "fc6", "fc7", "classifier.6"]
    assert names("alexnet2012") == names("vgg_m") == [*convs, "fc6", "fc7", "fc8"]
    assert names("vgg(norm=batch)") == [*(f"stage{i}" for i in range(1, 6)), "fc1", "fc2", "classifier.6"]
    assert names("nin") == ["mlpconv1", "mlpconv2", "mlpconv3", "head.maps"]
    assert names("lenet") == ["conv1", "conv2", "fc1", "fc2", "head"]


def test_a_stage_holds_its_convs_with_their_norms_and_pool() -> None:
    stage = dict(find_stages(build("vgg(11, norm=batch)", size=(32, 32))))["stage3"]
    assert stage == tuple(f"features.{i}" for i in range(8, 15))
    assert dict(find_stages(build("alexnet")))["conv3"] == ("features.6", "features.7")


FIRST = ["alexnet", "alexnet2012", "vgg_f", "vgg_s", "vgg(11)", "vgg(A_lrn, norm=batch)", "nin"]


@pytest.mark.parametrize("classes", [pytest.param(2, marks=pytest.mark.slow), 50])
@pytest.mark.parametrize("text", FIRST)
def test_first_loss_is_near_ln_k_behind_many_max_pools(text: str, classes: int) -> None:
    net = small(text, classes, size=(32, 32))
    loss = F.cross_entropy(net(images(8, size=(32, 32))), torch.arange(8) % classes)
    assert loss.item() == pytest.approx(math.log(classes), rel=0.1)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


# ---- the lecture's tables --------------------------------------------------------------------------------------------------------


@pytest.mark.item("S152")
def test_shapes_of_alexnet() -> None:
    expected = [(96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6)]
    for side in (227, 224):  # the lecture's size, and the paper's
        assert shapes("alexnet2012", side, "Conv2d", "MaxPool2d") == expected
        assert shapes("alexnet2012", side, "Linear") == [(4096,), (4096,), (1000,)]


@pytest.mark.item("S154")
def test_configurations_of_vgg() -> None:
    plain = {
        "A": "64 M 128 M 256 256 M 512 512 M 512 512 M",
        "A_lrn": "64 L M 128 M 256 256 M 512 512 M 512 512 M",
        "B": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
        "C": "64 64 M 128 128 M 256 256 256' M 512 512 512' M 512 512 512' M",
        "D": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
        "E": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
    }
    for letter, layers in plain.items():
        net, found = build(f"vgg({letter})"), []
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                assert (m.stride, m.padding) == ((1, 1), ((1, 1) if m.kernel_size == (3, 3) else (0, 0)))
                found.append(f"{m.out_channels}{'' if m.kernel_size == (3, 3) else chr(39)}")
            elif isinstance(m, nn.MaxPool2d):
                assert (m.kernel_size, m.stride) == (2, 2)
                found.append("M")
            elif isinstance(m, LocalResponseNorm):
                found.append("L")
        assert " ".join(found) == layers, letter
    for depth, letter in ((11, "A"), (13, "B"), (16, "D"), (19, "E")):
        assert str(build(f"vgg({depth})")) == str(build(f"vgg({letter})"))


@pytest.mark.item("S155")
def test_parameters_of_vgg() -> None:
    expected = {"A": 132_863_336, "A_lrn": 132_863_336, "B": 133_047_848, "C": 133_638_952, "D": 138_357_544, "E": 143_667_240}
    assert {letter: sum(p.numel() for p in build(f"vgg({letter})").parameters()) for letter in expected} == expected


@pytest.mark.item("S156", "S157", "S159")
def test_layers_of_vgg16() -> None:
    net = build("vgg(16)")
    weights = [m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert weights[:7] == [1728, 36_864, 73_728, 147_456, 294_912, 589_824, 589_824]
    assert weights[7:] == [1_179_648, *[2_359_296] * 5, 102_760_448, 16_777_216, 4_096_000]
    assert sum(weights) == 138_344_128
    assert sum(weights[-3:]) / sum(weights) == pytest.approx(0.894, abs=5e-4)
    numbers = [150_528, *(math.prod(shape) for shape in shapes("vgg(16)", 224, "Conv2d", "MaxPool2d", "Linear"))]
    assert numbers[:7] == [150_528, 3_211_264, 3_211_264, 802_816, 1_605_632, 1_605_632, 401_408]
    assert numbers[-4:] == [25_088, 4096, 4096, 1000]
    assert sum(numbers) == 15_237_608
    assert (numbers[1] + numbers[2]) / sum(numbers) == pytest.approx(0.42, abs=0.005)


TABLE = [  # net, side, million parameters, % of them in convs, million operations, % of them in convs
    pytest.param("alexnet2012", 227, 60.95, 3.8, 725.07, 91.9, marks=pytest.mark.item("S160")),
    pytest.param("alexnet2012(1)", 227, 62.4, 6.0, 1135.9, 94.8, marks=pytest.mark.item("S160")),
    pytest.param("vgg_f", 224, 60.8, 3.6, 724.5, 91.9, marks=pytest.mark.item("S161")),
    pytest.param("vgg_m", 224, 102.90, 6.3, 1677.75, 94.3, marks=pytest.mark.item("S162")),
    pytest.param("vgg_s", 224, 102.90, 6.3, 2639.58, 96.3, marks=pytest.mark.item("S163")),
    pytest.param("vgg(16)", 224, 138.34, 10.6, 15483.82, 99.2, marks=pytest.mark.item("S164")),
    pytest.param("vgg(19)", 224, 143.65, 13.9, 19646.92, 99.4, marks=pytest.mark.item("S165")),
    pytest.param("nin", 224, 7.59, 100, 1101.9, 100, marks=pytest.mark.item("S166")),  # the lecture prints 1168
    pytest.param("nin", 227, 7.59, 100, 1107.7, 100, marks=pytest.mark.item("S166")),
]


@pytest.mark.item("S148")
@pytest.mark.parametrize(("text", "side", "weights", "of_convs", "operations", "by_convs"), TABLE)
def test_the_lectures_table(text: str, side: int, weights: float, of_convs: float, operations: float, by_convs: float) -> None:
    rows = counts(text, side).rows  # biases are among the operations, one add for each, not among the parameters
    net = build(text, size=(side, side))
    biases = {name: m.bias.numel() for name, m in net.named_modules() if getattr(m, "bias", None) is not None}
    found = [(row.parameters - biases.get(row.name, 0), row.ops, row.type == "Linear") for row in rows]
    n, ops = sum(x for x, _, _ in found), sum(x for _, x, _ in found)
    assert n / 1e6 == pytest.approx(weights, abs=0.05 if weights < 62 or weights > 63 else 0.1)
    assert ops / 1e6 == pytest.approx(operations, rel=1e-4)
    assert 100 * sum(x for x, _, linear in found if not linear) / n == pytest.approx(of_convs, abs=0.06)
    assert 100 * sum(x for _, x, linear in found if not linear) / ops == pytest.approx(by_convs, abs=0.06)


@pytest.mark.item("S161")
def test_the_lectures_row_of_vgg_f_has_a_first_fc_of_another_net() -> None:
    """The row that it prints, 99 million parameters, is that of a net whose fc6 reads 512 maps in place of 256."""
    weights = sum(p.numel() for p in build("vgg_f").parameters() if p.ndim > 1)
    assert (weights + 256 * 6 * 6 * 4096) / 1e6 == pytest.approx(98.57, abs=0.01)


# ---- what the layers compute -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 5, 9])
def test_local_response_norm_by_the_papers_formula(channels: int) -> None:
    x = 5 * images(2, channels, (3, 4))
    a = x.double().numpy()
    expected = np.empty_like(a)
    for i in range(channels):
        near = a[:, max(0, i - 2) : min(channels - 1, i + 2) + 1]
        expected[:, i] = a[:, i] / (2 + 1e-4 * (near**2).sum(1)) ** 0.75
    layer = LocalResponseNorm()
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(layer(x.contiguous(memory_format=torch.channels_last)).numpy(), expected, rtol=1e-5)
    strong = LocalResponseNorm(alpha=1.0)
    assert torch.autograd.gradcheck(strong, x.double().requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (13, 9), (3, 8), (1, 2)])
def test_mean_to_is_adaptive_pooling(size: tuple[int, int]) -> None:
    x = images(2, 3, size)
    torch.testing.assert_close(AdaptiveMean(7)(x), F.adaptive_avg_pool2d(x, 7))


def test_alexnet_of_two_groups() -> None:
    net = build("alexnet2012", size=(227, 227))
    assert [m.groups for m in net.modules() if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2, 2]
    first = net.get_submodule("conv1")
    assert [type(m).__name__ for m in first] == ["Conv2d", "Identity", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert [type(m).__name__ for m in build("alexnet2012(norm=batch)").get_submodule("conv1")][1:4] == ["BatchNorm", "ReLU", "MaxPool2d"]


@pytest.mark.item("S204")
def test_local_response_norm_as_the_norm_of_a_net_stands_at_every_conv() -> None:
    for text, convs in (("alexnet2012(norm=lrn)", 5), ("alexnet(norm=lrn)", 5), ("vgg(11, norm=lrn(3))", 8), ("vgg(A_lrn, norm=lrn)", 9)):
        net = build(text, size=(227, 227) if "2012" in text else (224, 224))
        assert sum(isinstance(m, LocalResponseNorm) for m in net.modules()) == convs, text
        assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d)), "it takes no mean off, which a bias would be"
    order = [type(m).__name__ for m in build("convnet(8, norm=lrn, order=act_norm)", size=(32, 32)).modules() if not list(m.children())]
    assert order[order.index("LocalResponseNorm") - 1] == "ReLU", "after the activation, as in the paper"


def test_dropconnect_acts_on_the_hidden_fully_connected_layers() -> None:
    for text in ("alexnet", "alexnet2012", "vgg", "vgg_f"):
        assert sum(isinstance(m, DropLinear) for m in build(f"{text}(drop=dropconnect)").modules()) == 2, text


def test_hidden_units_are_a_setting() -> None:
    for text in ("alexnet(hidden=20)", "alexnet2012(hidden=20)", "vgg(hidden=20)", "vgg_s(hidden=20)"):
        assert [m.out_features for m in build(text).modules() if isinstance(m, nn.Linear)] == [20, 20, 1000]


def test_nin_scores_are_means_of_class_maps() -> None:
    net = small("nin").eval()
    found: list[Tensor] = []
    net.get_submodule("head.maps").register_forward_hook(lambda m, inputs, output: found.extend((inputs[0], output)))
    with torch.no_grad():
        scores = net(images(2))
    x, maps = found
    p = find_head(net)[1]
    torch.testing.assert_close(maps, torch.einsum("kc,bchw->bkhw", p.weight, x) + p.bias[:, None, None])
    torch.testing.assert_close(scores, maps.mean((2, 3)))
    convs = [(m.out_channels, m.kernel_size[0]) for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [(192, 5), (160, 1), (96, 1), (192, 5), (192, 1), (192, 1), (192, 3), (192, 1)]


def test_lenet_by_hand() -> None:
    for side, border in ((28, 2), (32, 0)):
        net = small("lenet", 10, 1, (side, side)).eval()
        assert sum(p.numel() for p in net.parameters()) == 61_706
        p, x = net.state_dict(), images(2, 1, (side, side))
        y = F.avg_pool2d(torch.tanh(F.conv2d(x, p["conv1.conv.weight"], p["conv1.conv.bias"], padding=border)), 2)
        y = F.avg_pool2d(torch.tanh(F.conv2d(y, p["conv2.conv.weight"], p["conv2.conv.bias"])), 2).flatten(1)
        assert y.shape == (2, 16 * 5 * 5)
        for name in ("fc1", "fc2"):
            y = torch.tanh(y @ p[f"{name}.linear.weight"].T + p[f"{name}.linear.bias"])
        torch.testing.assert_close(net(x), y @ p["head.weight"].T + p["head.bias"])
    assert sum(isinstance(m, nn.MaxPool2d) for m in small("lenet(max)").modules()) == 2


@pytest.mark.item("S011")
def test_a_linear_score_for_cifar() -> None:
    net = small("linear", 10, size=(32, 32))
    p = find_head(net)[1]
    assert p.weight.shape == (10, 3072) and p.weight.numel() == 30_720
    assert sum(x.numel() for x in net.parameters()) == 30_730
    x = images(1, size=(32, 32))
    np.testing.assert_allclose(net(x).detach().numpy()[0], p.weight.detach().numpy() @ x.numpy().reshape(3072), atol=1e-4)


@pytest.mark.item("S014")
@pytest.mark.parametrize("hidden", [(7,), (7, 6)])
def test_two_and_three_layers_by_hand(hidden: tuple[int, ...]) -> None:
    net = small(f"mlp({hidden})")
    x = images(3)
    y = x.flatten(1).double()
    for i in range(1, len(hidden) + 1):
        p = net.get_submodule(f"layer{i}.linear")
        y = (y @ p.weight.double().T + p.bias.double()).clamp(min=0)
    p = find_head(net)[1]
    torch.testing.assert_close(net(x).double(), y @ p.weight.double().T + p.bias.double(), atol=1e-5, rtol=1e-5)


# ---- the perceptron --------------------------------------------------------------------------------------------------------------

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
GATES = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}


def learned(text: str, gate: str) -> float:
    """The accuracy of a net on a gate after training on its four points."""
    net, x = small(text, 2, 2, (1, 1)), POINTS[:, :, None, None]
    labels = torch.tensor(GATES[gate])
    optimizer, loss = torch.optim.Adam(net.parameters(), 0.1), Mse()
    for _ in range(200):
        optimizer.zero_grad()
        loss(net(x), F.one_hot(labels, 2).float()).mean().backward()
        optimizer.step()
    return float((net(x).argmax(1) == labels).double().mean())


@pytest.mark.item("S016")
def test_a_perceptron_learns_what_a_line_separates() -> None:
    assert learned("perceptron", "and") == learned("perceptron", "or") == 1
    assert learned("perceptron", "xor") <= 0.75
    assert learned("mlp((8,), act=tanh)", "xor") == 1


@pytest.mark.item("S016")
def test_no_perceptron_solves_xor() -> None:
    net = small("perceptron", 2, 2, (1, 1))
    p, best = find_head(net)[1], dict.fromkeys(GATES, 0.0)
    for w1, w2, b in itertools.product((-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0), (-1.5, -0.5, 0.5, 1.5)):  # lines of every kind there is
        with torch.no_grad():
            p.weight.copy_(torch.tensor([[0.0, 0.0], [w1, w2]]))
            p.bias.copy_(torch.tensor([0.0, b]))
            found = net(POINTS[:, :, None, None]).argmax(1)
        best = {gate: max(best[gate], float((found == torch.tensor(GATES[gate])).double().mean())) for gate in GATES}
    assert best == {"and": 1.0, "or": 1.0, "xor": 0.75}


def test_a_perceptron_by_hand() -> None:
    net, x = small("perceptron"), images(2)
    p = find_head(net)[1]
    torch.testing.assert_close(net(x), 1 / (1 + torch.exp(-(x.flatten(1) @ p.weight.T + p.bias))))
    assert small("perceptron(act=maxout(3))")(x).shape == (2, 4)


# ---- nearest neighbors -----------------------------------------------------------------------------------------------------------


def taught(text: str, x: Tensor, labels: Tensor, classes: int = 4) -> Neighbors:
    net = small(text, classes, x.shape[1], (x.shape[2], x.shape[3])).get_submodule("neighbors")
    assert isinstance(net, Neighbors)
    net.memorize(x, labels)
    return net.eval()


@pytest.mark.item("S001")
@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_each_image_is_nearest_to_itself(metric: str) -> None:
    x, labels = images(200, size=(6, 5)), torch.arange(200) * 7 % 4
    net = taught(f"nearest(metric={metric})", x, labels)
    assert torch.equal(net.find_neighbors(x)[:, 0], torch.arange(200))
    assert torch.equal(net(x).argmax(1), labels)


@pytest.mark.item("S002")
@pytest.mark.parametrize(("metric", "name"), [("l1", "cityblock"), ("l2", "euclidean"), ("cosine", "cosine")])
@pytest.mark.parametrize("k", [1, 5])
def test_neighbors_are_those_of_scipy(metric: str, name: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodfit.models.nearest.MAX_DISTANCES_AT_ONCE", 150)  # three queries at once
    x, labels, asked = images(50, size=(6, 5)), torch.arange(50) * 7 % 4, images(20, size=(6, 5), seed=6)
    net = taught(f"nearest({k}, metric={metric})", x, labels)
    far = cdist(asked.flatten(1).double(), x.flatten(1).double(), name)
    expected = far.argsort(1)[:, :k]
    assert (net.find_neighbors(asked).numpy() == expected).all()
    votes = np.stack([np.bincount(labels.numpy()[row], minlength=4) for row in expected])
    scores = net.scores(asked)
    assert (votes[np.arange(20), scores.argmax(1)] == votes.max(1)).all()
    shares = Softmax().probabilities(scores).numpy()
    np.testing.assert_allclose(shares, (votes + 1 / 4) / (k + 1), atol=0.1 / k)


@pytest.mark.item("S002")
def test_ties_go_to_the_nearest_and_then_to_the_first() -> None:
    x = torch.tensor([0.0, 1.0, 3.0, 4.0, 9.0]).view(5, 1, 1, 1)
    net = taught("nearest(4)", x, torch.tensor([2, 0, 0, 2, 1]))
    assert net(torch.tensor([[[[0.2]]], [[[3.8]]], [[[1.4]]], [[[2.8]]]])).argmax(1).tolist() == [2, 2, 0, 0]
    alike = taught("nearest", torch.zeros(3, 1, 1, 1), torch.tensor([3, 1, 2]))
    assert alike(torch.ones(2, 1, 1, 1)).argmax(1).tolist() == [3, 3]
    between = taught("nearest(3)", torch.tensor([5.0, 1.0, -1.0, 7.0]).view(4, 1, 1, 1), torch.tensor([0, 3, 2, 1]))
    assert between.find_neighbors(torch.zeros(1, 1, 1, 1)).tolist() == [[1, 2, 0]]
    assert between(torch.zeros(1, 1, 1, 1)).argmax(1).tolist() == [3]


@pytest.mark.parametrize("k", [50, 100])
def test_a_tie_of_many_votes_is_told_apart(k: int) -> None:
    x = torch.arange(k, dtype=torch.float32).view(k, 1, 1, 1)
    net = taught(f"nearest({k})", x, (torch.arange(k) + 1) % 2)
    assert net(torch.zeros(1, 1, 1, 1)).argmax(1).tolist() == [1]


def test_what_was_memorized_is_saved_and_loaded() -> None:
    x, labels = images(30), torch.arange(30) % 4
    net, other = small("nearest(3)"), small("nearest(3)")
    net.get_submodule("neighbors").memorize(x, labels)  # type: ignore[operator]
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(images(5, seed=1)), other.eval()(images(5, seed=1)))
    other.load_state_dict(small("nearest(3)").state_dict())
    assert not other(x).any()  # forgotten
    with pytest.raises(RuntimeError, match="size mismatch"):
        small("nearest(3)", size=(8, 8)).load_state_dict(net.state_dict())


def test_before_it_has_memorized_all_classes_are_alike() -> None:
    scores = small("nearest").eval()(images(3))
    assert scores.shape == (3, 4) and not scores.any()
    with pytest.raises(UsageError, match="nothing to train: it memorizes the training images"):
        small("nearest").train()(images(3))
    assert build("nearest", size=(32, 32)).eval()(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 1000)


def test_too_few_images_or_labels_are_refused() -> None:
    net = small("nearest(5)").get_submodule("neighbors")
    with pytest.raises(UsageError, match="at least 5 images and a label for each, received 4 and 4 labels"):
        net.memorize(images(4), torch.zeros(4))  # type: ignore[operator]
    with pytest.raises(UsageError, match="received 6 and 3 labels"):
        net.memorize(images(6), torch.zeros(3))  # type: ignore[operator]
