"""Models: laws over the whole catalog, torchvision's names for the resnets, stages and heads."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.catalog import Catalog, Foreign, Part
from goodfit.core.contracts import Activation, Model
from goodfit.core.errors import UsageError
from goodfit.core.settings import settings_of
from goodfit.models.account import account
from goodfit.models.convnet import Convnet
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.models.stages import head, stages

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])
NAMES = list(CATALOG.kinds["model"])
CASES = [(1, (8, 8)), (3, (32, 24)), (4, (33, 47))]


def build(text: str | Part, classes: int = 10, channels: int = 3, size: tuple[int, int] = (32, 32)) -> nn.Module:
    torch.manual_seed(0)
    part = CATALOG.make(text, "model")
    assert isinstance(part, Model)
    return part(classes, channels, size)


def images(n: int, channels: int = 3, size: tuple[int, int] = (32, 32), seed: int = 9) -> Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class Largest(Activation):
    """The larger of two: needs an input twice as wide (a maxout)."""

    @property
    def width(self) -> int:
        return 2

    def __call__(self) -> nn.Module:
        return Halves()


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.maximum(a, b)


# ---- laws ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_any_size_and_channels(name: str, channels: int, size: tuple[int, int]) -> None:
    net = build(name, 7, channels, size)
    assert net(images(2, channels, size)).shape == (2, 7)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("name", NAMES)
def test_first_loss_is_near_ln_k_and_every_parameter_is_reached(name: str, classes: int) -> None:
    net = build(name, classes)
    targets = torch.arange(32) % classes
    loss = F.cross_entropy(net(images(32)), targets)
    assert loss.item() == pytest.approx(math.log(classes), rel=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    unreached = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not unreached


@pytest.mark.parametrize("name", NAMES)
def test_seeded_and_batch_mates_do_not_matter_in_evaluation(name: str) -> None:
    first, second = build(name).eval(), build(name).eval()
    x = images(4)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    torch.testing.assert_close(first(x)[:1], second(x[:1]), atol=1e-5, rtol=1e-4)


def settings(kind: str) -> list[tuple[str, str]]:
    """Every setting of every model that holds a part of this kind."""
    return [(n, s.name) for n in NAMES for s in settings_of(CATALOG.kinds["model"][n]) if s.kind == kind]


CHOICES = [
    pytest.param(model, setting, choice, id=f"{model}({setting}={choice})")
    for kind in ("activation", "norm", "init", "noise", "pool")
    for model, setting in settings(kind)
    for choice in CATALOG.kinds[kind]
    if (model, choice) not in {("mlp", "instance"), ("mlp", "whitening"), ("linear", "whitening")}  # these are refused
]


@pytest.mark.parametrize(("model", "setting", "choice"), CHOICES)
def test_every_choice_of_layer_trains(model: str, setting: str, choice: str) -> None:
    net = build(f"{model}({setting}={choice})", 3, 1, (8, 8))
    loss = F.cross_entropy(net(images(6, 1, (8, 8))), torch.arange(6) % 3)
    assert loss.item() == pytest.approx(math.log(3), rel=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", [n for n, s in settings("activation")])
def test_a_wider_activation_is_fed(name: str) -> None:
    part = CATALOG.kinds["model"][name](act=Largest())
    net = build(part)
    plain = build(name)
    assert net(images(2)).shape == (2, 10)
    assert sum(isinstance(m, Halves) for m in net.modules()) > 0
    assert sum(p.numel() for p in net.parameters()) > 1.5 * sum(p.numel() for p in plain.parameters()) or name == "linear"
    F.cross_entropy(net(images(8)), torch.arange(8)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in net.parameters())


def test_torchs_own_layers_by_dotted_name() -> None:
    net = build("convnet(act=torch.nn.Hardswish, norm=torch.nn.BatchNorm2d)")
    kinds = [type(m) for m in net.modules()]
    assert nn.Hardswish in kinds and nn.BatchNorm2d in kinds
    assert net(images(2)).shape == (2, 10)


class Plain(nn.Module):
    """A user's own net: it takes what it names, and knows nothing of goodfit."""

    def __init__(self, channels: int, classes: int, depth: int = 1) -> None:
        super().__init__()
        widths = [channels, *([6] * depth)]
        self.convs = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)))
        self.out = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.convs(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_plain_module_by_dotted_name() -> None:
    part = CATALOG.make(f"{__name__}.Plain(depth=3)", "model")
    assert isinstance(part, Foreign)
    net = part.knowing({"classes": 5, "channels": 2, "size": (8, 8)})()
    assert net(images(4, 2, (8, 8))).shape == (4, 5)
    assert [name for name, _ in stages(net)] == ["convs"] and head(net)[0] == "out"
    assert account(net, 2, (8, 8)).totals["parameters"] == sum(p.numel() for p in net.parameters())
    assert len(net.convs) == 3


def test_norm_none_gets_biases_and_batch_none() -> None:
    for text, biases in (("convnet", 0), ("convnet(norm=none)", 7), ("resnet(norm=none)", 20), ("mlp(norm=batch)", 0), ("mlp", 1)):
        found = [m for m in build(text).modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None]
        assert len(found) - 1 == biases, text  # the head always has one


# ---- families --------------------------------------------------------------------------------------------------------------------


def test_linear_is_one_matrix() -> None:
    net = build(Linear())
    name, last = head(net)
    x = images(3)
    assert name == "head"
    torch.testing.assert_close(net(x), x.flatten(1) @ last.weight.T + last.bias)


def test_mlp_has_the_layers_it_is_told() -> None:
    net = build(Mlp(hidden=(20, 30)), 5, 1, (8, 8))
    assert [tuple(p.shape) for p in net.parameters() if p.ndim == 2] == [(20, 64), (30, 20), (5, 30)]
    assert build(Mlp(hidden=()))(images(1)).shape == (1, 10)


@pytest.mark.parametrize(
    ("size", "side"), [((8, 8), 4), ((28, 28), 3), ((32, 32), 4), ((64, 48), 3), ((128, 96), 3), ((224, 224), 3), ((4, 4), 2)]
)
def test_convnet_ends_in_a_small_map(size: tuple[int, int], side: int) -> None:
    net = build(Convnet(width=4), size=size)
    found: list[Tensor] = []
    net.get_submodule("pool").register_forward_hook(lambda m, inputs, output: found.append(inputs[0]))
    net(images(1, size=size))
    assert min(found[0].shape[2:]) == side


@pytest.mark.parametrize(("text", "size"), [("convnet", (3, 40)), ("resnet", (6, 6)), ("resnet(stem=imagenet)", (31, 224))])
def test_too_small_images_are_refused(text: str, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"received {size[0]}x{size[1]}"):
        build(text, size=size)


TORCHVISION = {  # parameters, and the SHA-256 of the sorted lines "key 64x3x7x7" of the state_dict, of torchvision 0.28
    18: (11_689_512, "f0e35161599236f315cd146cd4248bf0732a9445b57a806ea3787184467b15b4"),
    34: (21_797_672, "c1372162bc2e8e861f0e7c2d13d683bdb9d66996aa4447248d69bc670d51b4bf"),
    50: (25_557_032, "fe1d335c3c7786ffda005558842d02e739fc8008f65d509710f49da78719aa43"),
    101: (44_549_160, "b6755676a9dbfb7d2416e0393ea27402a774a31280fddd82036f9860e6b32f42"),
    152: (60_192_808, "3446679ffd752d79aa40ee9bd9cf312341999ee99a0138842705c0b330340d91"),
}


@pytest.mark.parametrize("depth", TORCHVISION)
def test_resnets_have_torchvisions_names_and_shapes(depth: int) -> None:
    with torch.device("meta"):
        net = build(f"resnet({depth})", 1000, 3, (224, 224))
        small = build(f"resnet({depth})", 1000, 3, (32, 32))
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}" for key, value in net.state_dict().items())
    parameters, digest = TORCHVISION[depth]
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
    assert list(small.state_dict()) == list(net.state_dict())
    assert small.state_dict()["conv1.weight"].shape == (64, 3, 3, 3)


def test_resnet_stems_by_size() -> None:
    for text, size, side in [("resnet", 64, 64), ("resnet", 96, 24), ("resnet(stem=imagenet)", 64, 16), ("resnet(stem=small)", 96, 96)]:
        net = build(text, size=(size, size))
        found: list[Tensor] = []
        net.get_submodule("layer1").register_forward_hook(lambda m, inputs, output, found=found: found.append(output))
        net.eval()(images(1, size=(size, size)))
        assert found[0].shape[2:] == (side, side), text


def test_resnet_block_is_branch_plus_shortcut() -> None:
    net = build("resnet(50)").eval()
    x = images(1, 64, (8, 8))
    block = net.get_submodule("layer1.0")
    p = dict(block.named_modules())
    y = F.relu(p["bn1"](p["conv1"](x)))
    y = F.relu(p["bn2"](p["conv2"](y)))
    y = p["bn3"](p["conv3"](y)) + p["downsample"](x)
    torch.testing.assert_close(block(x), F.relu(y))
    strides = [m.stride for n, m in net.named_modules() if n.startswith("layer2.0.conv")]
    assert strides == [(1, 1), (2, 2), (1, 1)]


def test_deep_resnet_without_norm_starts_calm() -> None:
    net = build("resnet(152, norm=none)", size=(16, 16))
    out = net(images(2, size=(16, 16)))
    assert F.cross_entropy(out, torch.arange(2)).item() == pytest.approx(math.log(10), rel=0.1)


# ---- stages ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_stages_and_head_hold_every_parameter_once(name: str) -> None:
    net = build(name)
    parts = [module for _, module in stages(net)] + [head(net)[1]]
    ids = [id(p) for part in parts for p in part.parameters()]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    assert list(net.children())[-1] is head(net)[1]


def test_stages_of_a_plain_module() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), nn.Linear(5, 2))

    net = Mine()
    assert [name for name, _ in stages(net)] == ["body.0", "body.2"]
    assert head(net)[0] == "body.3"
    assert stages(nn.Sequential(nn.Linear(3, 2))) == []
    with pytest.raises(UsageError, match="linear layer"):
        head(nn.Conv2d(3, 4, 3))
    with pytest.raises(UsageError, match="linear layer"):
        stages(nn.Sequential(nn.Conv2d(3, 4, 3)))
