"""Rules of schedules and of how long a training goes on: each names its case, and healthy schedules are silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Verdict
from goodfit.doctor.rules import schedule
from tests.support.patients import STEPS, iterate, names, patient, plain_net, step

pytestmark = pytest.mark.slow  # a training or several each; make test-slow runs them


def examine(**changes: Any) -> Verdict:
    return diagnose(patient(**changes), schedule.RULES)


def stop_after(steps: int) -> Callable[..., Tensor]:
    """A step that takes no more than some steps, as an early stop does; each training counts its own."""
    counts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def take(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        counts[model] = counts.get(model, 0) + 1
        if counts[model] <= steps:
            return step(model, optimizer, loss, images, labels)
        with torch.no_grad():
            return loss(model(images), labels)

    return take


def slow(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


@pytest.mark.parametrize("every", [0.8, 0.9])
def test_a_schedule_of_epochs_stepped_with_every_batch_is_named(every: float) -> None:
    verdict = examine(model=plain_net, optimizer=slow, schedule=lambda optimizer: lr_scheduler.ExponentialLR(optimizer, every))
    assert names(verdict)[0] == "decay_too_early"
    assert verdict.steps == 50


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.StepLR(optimizer, STEPS // 3, 0.2),
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, STEPS // 4),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / STEPS),
    ],
    ids=["steps", "restarts", "line"],
)
def test_schedules_over_the_whole_training_are_silent(make: Any) -> None:
    assert not examine(schedule=make).alarm


def test_a_stop_on_the_way_is_named() -> None:
    verdict = examine(model=plain_net, optimizer=slow, step=stop_after(12), schedule=None)
    assert names(verdict)[0] == "stopped_too_early"
    assert "decay_too_early" not in names(verdict)


def test_a_stop_of_a_training_that_is_done_is_silent() -> None:
    assert not examine(step=stop_after(130)).alarm


def test_too_few_steps_are_named() -> None:
    verdict = examine(model=plain_net, optimizer=slow, steps=24, schedule=None)
    assert names(verdict)[0] == "trained_too_short"


def test_a_constant_rate_that_is_high_is_named() -> None:
    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.03)

    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iterate("train", 8, np.random.default_rng(epoch).permutation(1200))

    found = [names(examine(model=plain_net, optimizer=optimizer, schedule=None, train=train, steps=500, seed=seed)) for seed in range(4)]
    assert ["no_decay"] in found and all(causes in ([], ["no_decay"]) for causes in found)  # how high it ends is chance


def test_a_constant_rate_that_is_low_enough_is_silent() -> None:
    assert not examine(optimizer=slow, schedule=None).alarm


def test_the_area_of_a_constant_rate_is_spent_with_the_steps() -> None:
    assert schedule.measure_spent((1.0,) * 100) == pytest.approx(0.9)
    assert schedule.measure_spent((1.0,) * 10 + (0.0,) * 90) == pytest.approx(0.09)


def test_a_continuation_leaves_the_training_where_it_is() -> None:
    exam = Examination(patient())
    exam.course.follow(20)
    before = [p.detach().clone() for p in exam.course.replay.model.parameters()]
    exam.continuation.go_on((0.05,) * 5)
    assert all(torch.equal(p, q) for p, q in zip(exam.course.replay.model.parameters(), before, strict=True))
    assert exam.course.taken == 20
