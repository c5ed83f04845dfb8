"""The nets from 2014 on: torchvision's names, the published architectures written out with torch's functions, counts, and the lecture's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.batch import Batch
from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.layers.activation import Relu
from goodfit.layers.noise import None_ as NoNoise
from goodfit.layers.norm import Batch as BatchNorm
from goodfit.losses.scores import split_outputs
from goodfit.losses.softmax import Softmax
from goodfit.models.anatomy.account import account_for
from goodfit.models.blocks import NormAct, make_conv, named_sequential
from goodfit.models.branches import Branches
from goodfit.models.mobilenet import InvertedResidual, conv_layer
from goodfit.models.resnet import PreactBlock, ResidualBlock, ZeroPaddedShortcut
from goodfit.models.weights.stages import find_head, find_stages
from goodfit.training.gradient import gradient

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])
KEYS = json.loads((Path(__file__).parent / "data" / "torchvision_keys.json").read_text())
# What torchvision publishes of its models: text here, side of the images, parameters, billions of multiply-adds.
PUBLISHED = {
    "resnet18": ("resnet(18)", 224, 11_689_512, 1.814),
    "resnet34": ("resnet(34)", 224, 21_797_672, 3.664),
    "resnet50": ("resnet(50)", 224, 25_557_032, 4.089),
    "resnet101": ("resnet(101)", 224, 44_549_160, 7.801),
    "resnet152": ("resnet(152)", 224, 60_192_808, 11.514),
    "googlenet": ("googlenet", 224, 13_004_888, 1.498),
    "inception_v3": ("inception_v3", 299, 27_161_264, 5.713),
    "mobilenet_v2": ("mobilenet_v2", 224, 3_504_872, 0.301),
}
Weights = dict[str, Tensor]


def build(text: str, classes: int = 10, size: tuple[int, int] = (32, 32), channels: int = 3) -> Any:
    torch.manual_seed(0)
    return CATALOG.make(text, "model")(classes, channels, size)  # type: ignore[operator]


def on_meta(text: str, classes: int = 10, size: tuple[int, int] = (32, 32)) -> Any:
    with torch.device("meta"):
        return build(text, classes, size)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def worn(net: Any) -> Any:
    """The net in evaluation mode, its norms as after some training: other statistics, scales and shifts everywhere."""
    chance = torch.Generator().manual_seed(3)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in (
                (m.running_mean, -0.2, 0.2),
                (m.running_var, 0.8, 1.2),
                (m.weight.data, 0.9, 1.1),
                (m.bias.data, -0.1, 0.1),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=chance)
    find_head(net)[1].weight.data.mul_(10)
    return net.eval()


# ---- torchvision's names, shapes and counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_counts_are_torchvisions(name: str) -> None:
    text, side, count, billions = PUBLISHED[name]
    net, small = on_meta(text, 1000, (side, side)), on_meta(text, 1000)
    expected = [(key, [] if key.endswith("num_batches_tracked") else shape) for key, shape in KEYS[name]]
    assert [(key, list(x.shape)) for key, x in net.state_dict().items()] == expected
    assert list(small.state_dict()) == [key for key, _ in expected]
    totals = account_for(net, 3, (side, side)).totals
    assert totals["parameters"] == parameters(net) == count
    assert totals["macs"] / 1e9 == pytest.approx(billions, abs=1e-3)


@pytest.mark.parametrize(("text", "count", "keys"), [("googlenet(aux=0)", 6_624_904, 344), ("inception_v3(aux=0)", 23_834_568, 566)])
def test_without_auxiliary_heads(text: str, count: int, keys: int) -> None:
    net = on_meta(text, 1000, (299, 299))
    assert (parameters(net), len(net.state_dict())) == (count, keys)
    assert isinstance(net.train()(images(1, 3, 299, 299).to("meta")), Tensor)


# ---- the published architectures, written out ------------------------------------------------------------------------------------


def bn(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"], eps=eps)


def basic(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int | tuple[int, int] = 0) -> Tensor:
    """torchvision's BasicConv2d."""
    return F.relu(bn(w, f"{name}.bn", F.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding), 1e-3))


def resnet(w: Weights, x: Tensor, blocks: tuple[int, ...], bottleneck: bool) -> Tensor:
    x = F.relu(bn(w, "bn1", F.conv2d(x, w["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    for i, length in enumerate(blocks, start=1):
        for j in range(length):
            name, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            steps = ((1, 1, 0), (2, stride, 1), (3, 1, 0)) if bottleneck else ((1, stride, 1), (2, 1, 1))
            y = x
            for k, step, padding in steps:
                y = bn(w, f"{name}.bn{k}", F.conv2d(y, w[f"{name}.conv{k}.weight"], stride=step, padding=padding))
                y = F.relu(y) if k < len(steps) else y
            if f"{name}.downsample.0.weight" in w:
                x = bn(w, f"{name}.downsample.1", F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=stride))
            x = F.relu(y + x)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def googlenet(w: Weights, x: Tensor) -> Tensor:
    x = F.max_pool2d(basic(w, "conv1", x, 2, 3), 3, 2, ceil_mode=True)
    x = F.max_pool2d(basic(w, "conv3", basic(w, "conv2", x), 1, 1), 3, 2, ceil_mode=True)
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        stem = f"inception{name}"
        three = basic(w, f"{stem}.branch2.1", basic(w, f"{stem}.branch2.0", x), 1, 1)
        five = basic(w, f"{stem}.branch3.1", basic(w, f"{stem}.branch3.0", x), 1, 1)
        pool = basic(w, f"{stem}.branch4.1", F.max_pool2d(x, 3, 1, 1, ceil_mode=True))
        x = torch.cat([basic(w, f"{stem}.branch1", x), three, five, pool], 1)
        if name in ("3b", "4e"):
            x = F.max_pool2d(x, 3 if name == "3b" else 2, 2, ceil_mode=True)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def mixed(w: Weights, stem: str, x: Tensor) -> Tensor:
    """A block of Inception v3."""

    def run(x: Tensor, *names: str) -> Tensor:
        for name in names:
            rows, columns = w[f"{stem}.{name}.conv.weight"].shape[2:]
            shrinks = stem in ("Mixed_6a", "Mixed_7a") and name in ("branch3x3", "branch3x3dbl_3", "branch3x3_2", "branch7x7x3_4")
            x = basic(w, f"{stem}.{name}", x, 2 if shrinks else 1, 0 if shrinks else (rows // 2, columns // 2))
        return x

    if stem == "Mixed_6a":
        return torch.cat([run(x, "branch3x3"), run(x, *(f"branch3x3dbl_{i}" for i in (1, 2, 3))), F.max_pool2d(x, 3, 2)], 1)
    if stem == "Mixed_7a":
        return torch.cat(
            [run(x, "branch3x3_1", "branch3x3_2"), run(x, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))), F.max_pool2d(x, 3, 2)], 1
        )
    pool = run(F.avg_pool2d(x, 3, 1, 1), "branch_pool")
    first = run(x, "branch1x1")
    if stem.startswith("Mixed_5"):
        return torch.cat([first, run(x, "branch5x5_1", "branch5x5_2"), run(x, *(f"branch3x3dbl_{i}" for i in (1, 2, 3))), pool], 1)
    if stem.startswith("Mixed_6"):
        seven = run(x, *(f"branch7x7_{i}" for i in (1, 2, 3)))
        return torch.cat([first, seven, run(x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))), pool], 1)
    one, two = run(x, "branch3x3_1"), run(x, "branch3x3dbl_1", "branch3x3dbl_2")
    ends = [run(one, "branch3x3_2a"), run(one, "branch3x3_2b"), run(two, "branch3x3dbl_3a"), run(two, "branch3x3dbl_3b")]
    return torch.cat([first, *ends, pool], 1)


def inception_v3(w: Weights, x: Tensor) -> Tensor:
    x = basic(w, "Conv2d_2b_3x3", basic(w, "Conv2d_2a_3x3", basic(w, "Conv2d_1a_3x3", x, 2)), 1, 1)
    x = basic(w, "Conv2d_4a_3x3", basic(w, "Conv2d_3b_1x1", F.max_pool2d(x, 3, 2)))
    x = F.max_pool2d(x, 3, 2)
    for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
        x = mixed(w, f"Mixed_{name}", x)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def mobilenet_v2(w: Weights, x: Tensor) -> Tensor:
    x = F.relu6(bn(w, "features.0.1", F.conv2d(x, w["features.0.0.weight"], stride=2, padding=1)))
    for i in range(1, 18):
        name, y = f"features.{i}.conv", x
        if i > 1:
            y = F.relu6(bn(w, f"{name}.0.1", F.conv2d(y, w[f"{name}.0.0.weight"])))
        deep, last = (f"{name}.1", 2) if i > 1 else (f"{name}.0", 1)
        y = F.conv2d(y, w[f"{deep}.0.weight"], stride=2 if i in (2, 4, 7, 14) else 1, padding=1, groups=y.shape[1])
        y = F.conv2d(F.relu6(bn(w, f"{deep}.1", y)), w[f"{name}.{last}.weight"])
        y = bn(w, f"{name}.{last + 1}", y)
        x = x + y if x.shape == y.shape else y
    x = F.relu6(bn(w, "features.18.1", F.conv2d(x, w["features.18.0.weight"])))
    return F.linear(x.mean((2, 3)), w["classifier.1.weight"], w["classifier.1.bias"])


WRITTEN_OUT = {
    "resnet(18, stem=imagenet)": (lambda w, x: resnet(w, x, (2, 2, 2, 2), False), 64),
    "resnet(50, stem=imagenet)": (lambda w, x: resnet(w, x, (3, 4, 6, 3), True), 64),
    "googlenet(stem=imagenet)": (googlenet, 75),
    "inception_v3": (inception_v3, 107),
    "mobilenet_v2(stem=imagenet)": (mobilenet_v2, 64),
}


@pytest.mark.parametrize("text", WRITTEN_OUT)
def test_the_forward_pass_is_the_published_one(text: str) -> None:
    written, side = WRITTEN_OUT[text]
    net = worn(build(text, 7, (side, side)))
    x = images(2, 3, side, side)
    with torch.no_grad():
        out = net(x)
        torch.testing.assert_close(out, written(net.state_dict(), x), atol=1e-4, rtol=1e-4)
    assert float(out.std()) > 1e-3  # scores that tell something


@pytest.mark.parametrize("side", [14, 7, 4, 3])
def test_auxiliary_heads_of_googlenet(side: int) -> None:
    head_, x = worn(build("googlenet")).aux1, images(2, 512, side, side)
    w = head_.state_dict()
    y = basic(w, "conv", F.adaptive_avg_pool2d(x, 4)).flatten(1)
    y = F.linear(F.relu(F.linear(y, w["fc1.weight"], w["fc1.bias"])), w["fc2.weight"], w["fc2.bias"])
    torch.testing.assert_close(head_(x), y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [17, 20, 8])
def test_the_auxiliary_head_of_inception_v3(side: int) -> None:
    head_, x = worn(build("inception_v3")).AuxLogits, images(2, 768, side, side)
    w = head_.state_dict()
    y = F.avg_pool2d(x, 5, 3) if side >= 17 else F.adaptive_avg_pool2d(x, 5)
    y = basic(w, "conv1", basic(w, "conv0", y)).mean((2, 3))
    torch.testing.assert_close(head_(x), F.linear(y, w["fc.weight"], w["fc.bias"]), atol=1e-5, rtol=1e-4)


# ---- auxiliary heads in training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weight", "names"), [("googlenet", 0.3, ["aux1.fc2", "aux2.fc2"]), ("inception_v3", 0.4, ["AuxLogits.fc"])]
)
def test_auxiliary_losses_count_with_their_weight_in_training_only(text: str, weight: float, names: list[str]) -> None:
    quiet = "drop=none, aux_drop=none" if text == "googlenet" else "drop=none"
    net = build(f"{text}({quiet})", 4, (12, 12)).train()
    seen: list[Tensor] = []
    for name in [*names, find_head(net)[0]]:
        net.get_submodule(name).register_forward_hook(lambda m, inputs, output: seen.append(output))
    labels = torch.arange(6) % 4
    batch = Batch(images(6, 3, 12, 12), F.one_hot(labels, 4).float(), torch.arange(6))
    outcome = gradient(net, iter([batch]), 6, Softmax())
    *extra, main = [F.cross_entropy(x, labels) for x in seen]
    assert len(extra) == len(names)
    torch.testing.assert_close(outcome.loss, (main + weight * sum(extra)).detach())
    assert isinstance(net.eval()(batch.images), Tensor)
    assert [w for _, w in split_outputs(build(f"{text}({quiet}, aux=0.7)", 4, (12, 12))(batch.images))[1]] == [0.7] * len(names)


@pytest.mark.parametrize(("text", "where"), [("googlenet", ("inception4", {"aux1", "aux2"})), ("inception_v3", ("mixed6", {"AuxLogits"}))])
def test_auxiliary_heads_belong_to_the_stage_they_look_at(text: str, where: tuple[str, set[str]]) -> None:
    net = on_meta(text)
    name, extra = where
    found = {stage.name: stage.modules for stage in find_stages(net)}
    assert extra <= set(found[name]) and not any(extra & set(modules) for other, modules in found.items() if other != name)
    assert name in {stage.name for stage in find_stages(on_meta(f"{text}(aux=0)"))}


def test_stages_have_names_a_person_would_use() -> None:
    names = {text: [stage.name for stage in find_stages(on_meta(text))] for text in ("resnet", "resnet(20)", "googlenet", "mobilenet_v2")}
    assert names == {
        "resnet": ["stem", "layer1", "layer2", "layer3", "layer4"],
        "resnet(20)": ["stem", "layer1", "layer2", "layer3"],
        "googlenet": ["stem", "inception3", "inception4", "inception5"],
        "mobilenet_v2": ["stem", *(f"stage{i}" for i in range(1, 8)), "top"],
    }
    before, after = (dict(find_stages(on_meta(f"resnet(20, preact={x})"))) for x in (False, True))
    assert before["stem"][:2] == ("conv1", "bn1") and after["stem"][0] == "conv1" and after["layer3"][:2] == ("layer3", "bn1")


# ---- residual nets ---------------------------------------------------------------------------------------------------------------

LOOK = NormAct(BatchNorm(), Relu())


def test_resnet_stems_by_size() -> None:
    for text, size, side in [("resnet", 64, 64), ("resnet", 96, 24), ("resnet(stem=imagenet)", 64, 16), ("resnet(stem=small)", 96, 96)]:
        assert after(on_meta(text, size=(size, size)), "layer1", size) == (64, side, side), text


def after(net: nn.Module, name: str, side: int) -> tuple[int, ...]:
    """The shape of what a module puts out for one image."""
    found: list[Tensor] = []
    handle = net.get_submodule(name).register_forward_hook(lambda m, inputs, output: found.append(output))
    net.eval()(torch.empty(1, 3, side, side, device=next(net.parameters()).device))
    handle.remove()
    return tuple(found[0].shape[1:])


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_nets_for_cifar(depth: int, millions: float) -> None:
    net, n = on_meta(f"resnet({depth})"), (depth - 2) // 6
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) + 1 == depth  # weighted layers: no projections
    inside = [9 * 3 * 16, 2 * n * 9 * 16 * 16]
    for c in (32, 64):
        inside += [9 * (c // 2) * c, (2 * n - 1) * 9 * c * c]
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert parameters(net) == sum(inside) + norms + 64 * 10 + 10
    assert parameters(net) / 1e6 == pytest.approx(millions, rel=0.03)  # table 6 of the paper
    assert [after(net, f"layer{i}", 32) for i in (1, 2, 3)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("text", ["resnet(20", "resnet(34, shortcut=pad"])
def test_the_plain_twin_has_the_same_layers(text: str) -> None:
    residual, plain = on_meta(f"{text})"), on_meta(f"{text.replace(', shortcut=pad', '')}, shortcut=none)")
    assert {k: v.shape for k, v in residual.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert account_for(residual, 3, (32, 32)).totals["macs"] == account_for(plain, 3, (32, 32)).totals["macs"]
    assert account_for(on_meta("resnet(34, shortcut=none)", 1000, (224, 224)), 3, (224, 224)).totals["macs"] / 1e9 == pytest.approx(
        3.6, abs=0.05
    )


def test_shortcuts_of_a_block() -> None:
    torch.manual_seed(0)
    x = images(2, 16, 8, 8).relu()
    blocks = {kind: ResidualBlock(16, 32, 2, LOOK, NoNoise(), False, kind) for kind in ("projection", "pad", "none")}
    branch = {}
    for kind, block in blocks.items():
        p = dict(block.eval().named_modules())
        branch[kind] = p["bn2"](p["conv2"](F.relu(p["bn1"](p["conv1"](x)))))
    padded = torch.zeros(2, 32, 4, 4)
    padded[:, :16] = x[:, :, ::2, ::2]
    projection = blocks["projection"].get_submodule("downsample")
    torch.testing.assert_close(blocks["projection"](x), F.relu(branch["projection"] + projection(x)))
    torch.testing.assert_close(blocks["pad"](x), F.relu(branch["pad"] + padded))
    torch.testing.assert_close(blocks["none"](x), F.relu(branch["none"]))
    assert parameters(blocks["pad"]) == parameters(blocks["none"]) == parameters(blocks["projection"]) - 16 * 32 - 2 * 32
    torch.testing.assert_close(ZeroPaddedShortcut(2, 32)(x), padded)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("kind", ["projection", "pad", "none"])
def test_a_block_with_its_activations_first(kind: Any, bottleneck: bool) -> None:
    torch.manual_seed(0)
    x = images(2, 16, 8, 8)
    block = PreactBlock(16, 32, 2, LOOK, NoNoise(), bottleneck, kind).eval()
    p = dict(block.named_modules())
    first = F.relu(p["bn1"](x))
    y = p["conv2"](F.relu(p["bn2"](p["conv1"](first))))
    y = p["conv3"](F.relu(p["bn3"](y))) if bottleneck else y
    if kind == "projection":
        y = y + F.conv2d(first, p["downsample"].weight, stride=2)  # type: ignore[arg-type]
    if kind == "pad":
        y = y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - 16))
    torch.testing.assert_close(block(x), y)


def test_nothing_stands_between_preact_blocks() -> None:
    net = build("resnet(20, preact=True)").eval()
    for name, m in net.named_modules():
        if isinstance(m, PreactBlock):
            nn.init.zeros_(m.get_parameter("conv2.weight"))
            assert m.preact and name
    x = images(2, 3, 32, 32)
    stem = F.conv2d(x, net.conv1.weight, padding=1)
    padded = F.pad(stem[:, :, ::4, ::4], (0, 0, 0, 0, 0, 48))
    features = F.relu(net.bn1(padded)).mean((2, 3))
    torch.testing.assert_close(net(x), net.fc(features))


def test_depth_and_shortcut_are_checked() -> None:
    with pytest.raises(UsageError, match="expected depth to be"):
        CATALOG.make("resnet(19)", "model")
    with pytest.raises(UsageError, match="expected shortcut to be"):
        CATALOG.make("resnet(shortcut=zero)", "model")


@pytest.mark.parametrize(
    "text", ["resnet(110", "resnet(56, preact=True", "resnet(20, shortcut=none", "mobilenet_v2(1.0", "googlenet(aux=0.3"]
)
def test_without_norm_the_first_loss_is_near_ln_k_too(text: str) -> None:
    net = build(f"{text}, norm=none)", 10, (16, 16))
    logits, extras = split_outputs(net(images(10, 3, 16, 16)))
    losses = [F.cross_entropy(x, torch.arange(10)).item() for x in (logits, *(x for x, _ in extras))]
    assert losses == pytest.approx([math.log(10)] * len(losses), rel=0.1)


@pytest.mark.parametrize("text", ["resnet(20", "resnet(20, preact=True", "googlenet(aux=0.3", "inception_v3(aux=0.4", "mobilenet_v2(1.0"])
def test_norms_after_the_activations(text: str) -> None:
    before, after = on_meta(f"{text})"), on_meta(f"{text}, order=act_norm)")
    assert sorted(k for k, _ in before.named_parameters()) != sorted(k for k, _ in after.named_parameters())  # convs then have biases
    for net, names in ((before, ["BatchNorm", "Re"]), (after, ["Re", "BatchNorm"])):
        ran: list[str] = []
        for m in net.modules():
            if isinstance(m, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6)):
                m.register_forward_hook(
                    lambda m, inputs, output, ran=ran: ran.append(type(m).__name__.removesuffix("LU").removesuffix("LU6"))
                )
        net.eval()(torch.empty(1, 3, 32, 32, device="meta"))
        assert ran[:2] == names


# ---- what the lecture says of them -----------------------------------------------------------------------------------------------


@pytest.mark.item("S145")
def test_bottlenecks_and_split_filters_save_weights() -> None:
    c, norm = 64, BatchNorm()
    full = make_conv(c, c, 3, norm=norm)
    half = named_sequential(
        {
            "reduce": make_conv(c, c // 2, 1, norm=norm),
            "conv": make_conv(c // 2, c // 2, norm=norm),
            "restore": make_conv(c // 2, c, 1, norm=norm),
        }
    )
    split = named_sequential({"row": make_conv(c, c, (1, 3), norm=norm), "column": make_conv(c, c, (3, 1), norm=norm)})
    assert [parameters(m) / c**2 for m in (full, half, split)] == [9, 3.25, 6]
    macs = [account_for(m, c, (14, 14)).totals["macs"] for m in (full, half, split)]
    assert macs == [14 * 14 * parameters(m) for m in (full, half, split)]  # and multiply-adds as many times
    quarter = ResidualBlock(256, 64, 1, LOOK, NoNoise(), True, "none")
    assert sum(p.numel() for p in quarter.parameters() if p.ndim == 4) == 256 * 64 + 9 * 64 * 64 + 64 * 256 == 69_632
    assert all(m(images(1, c, 9, 9)).shape == (1, c, 9, 9) for m in (full, half, split))


@pytest.mark.item("S150")
@pytest.mark.parametrize(("n_in", "n_out", "kernel"), [(32, 64, 3), (96, 24, 3), (16, 128, 5)])
def test_depthwise_separable_convs_cost_one_over_channels_plus_one_over_area(n_in: int, n_out: int, kernel: int) -> None:
    norm = BatchNorm()
    full = make_conv(n_in, n_out, kernel, norm=norm)
    separable = named_sequential(
        {"deep": make_conv(n_in, n_in, kernel, norm=norm, groups=n_in), "point": make_conv(n_in, n_out, 1, norm=norm)}
    )
    cheap, dear = (account_for(m, n_in, (12, 12)).totals["macs"] for m in (separable, full))
    assert cheap / dear == pytest.approx(1 / n_out + 1 / kernel**2, rel=1e-12)
    inside = [m for m in InvertedResidual(n_in, n_out, 1, 6, LOOK, NoNoise()).modules() if isinstance(m, nn.Conv2d)]
    assert [(m.groups, m.kernel_size) for m in inside] == [(1, (1, 1)), (6 * n_in, (3, 3)), (1, (1, 1))]


@pytest.mark.item("S150")
@pytest.mark.parametrize("text", ["resnet(50)", "googlenet(aux=0)", "inception_v3(aux=0)", "mobilenet_v2"])
def test_trends_of_the_nets(text: str) -> None:
    net = on_meta(text, 1000, (224, 224))
    assert sum(isinstance(m, nn.Linear) for m in net.modules()) == 1  # a mean over the map, then one fully connected layer
    assert any(isinstance(m, nn.AdaptiveAvgPool2d) for m in net.modules())
    kernels = [m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((1, 1)) > 0.4 * len(kernels)  # 1x1 bottlenecks
    assert any(m.groups > 1 for m in net.modules() if isinstance(m, nn.Conv2d)) == (text == "mobilenet_v2")


@pytest.mark.item("S148", "S167")
def test_the_lectures_row_of_googlenet() -> None:
    net = on_meta("googlenet(kernel=5, norm=none, aux=0)", 1000, (224, 224))
    totals = account_for(net, 3, (224, 224)).totals
    connected = parameters(net.fc) / totals["parameters"]
    assert totals["parameters"] == 6_998_552 and totals["parameters"] / 6.9e6 == pytest.approx(1, abs=0.015)
    assert totals["macs"] == 1_582_671_872 and totals["ops"] / 1566e6 == pytest.approx(1, abs=0.015)
    assert connected == pytest.approx(0.149, abs=0.004)  # here conv layers hold most parameters too
    assert 1024 * 1000 / totals["macs"] == pytest.approx(0.001, abs=0.0005)
    smaller = on_meta("googlenet(aux=0)", 1000, (224, 224))
    assert (parameters(smaller), account_for(smaller, 3, (224, 224)).totals["macs"]) == (6_624_904, 1_498_376_192)


@pytest.mark.item("S173")
def test_maps_of_googlenet_and_inception_v3() -> None:
    maps = {"conv3": (192, 56), "inception3a": (256, 28), "inception3b": (480, 28), "inception4a": (512, 14), "inception4d": (528, 14)}
    maps |= {"inception4e": (832, 14), "inception5a": (832, 7), "inception5b": (1024, 7)}
    net = on_meta("googlenet", 1000, (224, 224))
    assert {name: after(net, name, 224) for name in maps} == {name: (n, side, side) for name, (n, side) in maps.items()}
    maps = {"Conv2d_1a_3x3": (32, 149), "Conv2d_2a_3x3": (32, 147), "Conv2d_2b_3x3": (64, 147), "maxpool1": (64, 73)}
    maps |= {"Conv2d_4a_3x3": (192, 71), "maxpool2": (192, 35), "Mixed_5b": (256, 35), "Mixed_5d": (288, 35), "Mixed_6a": (768, 17)}
    maps |= {"Mixed_6e": (768, 17), "Mixed_7a": (1280, 8), "Mixed_7c": (2048, 8)}
    net = on_meta("inception_v3", 1000, (299, 299))
    assert {name: after(net, name, 299) for name in maps} == {name: (n, side, side) for name, (n, side) in maps.items()}


@pytest.mark.item("S173")
def test_factored_filters_save_weights() -> None:
    net = on_meta("inception_v3", 1000, (299, 299))

    def weights(*names: str) -> int:
        return sum(net.get_parameter(f"{name}.conv.weight").numel() for name in names)

    seven = weights("Mixed_6e.branch7x7dbl_2", "Mixed_6e.branch7x7dbl_3")
    assert seven == 2 * 7 * 192**2 and seven / (49 * 192**2) == pytest.approx(2 / 7)
    c, norm = 32, BatchNorm()
    two = named_sequential({"first": make_conv(c, c, norm=norm), "second": make_conv(c, c, norm=norm)})
    assert parameters(two) / parameters(make_conv(c, c, 5, norm=norm)) == pytest.approx(18 / 25)
    spot = torch.zeros(1, c, 11, 11)
    spot[:, :, 5, 5] = 1
    assert int((two(spot).abs().sum(1)[0] > 0).sum()) == 25  # two 3x3 see what one 5x5 sees


def test_branches_share_what_they_begin_with() -> None:
    runs: list[str] = []
    children = {name: nn.Conv2d(2, 2, 1) for name in ("a", "b", "c")}
    for name, m in children.items():
        m.register_forward_hook(lambda m, inputs, output, name=name: runs.append(name))
    net, x = Branches(children, [("a", "b"), ("a", "c"), ("c",)]), images(1, 2, 4, 4)
    out = net(x)
    assert runs == ["a", "b", "c", "c"]
    a = children["a"](x)
    torch.testing.assert_close(out, torch.cat([children["b"](a), children["c"](a), children["c"](x)], 1))


# ---- mobilenet -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "millions", "mega"), [(1.4, 6.06, 582), (1.0, 3.47, 300), (0.75, 2.61, 209), (0.5, 1.95, 97), (0.35, 1.66, 59)]
)
def test_widths_of_mobilenet(width: float, millions: float, mega: float) -> None:
    """The authors' table of widths (their counts have no norms)."""
    net = on_meta(f"mobilenet_v2({width})", 1000, (224, 224))
    norms = sum(p.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert (parameters(net) - norms) / 1e6 == pytest.approx(millions, rel=0.02)
    assert account_for(net, 3, (224, 224)).totals["macs"] / 1e6 == pytest.approx(mega, rel=0.02)
    assert all(m.out_channels % 8 == 0 for m in net.modules() if isinstance(m, nn.Conv2d))


def test_an_inverted_residual_adds_where_shapes_agree() -> None:
    torch.manual_seed(0)
    x = images(2, 8, 6, 6)
    for n_out, stride, adds in ((8, 1, True), (8, 2, False), (16, 1, False)):
        block = InvertedResidual(8, n_out, stride, 6, LOOK, NoNoise()).eval()
        branch = block.conv(x)
        torch.testing.assert_close(block(x), x + branch if adds else branch)
        assert bool((branch < 0).any())  # nothing after the last conv cuts


def test_a_layer_of_mobilenet_feeds_a_wider_activation_channel_by_channel() -> None:
    maxout: Any = CATALOG.make("maxout", "activation")
    made = conv_layer(6, 6, NormAct(BatchNorm(), maxout), 3, groups=6)
    assert made(images(2, 6, 5, 5)).shape == (2, 6, 5, 5) and made[0].weight.shape == (12, 1, 3, 3)


def test_a_net_by_dotted_name_is_called_with_what_it_is_given() -> None:
    part: Any = CATALOG.make(f"{__name__}.create_model('tiny', num_classes=5, in_chans=2)", "model")
    net = part.with_facts({"classes": 5, "channels": 2, "size": (8, 8)})()
    assert net(images(1, 2, 8, 8)).shape == (1, 5)
    assert [stage.name for stage in find_stages(net)] == ["conv"]


def create_model(model_name: str, pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    """A function that makes nets by name, as model libraries have them."""
    assert model_name == "tiny" and not pretrained
    return named_sequential(
        {"conv": nn.Conv2d(in_chans, 4, 3), "mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(4, num_classes)}
    )
