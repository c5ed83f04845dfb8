"""Rules of what holds a training back, or fails to: each names its case, and its look-alikes are not named by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Verdict
from goodfit.doctor.progress import is_decay_the_cause, is_stuck, measure_norm_left
from goodfit.doctor.rules import regularization
from tests.support.patients import iterate, names, patient, plain_net

pytestmark = pytest.mark.slow  # a training or several each; make test-slow runs them


def examine(**changes: Any) -> Verdict:
    return diagnose(patient(**changes), regularization.RULES)


def clip(norm: float, by_value: bool = False) -> Callable[..., Tensor]:
    """A step that clips the gradient to a norm, or each of its numbers to a value."""
    cut = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_

    def take(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        cut(model.parameters(), norm)
        optimizer.step()
        return value.detach()

    return take


def sgd(lr: float, weight_decay: float = 0.0) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)


@pytest.mark.parametrize(("norm", "by_value"), [(1e-3, False), (1e-5, True)], ids=["norm", "value"])
def test_clip_too_tight_is_named(norm: float, by_value: bool) -> None:
    verdict = examine(step=clip(norm, by_value))
    assert names(verdict)[0] == "clip_too_tight"
    assert verdict.steps == 50


def test_clipping_at_one_is_silent() -> None:
    assert not examine(step=clip(1.0)).alarm


def test_clipping_does_not_matter_to_adam() -> None:
    assert not examine(step=clip(1e-3), optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3)).alarm


def test_a_rate_that_is_too_low_is_no_clipping() -> None:
    assert "clip_too_tight" not in names(examine(optimizer=sgd(1e-4)))


@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_weight_decay_too_strong_is_named(strength: float) -> None:
    assert names(examine(optimizer=sgd(0.05, strength), model=plain_net))[0] == "weight_decay_too_strong"


def test_a_penalty_within_the_step_is_weight_decay() -> None:
    def take(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(model(images), labels)
        (value + 0.5 * torch.stack([p.square().sum() for p in model.parameters()]).sum()).backward()
        optimizer.step()
        return value.detach()

    assert names(examine(step=take, model=plain_net))[0] == "weight_decay_too_strong"


def test_weights_that_are_set_to_zero_are_not_decayed() -> None:
    def forget(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(torch.rand_like(p) > 0.3)
        return value.detach()

    exam = Examination(patient(step=forget, model=plain_net))
    exam.course.follow(50)
    assert measure_norm_left(exam) < 0.7 and is_stuck(exam), "as if they were"
    assert not is_decay_the_cause(exam)


def test_usual_weight_decay_is_silent() -> None:
    assert not examine(optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)).alarm


def disturbed(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Digits with most of their pixels changed at random: augmentation that leaves little."""
    rng = np.random.default_rng(epoch)
    for images, labels in iterate("train", 32, rng.permutation(1200)):
        noise = torch.from_numpy(rng.normal(size=tuple(images.shape))).float()
        yield images * torch.from_numpy(rng.random(tuple(images.shape)) < 0.2) + 1.5 * noise, labels


def dropping_net() -> nn.Sequential:
    layers = (nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.9), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.9), nn.Linear(64, 10))
    return nn.Sequential(nn.Flatten(), *layers)


def test_decay_dropout_and_augmentation_together_are_named_as_such() -> None:
    verdict = examine(model=dropping_net, optimizer=sgd(0.05, 0.2), train=disturbed, schedule=None)
    assert names(verdict) == ["regularized_too_much"]


def test_dropout_alone_is_not_regularized_too_much() -> None:
    assert "regularized_too_much" not in names(examine(model=dropping_net, optimizer=sgd(0.05)))


def test_weight_decay_alone_is_not_regularized_too_much() -> None:
    assert "regularized_too_much" not in names(examine(model=plain_net, optimizer=sgd(0.05, 2.0)))


def memorize(images: int, noise: float = 1.5) -> dict[str, Any]:
    """Few noisy images for many epochs, of a network that can know them by heart."""

    def noisy(split: str, size: int, order: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        for i, (x, y) in enumerate(iterate(split, size, order)):
            generator = torch.Generator().manual_seed(1000 * len(order) + i)
            yield x + noise * torch.randn(x.shape, generator=generator), y

    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        kept = list(noisy("train", images, np.arange(images)))
        rows = np.random.default_rng(epoch).permutation(images)
        for part in np.array_split(rows, max(images // 25, 1)):
            yield kept[0][0][part], kept[0][1][part]

    return {
        "train": train,
        "validation": lambda: noisy("validation", 597, np.arange(597)),
        "model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)),
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        "schedule": None,
        "steps": 300,
    }


@pytest.mark.item("S133")
def test_overfitting_is_named_with_what_to_do_about_it() -> None:
    finding = examine(**memorize(100)).findings[0]
    assert (finding.cause, finding.is_material) == ("overfitting", True)
    assert re.search("augmentation|decay|images", finding.remedy), finding


def test_noise_learned_by_heart_is_a_note() -> None:
    """Nothing of it has ever carried over to validation images, so that no regularization would make it."""
    (finding,) = examine(**memorize(100, noise=30.0)).findings
    assert (finding.cause, finding.is_material) == ("overfitting", False)


def test_few_images_that_teach_enough_are_silent() -> None:
    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iterate("train", 25, np.random.default_rng(epoch).permutation(200))

    assert not examine(train=train).alarm


def test_a_healthy_training_is_silent() -> None:
    verdict = examine()
    assert not verdict.alarm and verdict.trial_steps == 0
