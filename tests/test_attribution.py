"""Where a network finds a class: saliency, class activation maps and occlusion, against their formulas and against captum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.inspection.attribution import CAM_RULES, compute_cam, compute_occlusion, compute_saliency
from goodfit.inspection.feature_maps import find_first_layer, find_map_layer, record_output


class Small(nn.Module):
    """A net of the user's own: an activation that works in place and runs twice, dropout, batch norm, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.act, self.drop, self.pool = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        x = self.act(self.second(x) + x)
        return self.head(self.drop(self.pool(x).flatten(1)))


@pytest.fixture
def net() -> Iterator[nn.Module]:
    torch.manual_seed(0)
    made = Small().double()
    made.norm.running_mean.normal_()
    yield made
    assert all(module.training for module in made.modules()), "it is in its mode as before"
    assert all(p.grad is None for p in made.parameters()), "no gradient is left"


def draw(n: int = 3, channels: int = 3, height: int = 9, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64), torch.tensor([2, 0, 3])[:n]


def score(net: nn.Module, image: Tensor, k: int) -> float:
    net.eval()
    with torch.no_grad():
        value = float(net(image[None])[0, k])
    net.train()
    return value


@pytest.mark.item("S186")
def test_saliency_is_the_largest_difference_quotient_of_a_pixel(net: nn.Module) -> None:
    images, classes = draw()
    found = compute_saliency(net, images, classes)
    assert found.shape == (3, 9, 8)
    for place, (y, x) in ((0, (0, 0)), (1, (4, 3)), (2, (8, 7))):
        quotients = []
        for channel in range(3):
            step = torch.zeros_like(images[place])
            step[channel, y, x] = 1e-6
            ends = [score(net, images[place] + sign * step, int(classes[place])) for sign in (1, -1)]
            quotients.append(abs(ends[0] - ends[1]) / 2e-6)
        assert float(found[place, y, x]) == pytest.approx(max(quotients), rel=1e-5)


@pytest.mark.item("S186")
def test_of_a_net_that_pools_its_last_map_grad_cam_is_the_class_activation_map() -> None:
    """Zhou et al. 2016: the maps weighted by the head; there the gradient is the head's weight over the number of places."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double()
    images, classes = draw()
    maps = torch.relu(nn.functional.conv2d(images, net[0].weight, net[0].bias)).detach().numpy()  # type: ignore[arg-type]
    weights = net[4].weight.detach().numpy()[classes.numpy()]  # type: ignore[union-attr]
    expected = np.maximum(np.einsum("bc,bchw->bhw", weights, maps), 0) / (7 * 6)
    assert expected.any()
    np.testing.assert_allclose(compute_cam(net, images, classes, "1").numpy(), expected, rtol=1e-10)
    layer = np.einsum("bchw,bc->bhw", maps, np.maximum(weights, 0)) / (7 * 6)
    np.testing.assert_allclose(compute_cam(net, images, classes, "1", "layer_cam").numpy(), layer, rtol=1e-10)


@pytest.mark.item("S186")
def test_occlusion_is_the_mean_fall_over_the_windows_on_a_pixel(net: nn.Module) -> None:
    images, classes = draw()
    window, stride, (height, width) = (4, 3), (3, 2), images.shape[2:]
    found = compute_occlusion(net, images, classes, window, stride, 0.5)
    for place in range(3):
        falls = [[[] for _ in range(width)] for _ in range(height)]
        whole = score(net, images[place], int(classes[place]))
        for top in (0, 3, 6):
            for left in (0, 2, 4, 6):
                hidden = images[place].clone()
                hidden[:, top : top + 4, left : left + 3] = 0.5
                fall = whole - score(net, hidden, int(classes[place]))
                for y in range(top, min(top + 4, height)):
                    for x in range(left, min(left + 3, width)):
                        falls[y][x].append(fall)
        expected = [[np.mean(of_pixel) for of_pixel in row] for row in falls]
        np.testing.assert_allclose(found[place].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.item("S186")
def test_they_are_as_captums(net: nn.Module) -> None:
    attr = pytest.importorskip("captum.attr")
    images, classes = draw()
    ours = (
        compute_saliency(net, images, classes),
        compute_cam(net, images, classes, "second"),
        compute_occlusion(net, images, classes, (4, 3), (3, 2)),
    )
    net.eval()
    inputs = images.clone().requires_grad_()
    saliency = attr.Saliency(net).attribute(inputs, target=classes)
    cam = attr.LayerGradCam(net, net.get_submodule("second")).attribute(inputs, target=classes, relu_attributions=True)
    occlusion = attr.Occlusion(net).attribute(images, (3, 4, 3), (3, 3, 2), target=classes)
    net.train()
    for p in net.parameters():
        p.grad = None
    np.testing.assert_allclose(ours[0].numpy(), saliency.amax(1).numpy(), rtol=1e-10)
    np.testing.assert_allclose(ours[1].numpy(), cam[:, 0].detach().numpy(), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(ours[2].numpy(), occlusion.mean(1).numpy(), rtol=1e-5, atol=1e-7)  # captum sums in float32


# ---- layers ----------------------------------------------------------------------------------------------------------------------------


def test_maps_are_kept_as_they_were_before_a_later_layer_works_in_place() -> None:
    """The maps of a convolution whose activation overwrites them have negative numbers, which the sum counts."""
    torch.manual_seed(3)
    nets = [nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double()
            for inplace in (True, False)]  # fmt: skip
    nets[1].load_state_dict(nets[0].state_dict())
    images, classes = draw()
    first, second = (compute_cam(net, images, classes, "0").numpy() for net in nets)
    assert (first > 0).any()
    np.testing.assert_array_equal(first, second)


def test_layers_are_found_by_what_they_put_out(net: nn.Module) -> None:
    images, _ = draw(1)
    assert find_map_layer(net, images) == "second", "the activation, which runs twice, is passed over"
    deep = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    )
    assert find_map_layer(deep.double(), images) == "2", "the last with 4 places a side, not the last of all"
    assert find_map_layer(nn.Sequential(nn.Flatten(), nn.Linear(216, 4)).double(), images) == ""
    with pytest.raises(UsageError, match=r'layer "secnd".*"second"'):
        record_output(net, images, "secnd")
    with pytest.raises(UsageError, match=r"head.*does not"):
        compute_cam(net, images, torch.tensor([0]), "head")
    with pytest.raises(UsageError, match="grad_cam"):
        compute_cam(net, images, torch.tensor([0]), "second", "eigen_cam")  # type: ignore[arg-type]
    assert CAM_RULES == ("grad_cam", "layer_cam")


@pytest.mark.item("S151")
def test_filters_of_the_first_layer_are_its_weights(net: nn.Module) -> None:
    first = find_first_layer(net, draw(1)[0])
    assert first is not None and (first.name, first.are_templates) == ("first", False)
    assert torch.equal(first.weights, net.get_submodule("first").weight)


@pytest.mark.item("S015")
def test_rows_of_a_linear_classifier_are_images(net: nn.Module) -> None:
    images, _ = draw(1)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(216, 4)).double()
    first = find_first_layer(linear, images)
    assert first is not None and first.are_templates and first.weights.shape == (4, 3, 9, 8)
    by_templates = (first.weights[None] * images[:, None]).sum((2, 3, 4)) + linear[1].bias  # type: ignore[operator]
    torch.testing.assert_close(by_templates, linear(images))
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(216, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    hidden = find_first_layer(mlp, images)
    assert hidden is not None and not hidden.are_templates and hidden.weights.shape == (8, 3, 9, 8)
    assert find_first_layer(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 4)).double(), images) is None


def test_what_has_no_derivative_is_said() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :4] > 0).double()

    with pytest.raises(UsageError, match="no derivative"):
        compute_saliency(Steps(), *draw())
    with pytest.raises(UsageError, match="stride"):
        compute_occlusion(Steps(), *draw(), window=(2, 2), stride=(3, 1))
