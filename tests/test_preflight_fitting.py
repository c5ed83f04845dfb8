"""A few images are learned by what can learn, and a small step does what its gradient says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.inspection.fitting import fit_small_set, measure_predicted_descent
from goodfit.inspection.preflight import examine_start
from tests.support.patients import convnet, digits, prepare

IMAGES = prepare(digits()["train"][0][:40])
LABELS = torch.from_numpy(digits()["train"][1][:40])


@pytest.mark.item("S132")
def test_twenty_images_are_learned() -> None:
    model = convnet()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    fit = fit_small_set(model, F.cross_entropy, IMAGES, LABELS)
    assert (fit.images, fit.right, fit.is_learned) == (20, 20, True) and fit.steps < 60
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


@pytest.mark.item("S132")
def test_loss_at_the_start_is_ln_k_and_regularization_raises_it() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.mul_(1e-3)
        model[1].bias.zero_()

    def penalized(scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels) + 1e3 * model[1].weight.square().sum()

    assert examine_start(model, F.cross_entropy, IMAGES, LABELS).loss == pytest.approx(2.302585, abs=1e-2)
    assert examine_start(model, penalized, IMAGES, LABELS).loss > 2.302585 + 1e-3


def test_time_that_is_over_is_said() -> None:
    fit = fit_small_set(convnet(), F.cross_entropy, IMAGES, LABELS, seconds=0.0)
    assert fit.ran_out_of_time and fit.steps == 0 and fit.describe().endswith("after 0 steps on them alone, when its time was over")
    assert not fit_small_set(convnet(), F.cross_entropy, IMAGES, LABELS, steps=2).ran_out_of_time


def test_a_network_that_cannot_learn() -> None:
    frozen = convnet()
    frozen.requires_grad_(False)
    assert not fit_small_set(frozen, F.cross_entropy, IMAGES, LABELS).is_learned
    dead = convnet(norm=False)
    with torch.no_grad():
        dead[2].bias.fill_(-1e6)
    assert not fit_small_set(dead, F.cross_entropy, IMAGES, LABELS, steps=60).is_learned


def test_a_small_step_does_what_the_gradient_says() -> None:
    assert measure_predicted_descent(convnet().double(), F.cross_entropy, IMAGES.double(), LABELS) == pytest.approx(1.0, abs=0.05)


def test_a_wrong_gradient_is_noticed() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return -gradient

    def wrong(scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(Wrong.apply(scores), labels)

    assert measure_predicted_descent(convnet().double(), wrong, IMAGES.double(), LABELS) == pytest.approx(-1.0, abs=0.05)
