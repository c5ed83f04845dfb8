"""The shape of the loss, against gradient descent on a quadratic, whose behavior at every rate is known, and against real trainings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from goodfit.doctor.replay import Replay
from goodfit.report.loss_shape import classify_loss_shape
from tests.support.patients import patient


def descend(rate: float, steps: int = 300, noise: float = 0.02) -> list[float]:
    """The losses of gradient descent on a quadratic of curvatures 0.05 to 1, whose largest stable rate is 2."""
    rng = np.random.default_rng(0)
    curvature, w, losses = np.geomspace(0.05, 1, 20), np.ones(20), []
    for _ in range(steps):
        losses.append(float((curvature * w**2).sum() * (1 + noise * rng.normal())))
        w = w - rate * curvature * w
    return losses


@pytest.mark.item("S097", "S106")
@pytest.mark.parametrize(("rate", "shape"), [(2.1, "very high"), (3.0, "very high"), (1.0, "good"), (0.1, "good"), (0.0002, "low")])
def test_quadratic(rate: float, shape: str) -> None:
    assert classify_loss_shape(descend(rate)) == shape


@pytest.mark.item("S097")
@pytest.mark.parametrize(("rate", "shape"), [(2.0, "very high"), (0.5, "high"), (0.01, "good"), (0.0001, "low")])
def test_training_on_digits(rate: float, shape: str) -> None:
    source = patient(schedule=None, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9))
    assert classify_loss_shape(Replay(source).advance(250)) == shape


def test_no_shape() -> None:
    assert classify_loss_shape([1.0] * 10) is None  # too few
    assert classify_loss_shape([2.3 + 0.01 * (i % 2) for i in range(200)]) is None  # nothing moves
    assert classify_loss_shape([2.3] * 60 + [float("nan")] * 60) == "very high"
