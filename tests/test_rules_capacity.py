"""Rules of the network's size, its dropout, and the batches that its norms see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.doctor.examination import Examination
from goodfit.doctor.rules import capacity
from goodfit.doctor.rules.capacity import measure_dropout, measure_norm_noise
from tests.support.patients import Apply, convnet, find_causes, first_cause, iterate, mlp, patient


class HandDropout(nn.Module):
    """Dropout without any of torch's."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.rate) / (1 - self.rate) if self.training else x


def with_dropout(layer: nn.Module) -> nn.Sequential:
    model = convnet()
    return nn.Sequential(*model[:-1], layer, model[-1])


class SqueezeNet(nn.Module):
    """A conv whose channels are weighted by a gate that squeezes them to two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16, 2), nn.Linear(2, 16), nn.Linear(16 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).flatten(1))  # type: ignore[no-any-return]


def batches(size: int) -> Any:
    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iterate("train", size, np.random.default_rng(epoch).permutation(1200))

    return train


def two_numbers() -> nn.Sequential:
    return nn.Sequential(*convnet()[:-1], nn.Linear(512, 2), nn.Tanh(), nn.Linear(2, 10))


def narrow() -> nn.Sequential:
    """One and two channels, of which the head gets the means."""
    return nn.Sequential(*convnet(width=1)[:-2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10))


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dropout of 0.97": ("dropout_too_strong", {"model": lambda: with_dropout(nn.Dropout(0.97))}),
    "dropout by hand": ("dropout_too_strong", {"model": lambda: with_dropout(HandDropout(0.96))}),
    "two dropouts of 0.85": (
        "dropout_too_strong",
        {"model": lambda: mlp(*[nn.Sequential(nn.ReLU(), nn.Dropout(0.85))] * 2)},
    ),
    "batches of two": ("batch_too_small_for_norm", {"train": batches(2)}),
    "two numbers": ("capacity_too_small", {"model": two_numbers}),
    "one channel": ("capacity_too_small", {"model": narrow}),
}
HEALTHY: dict[str, dict[str, Any]] = {
    "convnet": {},
    "dropout of a half": {"model": lambda: with_dropout(nn.Dropout(0.5))},
    "batches of eight": {"train": batches(8)},
    "batches of two without a batch norm": {"train": batches(2), "model": lambda: convnet(norm=False)},
    "a gate of two numbers": {"model": SqueezeNet},
    "linear": {"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))},
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.thorough
def test_faults_are_named_first(case: str) -> None:
    cause, changes = FAULTS[case]
    assert first_cause(**changes) == cause


@pytest.mark.item("S133")
def test_too_little_capacity_is_told_from_overfitting_and_asks_for_more() -> None:
    exam = Examination(patient(model=two_numbers))
    found = [finding for rule in capacity.RULES if (finding := rule.find(exam))]
    assert found and all(finding.cause == "capacity_too_small" and "wider" in finding.remedy for finding in found)


@pytest.mark.parametrize("case", HEALTHY)
def test_what_is_healthy_is_not_named(case: str) -> None:
    exam = Examination(patient(**HEALTHY[case]))
    assert find_causes(exam, capacity.RULES) == {}
    assert exam.trial_steps == 0, "nothing is suspicious"


@pytest.mark.parametrize("layer", [nn.Dropout(0.8), nn.Dropout2d(0.8), HandDropout(0.8), Apply(lambda x: F.dropout(x, 0.8))])
def test_the_rate_of_a_dropout_however_it_is_made(layer: nn.Module) -> None:
    torch.manual_seed(0)
    model = convnet()
    inserted = nn.Sequential(*model[:6], layer, *model[6:]) if isinstance(layer, nn.Dropout2d) else with_dropout(layer)
    (rate,) = measure_dropout(Examination(patient(model=lambda: inserted)))
    assert rate == pytest.approx(0.8, abs=0.03)


def test_noise_of_small_batches_falls_with_their_size() -> None:
    exam = Examination(patient())
    noise = [measure_norm_noise(exam, size) for size in (2, 8, 32)]
    assert noise[0] > noise[1] > noise[2] > 0
    assert measure_norm_noise(Examination(patient(model=lambda: convnet(norm=False))), 2) == pytest.approx(0, abs=1e-5)
