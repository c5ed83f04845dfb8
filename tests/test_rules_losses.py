"""Rules of the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.replay import Change
from goodfit.doctor.rules import RULES, losses
from tests.support.patients import CLASSES, convnet, patient


def hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, CLASSES).float()


def focal(scores: Tensor, labels: Tensor) -> Tensor:
    each = F.cross_entropy(scores, labels, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


FAULTS: dict[str, dict[str, Any]] = {
    "nll of scores": {"loss": F.nll_loss},
    "squares of probabilities": {"loss": lambda s, y: F.mse_loss(s.softmax(1), hot(y))},
    "squares of outputs that are probabilities": {
        "model": lambda: convnet().append(nn.Softmax(1)),
        "loss": lambda p, y: F.mse_loss(p, hot(y)),
    },
    "labels one further": {"loss": lambda s, y: F.cross_entropy(s, (y + 1) % CLASSES)},
    "labels left out": {"loss": lambda s, y: s.square().mean()},
    "a sum at the rate of a mean": {"loss": lambda s, y: F.cross_entropy(s, y, reduction="sum"), "model": lambda: convnet(norm=False)},
}
HEALTHY: dict[str, Any] = {
    "cross-entropy": F.cross_entropy,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.3),
    "class weights": nn.CrossEntropyLoss(torch.linspace(0.3, 3, CLASSES)),
    "focal": focal,
    "one loss for each class": lambda s, y: F.binary_cross_entropy_with_logits(s, hot(y)),
    "hinge": F.multi_margin_loss,
    "temperature": lambda s, y: F.cross_entropy(s / 2, y),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.thorough
def test_faults_are_named_first(case: str) -> None:
    verdict = diagnose(patient(**FAULTS[case]), RULES)
    assert verdict.alarm
    assert verdict.findings[0].cause == "wrong_loss", verdict.findings


@pytest.mark.parametrize("case", HEALTHY)
@pytest.mark.thorough
def test_what_is_healthy_is_not_named(case: str) -> None:
    exam = Examination(patient(loss=HEALTHY[case]))
    exam.course.follow(exam.steps)
    assert [found for rule in losses.RULES if (found := rule.find(exam)) is not None] == []


def mix(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    """A step with mixup so timid that fifty of them teach little."""
    order = torch.randperm(len(images))
    optimizer.zero_grad()
    scores = model(0.5 * images + 0.5 * images[order])
    value = 0.5 * loss(scores, labels) + 0.5 * loss(scores, labels[order])
    (0.0003 * value).backward()
    optimizer.step()
    return value.detach()


@pytest.mark.thorough
def test_steps_that_mix_images_are_not_judged_by_their_first() -> None:
    exam = Examination(patient(step=mix, optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.3)))
    exam.course.follow(50)
    assert losses.find_doubts(exam) and not losses.find_shape_doubts(exam)
    assert losses.measure_gain(exam).is_stuck and losses.measure_gain(exam, Change(loss="cross_entropy")).is_clear
    assert losses.find_wrong_loss(exam) is None


def test_cross_entropy_of_probabilities_is_that_of_their_logarithms() -> None:
    """A trial of cross-entropy takes outputs for what they are: with probabilities it learns as a network without its softmax does."""
    own = Examination(patient())
    other = Examination(patient(model=lambda: convnet().append(nn.Softmax(1))))
    change = Change(loss="cross_entropy")
    assert own.trial(change, 5).losses == pytest.approx(other.trial(change, 5).losses, rel=1e-4)
