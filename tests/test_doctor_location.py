"""A fault that no rule names is located: known parts in the place of the patient's say in which component it lies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from goodfit.doctor.examination import Examination
from goodfit.doctor.location import locate_fault
from tests.support.patients import convnet, patient


def noisy_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
    """A step along gradients that are nearly all noise."""
    optimizer.zero_grad()
    value: Tensor = loss(model(images), labels)
    value.backward()
    for p in model.parameters():
        assert p.grad is not None
        p.grad.add_(60 * p.grad.norm() / p.numel() ** 0.5 * torch.randn_like(p))
    optimizer.step()
    return value.detach()


def follow(**changes: Any) -> Examination:
    exam = Examination(patient(**changes))
    exam.course.follow(exam.steps)
    return exam


def test_a_step_that_drowns_gradients_in_noise_is_a_fault_of_the_loop() -> None:
    exam = follow(step=noisy_step)
    found = locate_fault(exam)
    assert found is not None and found.component == "loop"
    assert "By Adam the network fits 20 of 20 images after" in found.evidence
    assert any(line.startswith(("model:", "data:")) for line in found.ruled_out)


def test_nothing_is_located_in_a_healthy_training() -> None:
    assert locate_fault(follow(model=convnet)) is None
