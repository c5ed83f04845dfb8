"""Rules of gradients that die or grow on the way down, and of missing shortcuts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goodfit.doctor.examination import Examination
from goodfit.doctor.network import median
from goodfit.doctor.rules import depth
from tests.support.patients import Apply, convnet, find_causes, first_cause, mlp, patient


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.factor, None


def scaled_gradients(factor: float) -> nn.Sequential:
    """A healthy convnet whose gradients are multiplied between its layers."""
    model = convnet()
    scale = Apply(lambda x: Scaled.apply(x, factor))  # type: ignore[no-untyped-call]
    return nn.Sequential(*model[:3], scale, *model[3:6], scale, *model[6:])


class Deep(nn.Module):
    """Many narrow convs with batch norm at 8x8, with or without shortcuts."""

    def __init__(self, layers: int, skips: bool) -> None:
        super().__init__()
        self.stem, self.head, self.skips = nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(8, 10), skips
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = torch.relu(norm(conv(x)))
            x = x + y if self.skips else y
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def growing() -> nn.Sequential:
    """Tanh layers whose outputs are multiplied, with weights of the usual size."""
    return mlp(*[Apply(lambda x: 7 * torch.tanh(x))] * 4, width=64)


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "26 layers without shortcuts": ("missing_skip", {"model": lambda: Deep(26, False), "steps": 60}),
    "seven sigmoids": ("vanishing_gradient", {"model": lambda: mlp(*[nn.Sigmoid()] * 7)}),
    "gradients over 1,000": ("vanishing_gradient", {"model": lambda: scaled_gradients(1e-3)}),
    "gradients times 500": ("exploding_gradient", {"model": lambda: scaled_gradients(500.0)}),
    "outputs times 7": ("exploding_gradient", {"model": growing}),
}
HEALTHY: dict[str, Any] = {
    "convnet": convnet,
    "12 layers with shortcuts": lambda: Deep(12, True),
    "three tanh": lambda: mlp(*[nn.Tanh()] * 3),
    "three sigmoids": lambda: mlp(*[nn.Sigmoid()] * 3),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.thorough
def test_faults_are_named_first(case: str) -> None:
    cause, changes = FAULTS[case]
    assert first_cause(**changes) == cause


@pytest.mark.parametrize("case", HEALTHY)
def test_what_is_healthy_is_not_named(case: str) -> None:
    exam = Examination(patient(model=HEALTHY[case]))
    assert find_causes(exam, depth.RULES) == {}


@pytest.mark.parametrize("factor", [1e-3, 20.0])
def test_the_ratio_of_gradients_by_hand(factor: float) -> None:
    """Multiplying the gradient between two hidden weights multiplies the ratio of the first's to the second's by as much."""
    own = Examination(patient(model=lambda: scaled_gradients(1.0))).network.gradient_ratio
    changed = Examination(patient(model=lambda: scaled_gradients(factor))).network.gradient_ratio
    assert changed / own == pytest.approx(factor, rel=1e-3)


def test_the_ratio_does_not_depend_on_the_size_of_weights_behind_norms() -> None:
    def model(factor: float) -> nn.Sequential:
        made = convnet()
        made[0].weight.data.mul_(factor)  # type: ignore[operator, union-attr]
        return made

    ratios = [Examination(patient(model=lambda f=f: model(f))).network.gradient_ratio for f in (1.0, 30.0)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)


def test_shortest_and_longest_way() -> None:
    for skips, shortest in ((True, 2), (False, 10)):
        network = Examination(patient(model=lambda s=skips: Deep(8, s))).network
        assert (network.depth, network.shortest) == (10, shortest)


def test_median() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
