"""Swift: its shape at any size, whitened patches, convs that start by handing on, scaled scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.layers.init import calibrate_init
from goodfit.models.swift import Swift
from goodfit.models.weights.stages import find_head, find_stages

CATALOG = Catalog(["goodfit.layers", "goodfit.models"])


def build(text: str, classes: int = 5, channels: int = 3, size: tuple[int, int] = (16, 16)) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = CATALOG.make(text, "model")(classes, channels, size)  # type: ignore[operator]
    return made


def smooth(n: int, side: int = 16) -> Tensor:
    """Images whose neighboring pixels are alike."""
    noise = torch.randn(n, 3, side + 4, side + 4, generator=torch.Generator().manual_seed(1))
    return F.avg_pool2d(noise, 5, stride=1) * 3


def test_it_is_the_net_of_airbench() -> None:
    """The shapes of airbench94: 24 whitening filters of 2x2, groups of 64, 256, 256; 31, 15, 7, 3 pixels; no bias in the head."""
    with torch.device("meta"):
        net = build("swift", 10, size=(32, 32))
    convs = [tuple(m.weight.shape) for m in net.modules() if isinstance(m, nn.Conv2d)]
    widths = [(64, 24), (64, 64), (256, 64), (256, 256), (256, 256), (256, 256)]
    assert convs == [(24, 3, 2, 2), *((a, b, 3, 3) for a, b in widths)]
    sides: list[int] = []
    for m in net.children():
        m.register_forward_hook(lambda m, inputs, output: sides.append(output.shape[-1]))
    net(torch.empty(2, 3, 32, 32, device="meta"))
    assert sides == [31, 15, 7, 3, 256, 256, 256, 10]
    assert find_head(net)[1].bias is None
    assert [stage.name for stage in find_stages(net)] == ["whiten", "group1", "group2", "group3"]
    assert all(m.momentum == 0.4 for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        ("swift(8, growth=(1.0, 2.0, 4.0))", [8, 8, 16, 16, 32, 32]),
        ("swift(8, growth=(2.0,))", [16, 16, 16, 16, 16, 16]),
        ("swift(8, growth=(0.5, 1.3))", [4, 4, 10, 10, 10, 10]),
    ],
)
def test_groups_grow_as_asked(text: str, widths: list[int]) -> None:
    with torch.device("meta"):
        net = build(text, 10, size=(32, 32))
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)][1:] == widths


def test_a_growth_of_no_group_is_refused() -> None:
    with pytest.raises(UsageError, match="expected growth to have a factor for the first group"):
        Swift(8, growth=())


@pytest.mark.parametrize(("side", "groups", "kernel"), [(4, 1, 2), (8, 2, 2), (16, 3, 2), (48, 4, 2), (64, 3, 4), (224, 3, 16)])
def test_groups_and_stride_follow_the_size(side: int, groups: int, kernel: int) -> None:
    with torch.device("meta"):
        net = build("swift(8)", size=(side, side))
        assert net(torch.empty(2, 3, side, side)).shape == (2, 5)
    assert sum(name.startswith("group") for name, _ in net.named_children()) == groups
    whiten = net.get_submodule("whiten.conv")
    assert whiten.weight.shape == (min(6 * kernel**2, 96), 3, kernel, kernel) and whiten.stride == (kernel // 2, kernel // 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_layer_whitens(channels: int) -> None:
    part = Swift(8)
    net = build("swift(8)", channels=channels)
    x = smooth(60)[:, :channels]
    calibrate_init(part.init, net, x)  # type: ignore[arg-type]
    with torch.no_grad():
        out = net.get_submodule("whiten.conv")(x)
    n = 4 * channels
    assert out.shape[1] == 2 * n
    torch.testing.assert_close(out[:, 0::2], -out[:, 1::2])  # each direction and its opposite
    covariance = torch.cov(out[:, 0::2].transpose(0, 1).flatten(1))
    off = covariance - torch.diag(covariance.diag())
    assert off.abs().max() < 0.01
    assert (covariance.diag() > 0.9).all() and (covariance.diag() < 1.01).all()  # a little below 1 by eps


def test_convs_start_by_handing_on() -> None:
    x = torch.rand(2, 8, 6, 6)
    net = build("swift(8)")
    convs = [net.get_submodule(f"group{i}.{name}.conv") for i in (1, 2) for name in ("first", "second")]
    assert [(m.in_channels, m.out_channels) for m in convs] == [(24, 8), (8, 8), (8, 32), (32, 32)]
    torch.testing.assert_close(convs[1](x), x)
    assert torch.equal(convs[2](x)[:, :8], x) and convs[2].weight[8:].std() > 0.05
    assert torch.equal(convs[0](x.repeat(1, 3, 1, 1)), x)
    drawn = build("swift(8, identity=False)").get_submodule("group1.second.conv")
    assert not torch.allclose(drawn(x), x, atol=0.1)


def test_scores_are_scaled_and_taken_at_the_peak() -> None:
    net, twice = build("swift(8)").eval(), build("swift(8, scale=0.5)").eval()
    x, found = smooth(4), []
    net.get_submodule("group3").register_forward_hook(lambda m, inputs, output: found.append(output))
    with torch.no_grad():
        scores = net(x)
        torch.testing.assert_close(scores, found[0].amax((2, 3)) @ find_head(net)[1].weight.T / 9)
        torch.testing.assert_close(twice(x), scores * 4.5)


def test_it_fits_some_images_in_a_few_steps() -> None:
    part = Swift(8)
    net, x, labels = build("swift(8)"), smooth(20), torch.arange(20) % 5
    calibrate_init(part.init, net, x)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(net.parameters(), 0.3, momentum=0.9, nesterov=True)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    assert (net.train()(x).argmax(1) == labels).all()
