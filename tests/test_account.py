"""Accounts of models: against formulas written out here, and on any module."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.catalog import Catalog
from goodfit.models.account import account

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])
NAMES = list(CATALOG.kinds["model"])


def build(text: str, size: tuple[int, int], classes: int = 10) -> nn.Module:
    part = CATALOG.make(text, "model")
    with torch.device("meta"):
        net: nn.Module = part(classes, 3, size)  # type: ignore[operator]
    return net


def counted(net: nn.Module, x: Tensor) -> dict[str, int]:
    """Parameters, multiply-adds, and biases, from the formulas of a conv and a linear layer, by a run with real numbers."""
    found = {"macs": 0, "biases": 0}

    def note(m: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(m, nn.Conv2d):
            n, c, h, w = out.shape
            found["macs"] += n * c * h * w * (m.in_channels // m.groups) * m.kernel_size[0] * m.kernel_size[1]
            found["biases"] += out.numel() if m.bias is not None else 0
        if isinstance(m, nn.Linear):
            found["macs"] += out.numel() * m.in_features
            found["biases"] += out.numel() if m.bias is not None else 0

    for m in net.modules():
        m.register_forward_hook(note)
    net.eval()(x)
    return {"parameters": sum(p.numel() for p in net.parameters()), **found}


@pytest.mark.parametrize("text", [*NAMES, "convnet(norm=none)", "resnet(50, stem=imagenet)"])
def test_account_equals_the_count(text: str) -> None:
    size = (40, 32)
    totals = account(build(text, size), 3, size, batch=2).totals
    expected = counted(CATALOG.make(text, "model")(10, 3, size), torch.zeros(2, 3, *size))  # type: ignore[operator]
    assert totals["parameters"] == expected["parameters"]
    assert totals["macs"] == expected["macs"]
    assert totals["ops"] == expected["macs"] + expected["biases"]


@pytest.mark.item("S140", "S145")
def test_rows_of_a_net_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 14 * 14, 4, bias=False))
    rows = account(net, 3, (32, 32)).rows
    assert [(r.type, r.output, r.parameters, r.macs, r.ops, r.activations) for r in rows] == [
        ("Conv2d", (6, 28, 28), 456, 28 * 28 * 6 * 75, 28 * 28 * 6 * 76, 4704),
        ("ReLU", (6, 28, 28), 0, 0, 0, 4704),
        ("MaxPool2d", (6, 14, 14), 0, 0, 0, 1176),
        ("Flatten", (1176,), 0, 0, 0, 0),
        ("Linear", (4,), 4704, 4704, 4704, 4),
    ]


def test_grouped_and_depthwise_convs() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 16, 1, bias=False))
    assert [r.macs for r in account(net, 8, (10, 10)).rows] == [100 * 8 * 9, 100 * 8 * 16]


class Odd(nn.Module):
    """Shares a layer, uses a parameter of its own in a product, works in place, and leaves a layer unused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.same = self.conv
        self.act = nn.ReLU(inplace=True)
        self.mix = nn.Parameter(torch.zeros(3, 5))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.act(self.same(self.conv(x))).mean((2, 3)) @ self.mix)


def test_any_module() -> None:
    net = Odd()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made = account(net, 3, (4, 4))
    by_name = {r.name: r for r in made.rows}
    assert by_name["conv"].macs == 2 * 16 * 9 and by_name["conv"].parameters == 12
    assert by_name["act"].activations == 0
    assert by_name[""].macs == 15 and by_name[""].parameters == 15
    assert by_name["unused"].parameters == 6 and by_name["unused"].output == ()
    assert made.totals["parameters"] == sum(p.numel() for p in net.parameters())
    assert net.training and not net._forward_hooks
    assert all(torch.equal(v, before[k]) and v.device.type == "cpu" for k, v in net.state_dict().items())


def test_known_sizes() -> None:
    totals = account(build("resnet(152)", (224, 224), 1000), 3, (224, 224)).totals
    assert totals["parameters"] == 60_192_808
    assert totals["macs"] == 11_513_626_624  # 11.51 GMACs
    assert account(build("resnet(18)", (224, 224), 1000), 3, (224, 224)).totals["macs"] == 1_814_073_344
    assert account(build("resnet(18)", (32, 32)), 3, (32, 32)).totals["macs"] == 555_422_720
    assert account(build("convnet", (32, 32)), 3, (32, 32)).totals["macs"] == 43_353_344


def test_dictionary_and_table() -> None:
    made = account(build("convnet", (32, 32)), 3, (32, 32), batch=4)
    content = json.loads(json.dumps(made.to_dict()))
    assert content["input"] == [4, 3, 32, 32]
    assert content["totals"] == made.totals
    assert sum(layer["parameters"] for layer in content["layers"]) == made.totals["parameters"]
    table = made.table().splitlines()
    assert len(table) == len(made.rows) + 3
    assert f"{made.totals['parameters']:,}" in table[-2]
    assert table[-1].startswith("For 4 images of 3x32x32:")
