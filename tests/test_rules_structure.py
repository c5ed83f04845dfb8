"""Rules of what the network computes: outputs, nonlinearities, and images that stay apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Stage
from goodfit.doctor.rules import structure
from tests.support.patients import Apply, convnet, find_causes, first_cause, mlp, patient


def named(**changes: Any) -> set[str]:
    """The causes that the rules of this file name before the first step."""
    return set(find_causes(Examination(patient(**changes)), [rule for rule in structure.RULES if rule.stage == Stage.START]))


def soft_loss(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores.softmax(1), labels)


def nll_of_logs(probabilities: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(probabilities.log(), labels)


def shuffled_view(x: Tensor) -> Tensor:
    """What a view in the place of a permute does: channels and images trade places."""
    return x.transpose(0, 1).reshape(x.shape)


def with_hidden_at_zero(model: nn.Sequential) -> nn.Sequential:
    """A network that answers the same for all images, whatever bends in it."""
    nn.init.zeros_(model[3].weight)  # type: ignore[arg-type]
    return model


def with_head_at_zero(model: nn.Sequential) -> nn.Sequential:
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    return model


def mixing_net() -> nn.Sequential:
    model = convnet()
    return nn.Sequential(*model[:3], Apply(shuffled_view), *model[3:])


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "two more outputs": ("wrong_outputs", {"model": lambda: convnet(classes=12)}),
    "softmax at the end": ("softmax_twice", {"model": lambda: convnet().append(nn.Softmax(1))}),
    "softmax in the loss": ("softmax_twice", {"loss": soft_loss}),
    "sigmoid at the end": ("softmax_twice", {"model": lambda: convnet().append(nn.Sigmoid())}),
    "no activation": ("missing_nonlinearity", {"model": lambda: convnet(nn.Identity)}),
    "no activation, no norm": ("missing_nonlinearity", {"model": lambda: mlp(nn.Identity(), nn.Identity())}),
    "max-pools alone": (
        "missing_nonlinearity",
        {
            "model": lambda: nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8, 10)
            )
        },
    ),
    "a slope of 1": ("missing_nonlinearity", {"model": lambda: mlp(nn.LeakyReLU(1.0), nn.LeakyReLU(1.0))}),
    "view for permute": ("images_mixed", {"model": mixing_net}),
    "softmax over the batch": ("images_mixed", {"model": lambda: convnet().append(Apply(lambda x: x * (1 + x.softmax(0))))}),
    "mixed before a head at zero": ("images_mixed", {"model": lambda: with_head_at_zero(mixing_net())}),
}
HEALTHY: dict[str, dict[str, Any]] = {
    "convnet": {},
    "probabilities and their loss": {"model": lambda: convnet().append(nn.Softmax(1)), "loss": nll_of_logs},
    "log-probabilities and their loss": {"model": lambda: convnet().append(nn.LogSoftmax(1)), "loss": F.nll_loss},
    "log-probabilities and cross-entropy": {"model": lambda: convnet().append(nn.LogSoftmax(1))},
    "smoothed labels": {"loss": nn.CrossEntropyLoss(label_smoothing=0.3)},
    "linear classifier": {"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))},
    "relu by hand": {"model": lambda: mlp(Apply(lambda x: x * (x > 0)), Apply(lambda x: torch.where(x > 0, x, torch.zeros_like(x))))},
    "tanh of weak signals": {"model": lambda: mlp(Apply(lambda x: torch.tanh(1e-3 * x)), nn.Tanh())},
    "depthwise": {
        "model": lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
        )
    },
    "a head at zero": {"model": lambda: with_head_at_zero(convnet())},
    "hidden weights at zero": {"model": lambda: with_hidden_at_zero(mlp(nn.ReLU(), nn.ReLU()))},
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.thorough
def test_faults_are_named_first(case: str) -> None:
    cause, changes = FAULTS[case]
    torch.manual_seed(0)
    assert first_cause(**changes) == cause


@pytest.mark.parametrize("case", HEALTHY)
def test_what_is_healthy_is_not_named(case: str) -> None:
    torch.manual_seed(0)
    assert not named(**HEALTHY[case])


def test_a_linear_trunk_before_a_bent_head() -> None:
    """Six linear layers, then one ReLU: neither affine nor without an activation, but ReLUs between the six gain much."""

    def model() -> nn.Sequential:
        return mlp(*[nn.Identity()] * 5, nn.ReLU(), width=24)

    exam = Examination(patient(model=model))
    assert structure.find_missing_nonlinearity(exam) is None
    assert max(weight.flow.run for weight in exam.network.weights if weight.flow) == 6


def test_the_share_of_a_gradient_that_falls_on_others_by_hand() -> None:
    """With y_i = x_i + 0.3 mean_j x_j of 8 images, another image gets 0.3/8 of what the own gets, which is 1 + 0.3/8."""
    model = nn.Sequential(nn.Flatten(), Apply(lambda x: x[:, :10] + 0.3 * x[:, :10].mean(0)))
    found = structure.find_images_mixed(Examination(patient(model=lambda: model, optimizer=lambda model: None)))
    assert found is not None
    assert f"{100 * 0.0375 / 1.0375:.0f} %" in found.evidence
