"""A fault that no rule names is located: known parts in the place of the patient's say in which component it lies."""

from __future__ import annotations

import dataclasses
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn

from goodfit.doctor.causes import Component
from goodfit.doctor.examination import Examination
from goodfit.doctor.location import blame_most_helpful, locate_fault
from goodfit.doctor.patient import Patient, PatientSource, make_patient
from goodfit.doctor.probe import Share
from tests.support.patients import convnet, evaluate, parts, patient


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


@pytest.mark.thorough
def test_a_step_that_drowns_gradients_in_noise_is_a_fault_of_the_loop() -> None:
    exam = follow(step=noisy_step)
    found = locate_fault(exam)
    assert found is not None and found.component == "loop"
    assert "By Adam the network fits 20 of 20 images after" in found.evidence
    assert any(line.startswith(("model:", "data:")) for line in found.ruled_out)


class Averaged:
    """A training whose evaluation takes a running average of the weights, as steps leave it; `decay` says how far it lags behind."""

    def __init__(self, decay: float) -> None:
        self.decay, self.averages = decay, WeakKeyDictionary[nn.Module, list[Tensor]]()

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, images: Tensor, labels: Tensor) -> Tensor:
        average = self.averages.setdefault(model, [p.detach().clone() for p in model.parameters()])
        optimizer.zero_grad()
        value: Tensor = loss(model(images), labels)
        value.backward()
        optimizer.step()
        for mean, p in zip(average, model.parameters(), strict=True):
            mean.lerp_(p.detach(), 1 - self.decay)
        return value.detach()

    def evaluate(self, model: nn.Module, batches: Any) -> float:
        held = [p.detach().clone() for p in model.parameters()]
        self.put(model, self.averages[model])
        accuracy = evaluate(model, batches)
        self.put(model, held)
        return accuracy

    def put(self, model: nn.Module, values: list[Tensor]) -> None:
        with torch.no_grad():
            for p, value in zip(model.parameters(), values, strict=True):
                p.copy_(value)


@pytest.mark.parametrize(("decay", "is_fault"), [(0.9, False), (0.999, True)])
@pytest.mark.thorough
def test_an_average_of_the_weights_is_a_fault_where_it_lags_far_behind(decay: float, is_fault: bool) -> None:
    """The state of the evaluation is that of the training that is examined: another patient of the same case has not made its steps."""

    def make() -> Patient:
        averaged = Averaged(decay)
        return make_patient(parts(0, step=averaged.step, evaluate=averaged.evaluate, model=lambda: convnet(norm=False)), "averaged")

    exam = Examination(PatientSource("averaged", 0, make))
    exam.course.follow(exam.steps)
    assert exam.evaluation().of_other_weights
    found = locate_fault(exam)
    assert (found is not None) == is_fault
    if found is not None:
        assert found.component == "evaluation" and "It evaluates other weights." in found.evidence


@pytest.mark.thorough
def test_an_average_that_is_better_than_the_network_is_meant_to_be() -> None:
    exam = follow()
    exam._evaluations[exam.course.taken] = dataclasses.replace(exam.evaluation(), accuracy=0.99, honest=0.8, of_other_weights=True)
    assert locate_fault(exam) is None
    exam._evaluations[exam.course.taken] = dataclasses.replace(exam.evaluation(), of_other_weights=False)
    assert locate_fault(exam) is not None, "of the network's own weights it counts wrongly"


@pytest.mark.thorough
def test_nothing_is_located_in_a_healthy_training() -> None:
    assert locate_fault(follow(model=convnet)) is None


@pytest.mark.parametrize(("momentum", "is_fault"), [(0.0, True), (0.1, False)])
@pytest.mark.thorough
def test_running_statistics_that_hardly_follow_are_a_fault_of_the_evaluation(momentum: float, is_fault: bool) -> None:
    def model() -> nn.Sequential:
        layers: list[nn.Module] = []
        for enter, leave, stride in ((1, 16, 1), (16, 16, 2), (16, 32, 1), (32, 32, 2)):
            layers += [nn.Conv2d(enter, leave, 3, stride, 1, bias=False), nn.BatchNorm2d(leave, momentum=momentum), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))

    exam = follow(model=model)
    before = {name: x.clone() for name, x in exam.course.replay.model.state_dict().items()}
    found = locate_fault(exam)
    assert (found is not None) == is_fault
    assert found is None or (found.component == "evaluation" and "By the running statistics of its norms" in found.evidence)
    assert all(torch.equal(x, before[name]) for name, x in exam.course.replay.model.state_dict().items())


def test_a_training_that_learned_nothing_is_never_healthy() -> None:
    """Also where no swap mends it in time; one that learned something is."""
    gains: dict[Component, float] = {"loop": 0.0, "optimization": 0.03, "data": -0.01, "model": 0.02}
    found = blame_most_helpful(10, Share(12, 100), Share(90, 100), "It ends at 12 %.", gains)
    assert found is not None and (found.component, found.evidence) == ("optimization", "It ends at 12 %.")
    assert blame_most_helpful(10, Share(40, 100), Share(90, 100), "It ends at 40 %.", gains) is None
