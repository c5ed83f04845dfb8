"""Models: laws over the whole catalog, torchvision's names for the resnets, stages and heads."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.catalog import Catalog
from goodfit.core.contracts import Activation, Model
from goodfit.core.errors import UsageError
from goodfit.core.parts import ExternalPart, Part
from goodfit.core.settings import settings_of
from goodfit.losses.scores import split_outputs
from goodfit.models.anatomy.account import account_for
from goodfit.models.convnet import Convnet
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.models.weights.stages import Stage, find_head, find_stages
from tests.support.laws import holds_for

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])
CASES = [(1, (8, 8)), (3, (32, 24)), (4, (33, 47))]


def build(text: str | Part, classes: int = 10, channels: int = 3, size: tuple[int, int] = (32, 32)) -> nn.Module:
    torch.manual_seed(0)
    part = CATALOG.make(text, "model")
    assert isinstance(part, Model)
    return part(classes, channels, size)


def on_meta(text: str | Part, classes: int = 10, channels: int = 3, size: tuple[int, int] = (32, 32)) -> nn.Module:
    """The net with shapes instead of numbers: no work, however large it is."""
    with torch.device("meta"):
        return build(text, classes, channels, size)


NAMES = [name for name in CATALOG.kinds["model"] if name != "nearest"]  # those that learn
# Those of more than 50 million multiply-adds, tried on smaller images, and with fewer settings or on the meta device.
LARGE = {
    "alexnet", "alexnet2012", "googlenet", "inception_v3", "mobilenet_v2", "nin", "resnet", "swift", "vgg", "vgg_f", "vgg_m", "vgg_s",
}  # fmt: skip


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


@pytest.mark.slow
def test_the_large_ones_are_named() -> None:
    assert not list(on_meta("nearest").parameters())
    assert {name for name in NAMES if account_for(on_meta(name), 3, (32, 32)).totals["macs"] > 50_000_000} == LARGE


# ---- laws ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "size"), [(name, *case) for name in NAMES for case in (CASES if name not in LARGE else CASES[:1] + CASES[-1:])]
)
def test_any_size_and_channels(name: str, channels: int, size: tuple[int, int]) -> None:
    device = "meta" if name in LARGE else "cpu"
    net = (on_meta if name in LARGE else build)(name, 7, channels, size)
    logits, extras = split_outputs(net(images(2, channels, size).to(device)))
    assert all(x.shape == (2, 7) for x in (logits, *(x for x, _ in extras)))
    assert net.eval()(images(1, channels, size).to(device)).shape == (1, 7)


@pytest.mark.parametrize("name", CATALOG.kinds["model"])
def test_the_account_equals_the_count(name: str) -> None:
    net = on_meta(name, size=(32, 32))
    found = account_for(net, 3, (32, 32))
    assert found.totals["parameters"] == sum(p.numel() for p in net.parameters())
    assert sum(row.parameters for row in found.rows) == found.totals["parameters"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "classes", "side"), [(n, k, 12 if n in LARGE else 32) for n in NAMES for k in ((10,) if n in LARGE else (2, 10, 100))]
)
def test_first_loss_is_near_ln_k_and_every_parameter_is_reached(name: str, classes: int, side: int) -> None:
    net = build(name, classes, size=(side, side))
    targets = torch.arange(side) % classes
    logits, extras = split_outputs(net(images(side, size=(side, side))))
    losses = [F.cross_entropy(x, targets) for x in (logits, *(x for x, _ in extras))]
    assert [x.item() for x in losses] == pytest.approx([math.log(classes)] * len(losses), rel=0.1)
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    unreached = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not unreached


@pytest.mark.parametrize("name", NAMES)
def test_seeded_and_batch_mates_do_not_matter_in_evaluation(name: str) -> None:
    size = (12, 12) if name in LARGE else (32, 32)
    first, second = build(name, size=size).eval(), build(name, size=size).eval()
    x = images(4, size=size)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    torch.testing.assert_close(first(x)[:1], second(x[:1]), atol=1e-5, rtol=1e-4)


def settings(kind: str) -> list[tuple[str, str]]:
    """Every setting of every model that holds a part of this kind."""
    return [(n, s.name) for n in NAMES for s in settings_of(CATALOG.kinds["model"][n]) if s.kind == kind]


SMALL = {"resnet": "20, ", "mobilenet_v2": "0.25, "}  # large nets that come in small ones
# Every choice is tried on convnet and mlp, and each other model has some of them, which take turns; the slow tests have all.
HARD = {"activation": ("maxout",), "norm": ("none", "instance"), "noise": ("dropconnect",)}  # what is tried on other large ones, by shape
REFUSED = {("mlp", "instance"), ("mlp", "whitening"), ("linear", "whitening"), ("perceptron", "whitening")}
EVERY = ("convnet", "mlp")


def choices(every: bool) -> dict[str, tuple[str, bool]]:
    """Models with another part in one of their settings, and whether on the meta device."""
    found = {}
    for kind in ("activation", "norm", "init", "noise", "pool"):
        for place, (model, setting) in enumerate(settings(kind)):
            names = [choice for choice in sorted(CATALOG.kinds[kind]) if (model, choice) not in REFUSED]
            if model in LARGE and model not in SMALL:
                names = [choice for choice in names if choice in HARD.get(kind, ())]
            for number, choice in enumerate(names):
                if every or model in EVERY or (number + place) % 4 == 0:
                    text = f"{model}({SMALL.get(model, '')}{setting}={choice})"
                    found[text] = (text, model in LARGE and model not in SMALL)
    return found


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_choice_of_layer_trains(every: bool) -> None:
    holds_for(choices(every))(trains)()


def trains(text: str, shapes_only: bool) -> None:
    net = (on_meta if shapes_only else build)(text, 3, 1, (8, 8))
    device = next(net.parameters()).device
    logits, extras = split_outputs(net(images(6, 1, (8, 8)).to(device)))
    loss = F.cross_entropy(logits, (torch.arange(6) % 3).to(device))
    assert shapes_only or loss.item() == pytest.approx(math.log(3), rel=0.1)
    sum((x.sum() for x, _ in extras), loss).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and (shapes_only or p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("name", [n for n, s in settings("activation")])
def test_a_wider_activation_is_fed(name: str) -> None:
    net = on_meta(CATALOG.kinds["model"][name](act=Largest()))
    plain = on_meta(name)
    logits, extras = split_outputs(net(images(8).to("meta")))
    assert all(x.shape == (8, 10) for x in (logits, *(x for x, _ in extras)))
    assert sum(isinstance(m, Halves) for m in net.modules()) > 0
    assert sum(p.numel() for p in net.parameters()) > 1.4 * sum(p.numel() for p in plain.parameters())
    sum((x.sum() for x, _ in extras), logits.sum()).backward()
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
    assert isinstance(part, ExternalPart)
    net = part.with_facts({"classes": 5, "channels": 2, "size": (8, 8)})()
    assert net(images(4, 2, (8, 8))).shape == (4, 5)
    assert find_stages(net) == [("convs", ("convs",))] and find_head(net)[0] == "out"
    assert account_for(net, 2, (8, 8)).totals["parameters"] == sum(p.numel() for p in net.parameters())
    assert len(net.convs) == 3


def test_norm_none_gets_biases_and_batch_none() -> None:
    for text, biases in (("convnet", 0), ("convnet(norm=none)", 7), ("resnet(norm=none)", 20), ("mlp(norm=batch)", 0), ("mlp", 1)):
        found = [m for m in build(text).modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None]
        assert len(found) - 1 == biases, text  # the head always has one


# ---- families --------------------------------------------------------------------------------------------------------------------


def test_linear_is_one_matrix() -> None:
    net = build(Linear())
    name, last = find_head(net)
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
    net = on_meta(name)
    modules = [module for stage in find_stages(net) for module in stage.modules]
    parts = [*map(net.get_submodule, modules), find_head(net)[1]]
    ids = [id(p) for part in parts for p in part.parameters()]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    assert [m for m in net.modules() if any(True for _ in m.parameters(recurse=False))][-1] is find_head(net)[1]
    assert len({stage.name for stage in find_stages(net)}) == len(find_stages(net))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "linear"])
def test_stages_are_in_the_order_they_run(name: str) -> None:
    net = on_meta(name)
    ran: list[str] = []
    for stage in find_stages(net):
        last = net.get_submodule(stage.modules[-1])
        last.register_forward_hook(lambda m, inputs, output, name=stage.name: ran.append(name))
    net.eval()(images(1).to("meta"))
    assert ran == [stage.name for stage in find_stages(net)]


def test_stages_of_a_plain_module() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), nn.Linear(5, 2))

    net = Mine()
    assert find_stages(net) == [Stage("body.0", ("body.0",)), Stage("body.2", ("body.2",))]
    assert find_head(net)[0] == "body.3"
    assert find_stages(nn.Sequential(nn.Linear(3, 2))) == []
    with pytest.raises(UsageError, match="linear layer"):
        find_head(nn.Conv2d(3, 4, 3))
    with pytest.raises(UsageError, match="linear layer"):
        find_stages(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_a_head_among_others_is_found() -> None:
    classifier = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), nn.Flatten(), classifier)
    assert find_stages(net) == [("0", ("0",)), ("2.0", ("2.0",))] and find_head(net)[0] == "2.2"


def test_a_model_says_its_own_stages() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    net.stage_groups = {"early": ("0", "1", "2", "absent"), "flat": ("4",), "late": ("3",)}  # type: ignore[assignment]
    assert find_stages(net) == [("early", ("0", "1", "2")), ("late", ("3",))]
    assert find_stages(nn.Sequential(net)) == [("0.early", ("0.0", "0.1", "0.2")), ("0.late", ("0.3",))]
