"""Rules of how weights start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goodfit.doctor.examination import Examination
from goodfit.doctor.rules import initial
from goodfit.doctor.rules.initial import measure_rest
from tests.support.patients import Apply, convnet, find_causes, first_cause, mlp, patient


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.data for p in model.parameters() if p.ndim >= 2]


def changed(make: Callable[[], nn.Sequential], change: Callable[[nn.Module], object]) -> Callable[[], nn.Sequential]:
    """A way to make a network and change its weights."""

    def model() -> nn.Sequential:
        made = make()
        with torch.no_grad():
            change(made)
        return made

    return model


def fill(model: nn.Module, value: float) -> None:
    for w in weights_of(model)[:-1]:
        w.fill_(value)


def repeat_rows(model: nn.Module) -> None:
    for w in weights_of(model)[:-1]:
        w.copy_(w[:1].expand_as(w))


def scale(model: nn.Module, factor: float) -> None:
    for w in weights_of(model):
        w.mul_(factor)


def lower_biases(model: nn.Module, to: float) -> None:
    for p in list(model.parameters())[:-2]:
        if p.ndim == 1:
            p.data.fill_(to)


class Residual(nn.Module):
    """Blocks with a norm whose factor starts at zero, as is usual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, 1, 1), nn.Linear(8, 10)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)) for _ in range(3))
        for block in self.blocks:
            nn.init.zeros_(block[1].weight)  # type: ignore[index, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def plain() -> nn.Sequential:
    return convnet(norm=False)


def tanhs() -> nn.Sequential:
    return mlp(nn.Tanh(), nn.Tanh(), width=64)


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "all at 0.01": ("constant_init", {"model": changed(convnet, lambda m: fill(m, 0.01))}),
    "all at zero": ("constant_init", {"model": changed(convnet, lambda m: fill(m, 0.0))}),
    "equal rows": ("constant_init", {"model": changed(plain, repeat_rows)}),
    "biases at -9": ("dead_relu", {"model": changed(plain, lambda m: lower_biases(m, -9.0))}),
    "relu of x - 2.5": (
        "dead_relu",
        {"model": lambda: convnet(lambda: Apply(lambda x: torch.relu(x - 2.5)))},
    ),
    "tanh of 20 times as much": ("saturated", {"model": lambda: mlp(*[Apply(lambda x: torch.tanh(20 * x))] * 2)}),
    "weights over 50": ("init_too_small", {"model": changed(plain, lambda m: scale(m, 0.02))}),
    "weights times 20": ("init_too_large", {"model": changed(plain, lambda m: scale(m, 20.0))}),
    "last weights times 100": ("init_too_large", {"model": changed(convnet, lambda m: weights_of(m)[-1].mul_(100.0))}),
}
HEALTHY: dict[str, Any] = {
    "convnet": convnet,
    "no norm": plain,
    "tanh": tanhs,
    "a head at zero": changed(convnet, lambda m: weights_of(m)[-1].zero_()),
    "factors at zero": Residual,
    "small weights behind norms": changed(convnet, lambda m: [w.mul_(0.1) for w in weights_of(m)[:-1]]),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.thorough
def test_faults_are_named_first(case: str) -> None:
    cause, changes = FAULTS[case]
    assert first_cause(**changes) == cause


@pytest.mark.parametrize("case", HEALTHY)
def test_what_is_healthy_is_not_named(case: str) -> None:
    exam = Examination(patient(model=HEALTHY[case]))
    assert find_causes(exam, initial.RULES) == {}
    assert exam.trial_steps == 0, "nothing is suspicious"


def test_large_inputs_are_another_cause() -> None:
    """Signals that are as large as the inputs are no matter of how the weights start."""

    def train(epoch: int) -> Any:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(20):
            yield 255 * torch.rand(32, 1, 8, 8, generator=generator), torch.randint(0, 10, (32,), generator=generator)

    exam = Examination(patient(model=changed(plain, lambda m: scale(m, 5.0)), train=train))
    assert exam.preflight.loss > 20
    assert initial.find_init_too_large(exam) is None


def test_what_is_left_of_a_weight_without_its_first_direction() -> None:
    one = torch.outer(torch.arange(1.0, 6.0), torch.tensor([1.0, -2.0, 3.0]))
    assert measure_rest(one) < 1e-6
    w = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    longest = w[w.norm(dim=1).argmax()].double()
    along = torch.outer(w.double() @ longest / longest.square().sum(), longest)
    assert measure_rest(w) == pytest.approx(float((w - along).norm() / w.norm()), rel=1e-5)
