"""Rules of how weights are updated, and of weights that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.doctor.examination import Examination
from goodfit.doctor.rules import frozen, updates
from tests.support.patients import convnet, find_causes, first_cause, patient, step

Step = Callable[..., Tensor]


def without_zeroing(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    value: Tensor = loss(model(images), labels)
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return value.detach()


def accumulate(size: int) -> Callable[[], Step]:
    """Steps that add up the gradients of some batches before each update, as is right."""

    def make() -> Step:
        count = 0

        def one(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
            nonlocal count
            value: Tensor = loss(model(images), labels)
            (value / size).backward()
            if (count := count + 1) % size == 0:
                optimizer.step()
                optimizer.zero_grad()
            return value.detach()

        return one

    return make


def uphill(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    optimizer.zero_grad()
    value: Tensor = loss(model(images), labels)
    (-value).backward()
    optimizer.step()
    return value.detach()


def partly_uphill(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    optimizer.zero_grad()
    value: Tensor = loss(model(images), labels)
    value.backward()
    for p in list(model.parameters())[4:]:
        assert p.grad is not None
        p.grad.neg_()
    optimizer.step()
    return value.detach()


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Plain gradient descent without an optimizer."""
    model.zero_grad()
    value: Tensor = loss(model(images), labels)
    value.backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.1 * p.grad)  # type: ignore[operator]
    return value.detach()


def rounding(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    value = step(model, optimizer, loss, images, labels)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())
    return value


def underflowing(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    optimizer.zero_grad()
    value: Tensor = loss(model(images), labels)
    (value * 1e-6).backward()
    for p in model.parameters():
        assert p.grad is not None
        p.grad.copy_(p.grad.half().float() * 1e6)
    optimizer.step()
    return value.detach()


def in_autocast(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(images)
    value: Tensor = loss(scores.float(), labels)
    value.backward()
    optimizer.step()
    return value.detach()


def anew_each_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    return step(model, torch.optim.Adam(model.parameters(), 1e-3), loss, images, labels)


def forgetting(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    if torch.rand(()) < 0.1:
        for state in optimizer.state.values():
            state["momentum_buffer"].zero_()
    return step(model, optimizer, loss, images, labels)


def sgd(parameters: Any, rate: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9)


def freeze(model: nn.Module) -> nn.Module:
    for p in list(model.parameters())[:-2]:
        p.requires_grad_(False)
    return model


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = convnet()[:-1], nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).detach())  # type: ignore[no-any-return]


LEARNED = convnet()  # stands for weights that were learned: the same with every seed


def tuned() -> nn.Module:
    model = convnet()
    for new, old in zip(list(model.parameters())[:-2], LEARNED.parameters(), strict=False):
        new.data.copy_(old.data)
    return freeze(model)


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no zero_grad": ("gradients_not_zeroed", {"step": without_zeroing}),
    "a loss turned around": ("wrong_sign", {"loss": lambda scores, labels: -F.cross_entropy(scores, labels)}),
    "steps turned around": ("wrong_sign", {"step": uphill}),
    "some gradients turned around": ("wrong_sign", {"step": partly_uphill}),
    "maximize": ("wrong_sign", {"optimizer": lambda model: torch.optim.Adam(model.parameters(), 1e-3, maximize=True)}),
    "weights in bfloat16": ("low_precision", {"step": rounding, "optimizer": lambda model: sgd(model.parameters(), 1e-3)}),
    "gradients in float16": ("low_precision", {"step": underflowing}),
    "an optimizer for each step": ("optimizer_state_lost", {"step": anew_each_step, "schedule": None}),
    "momentum set to zero": ("optimizer_state_lost", {"step": forgetting}),
    "frozen trunk": ("frozen_by_mistake", {"model": lambda: freeze(convnet()), "optimizer": lambda m: sgd(list(m.parameters())[-2:])}),
    "an optimizer of the head": ("frozen_by_mistake", {"optimizer": lambda m: sgd(list(m.parameters())[-2:])}),
    "a trunk cut off": ("frozen_by_mistake", {"model": Detached}),
    "a rate of 0": (
        "frozen_by_mistake",
        {"optimizer": lambda m: sgd([{"params": list(m.parameters())[:-2], "lr": 0.0}, {"params": list(m.parameters())[-2:]}])},
    ),
    "an optimizer of a copy": ("frozen_by_mistake", {"optimizer": lambda m: sgd(convnet().parameters())}),
}
HEALTHY: dict[str, dict[str, Any]] = {
    "convnet": {},
    "four batches for each update": {"step": accumulate(4)(), "schedule": None},
    "eight batches for each update": {"step": accumulate(8)(), "schedule": None},
    "gradient descent by hand": {"step": by_hand, "schedule": None},
    "autocast": {"step": in_autocast},
    "learned and frozen": {"model": tuned},
    "a tiny rate": {"optimizer": lambda m: torch.optim.AdamW(m.parameters(), 1e-6)},
    "without momentum": {"optimizer": lambda m: torch.optim.SGD(m.parameters(), 0.05)},
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.thorough
def test_faults_are_named_first(case: str) -> None:
    cause, changes = FAULTS[case]
    assert first_cause(**changes) == cause


@pytest.mark.parametrize("case", HEALTHY)
@pytest.mark.thorough
def test_what_is_healthy_is_not_named(case: str) -> None:
    exam = Examination(patient(**HEALTHY[case]))
    exam.course.follow(50)
    assert find_causes(exam, (*updates.RULES, *frozen.RULES)) == {}
