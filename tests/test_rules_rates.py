"""Rules of learning rates and momentum: each names its case, its look-alikes are not named by it, and healthy trainings are silent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from goodfit.doctor.diagnose import diagnose
from goodfit.doctor.finding import Verdict
from goodfit.doctor.rules import rates
from tests.support.patients import STEPS, convnet, iterate, names, patient, plain_net, step

pytestmark = pytest.mark.slow  # a training or several each; make test-slow runs them


SEEDS = (1, 2, 3, 4)


def sgd(lr: float, momentum: float = 0.9) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=1e-4)


def adam(lr: float, beta: float = 0.9) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.Adam(model.parameters(), lr=lr, betas=(beta, 0.999))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def examine(**changes: Any) -> Verdict:
    return diagnose(patient(**changes), rates.RULES)


def test_lr_too_high_is_named_after_50_steps() -> None:
    verdict = examine(optimizer=sgd(3.0), model=plain_net)
    assert names(verdict)[0] == "lr_too_high"
    assert verdict.steps == 50 and verdict.findings[0].confidence >= 0.9


def test_lr_too_high_of_adam_is_named() -> None:
    assert names(examine(optimizer=adam(0.3), model=mlp))[0] == "lr_too_high"


def test_a_loss_that_is_not_a_number_is_a_rate_that_is_too_high() -> None:
    assert names(examine(optimizer=sgd(100.0), model=mlp))[0] == "lr_too_high"


def test_lr_too_low_is_named() -> None:
    verdict = examine(optimizer=sgd(1e-4))
    assert names(verdict) == ["lr_too_low"]
    assert verdict.trial_steps < 0.7 * STEPS


def test_warm_up_is_not_a_rate_that_is_too_low() -> None:
    def warm_up(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min((t + 1) / 80, 1.0))

    assert not examine(schedule=warm_up).alarm


def test_momentum_too_high_is_named_before_the_rate() -> None:
    verdict = examine(optimizer=sgd(0.1, momentum=0.998), model=plain_net)
    assert names(verdict)[0] == "momentum_too_high"


def test_a_first_beta_that_is_too_high_is_named() -> None:
    assert names(examine(optimizer=adam(0.005, beta=0.998), model=plain_net))[0] == "momentum_too_high"


def test_a_high_rate_with_a_usual_momentum_is_not_momentum() -> None:
    assert "momentum_too_high" not in names(examine(optimizer=sgd(3.0), model=plain_net))


def test_no_warmup_is_named_where_the_same_rate_learns_after_one() -> None:
    found = [names(examine(**cold_start(), seed=seed)) for seed in SEEDS]  # which of them break differs between processors
    assert ["no_warmup"] in found and all(causes in ([], ["no_warmup"]) for causes in found)


def test_with_a_warm_up_the_same_rate_is_healthy() -> None:
    def warm_up(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min((t + 1) / 40, 1.0))

    assert not any(examine(**cold_start() | {"schedule": warm_up}, seed=seed).alarm for seed in SEEDS)


def deep_net() -> nn.Sequential:
    """Four convs without norm, whose first steps are large ones."""
    layers: list[nn.Module] = []
    for enter, leave, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 2)):
        layers += [nn.Conv2d(enter, leave, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


def cold_start() -> dict[str, Any]:
    """A network and a rate at which the first steps are the ones that hurt."""

    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iterate("train", 200, np.random.default_rng(epoch).permutation(1200))

    return {"model": deep_net, "optimizer": sgd(0.3), "train": train, "schedule": None}


@functools.cache
def pretrained_weights() -> dict[str, Tensor]:
    """Weights of a network that has learned digits."""
    torch.manual_seed(5)
    model, rng = convnet(), np.random.default_rng(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, labels in iterate("train", 32, rng.permutation(1200)):
        step(model, optimizer, nn.CrossEntropyLoss(), images, labels)
    return {name: p.clone() for name, p in model.state_dict().items()}


def tuned() -> nn.Sequential:
    """The pretrained network with a new head."""
    model = convnet()
    head = model[-1].state_dict()
    model.load_state_dict(pretrained_weights())
    model[-1].load_state_dict(head)
    return model


def test_pretrained_weights_that_are_destroyed_are_seen_after_ten_steps() -> None:
    verdict = examine(model=tuned, optimizer=sgd(5.0))
    assert names(verdict)[0] == "lr_too_high"
    assert verdict.steps == 10
    assert "pretrained weights are destroyed" in verdict.findings[0].evidence


def test_gentle_fine_tuning_is_healthy() -> None:
    assert not examine(model=tuned, optimizer=sgd(1e-3)).alarm


def test_steps_uphill_are_not_a_rate_that_is_too_high() -> None:
    def uphill(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(model(images), labels)
        (-value).backward()
        optimizer.step()
        return value.detach()

    assert names(examine(step=uphill)) == []


def test_a_healthy_training_is_silent_and_costs_no_trial() -> None:
    verdict = examine()
    assert verdict.kind == "healthy" and verdict.trial_steps == 0 and verdict.steps == STEPS


def test_few_images_in_small_batches_are_silent() -> None:
    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iterate("train", 8, np.random.default_rng(epoch).permutation(1200)[:600])

    assert not examine(train=train, optimizer=sgd(0.01), model=plain_net).alarm
