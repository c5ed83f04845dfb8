"""The lecture's worked numbers for losses, steps, averages and learning rates, with its slips put right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from goodfit.core.contracts import Optimizer
from goodfit.core.facts import Facts
from goodfit.core.progress import Length, Lengths
from goodfit.core.steering import post
from goodfit.losses.kl import Kl
from goodfit.losses.softmax import Softmax
from goodfit.optim.first_order import Adagrad, Adam, Rmsprop
from goodfit.schedules.compose import compose
from goodfit.schedules.cycles import Cyclic, Sgdr
from goodfit.schedules.decays import Exponential, Inverse
from goodfit.training.averaging import blend_into
from goodfit.training.rules.average import Polyak
from goodfit.training.rules.plateau import Plateau
from goodfit.training.steering import Steering


def steps_of(optimizer: Optimizer, gradients: Sequence[float]) -> list[float]:
    """How far one weight that starts at 0 goes down at each of these gradients, in float64."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    made, found = optimizer([{"params": [w]}]), []
    for gradient in gradients:
        before = w.item()
        w.grad = torch.tensor([gradient], dtype=torch.float64)
        made.step()
        found.append(before - w.item())
    return found


def over(epochs: int) -> Facts:
    """A budget of so many epochs of 100 steps."""
    return Facts(("a", "b"), (1, 1), 3, (8, 8), (0.5,), (0.2,), ((1.0,),), Lengths(100, 8, Length.read(f"{epochs} epochs")))


# ---- losses ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S034")
def test_kl_is_cross_entropy_less_the_entropy_of_the_target() -> None:
    """KL(p || q) = H(p, q) - H(p) >= 0; H(p) = 0 for one class, so there KL = CE; smoothed targets differ by H(p)."""
    chance = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(50, 7, dtype=torch.float64, generator=chance)
    hard = torch.nn.functional.one_hot(torch.arange(50) % 7, 7).double()
    assert torch.equal(Kl()(scores, hard), Softmax()(scores, hard))
    smooth = 0.9 * hard + 0.1 / 7
    p = np.array([0.9 + 0.1 / 7] + [0.1 / 7] * 6)
    entropy = -(p * np.log(p)).sum()
    assert torch.allclose(Softmax()(scores, smooth) - Kl()(scores, smooth), torch.full((50,), entropy, dtype=torch.float64), atol=1e-12)
    assert bool((Kl()(scores, smooth) > 0).all())
    assert float(Kl()(smooth.log(), smooth).abs().max()) < 1e-15, "0 where the two are equal"


# ---- steps -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S081")
def test_the_steps_of_adagrad() -> None:
    """K = 3, 2, 1, 0.5: steps of 1, .5547, .2673, .1325 times the rate (the slide drops K2 from one denominator, and one root)."""
    assert steps_of(Adagrad(lr=1.0), [3, 2, 1, 0.5]) == pytest.approx([1, 0.5547, 0.2673, 0.1325], abs=5e-5)
    assert steps_of(Adagrad(lr=0.3), [-0.02])[0] == pytest.approx(-0.3, rel=1e-4), "the first step is lr sign(g)"
    many = steps_of(Adagrad(lr=1.0), [1.0] * 400)
    assert many == pytest.approx([1 / math.sqrt(n) for n in range(1, 401)], rel=1e-6), "to zero with time"


@pytest.mark.item("S082")
def test_the_steps_of_rmsprop() -> None:
    """K = 3, 2, 1, 0.5 with alpha = .9: h = .9, 1.21, 1.189, 1.0951."""
    gradients, h = [3, 2, 1, 0.5], [0.9, 1.21, 1.189, 1.0951]
    found = steps_of(Rmsprop(lr=1.0, alpha=0.9), gradients)
    assert found == pytest.approx([g / (math.sqrt(x) + 1e-7) for g, x in zip(gradients, h, strict=True)], rel=1e-9)


@pytest.mark.item("S083")
def test_the_first_step_of_adam_without_bias_correction_is_too_long() -> None:
    """m / sqrt(v) = (1 - .9) / sqrt(1 - .999) = 3.1623 rates at the first step; with the correction it is one."""
    (almost,) = steps_of(Adam(lr=0.01, bias_correction=False), [4.0])
    assert almost == pytest.approx(3.1623 * 0.01, rel=1e-4)
    assert steps_of(Adam(lr=0.01), [4.0])[0] == pytest.approx(0.01, rel=1e-6)


# ---- averages ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S086")
def test_a_moving_average_with_the_right_alpha_is_the_mean() -> None:
    """c_N = alpha c_{N-1} + (1 - alpha) x_N with alpha = (N - 1) / N is the mean of all x; .9 stands for 10, .99 for 100, .999 for 1000."""
    polyak = Polyak(start=0.0)
    for n, alpha in ((10, 0.9), (100, 0.99), (1000, 0.999)):
        assert polyak(n - 1, 0.5) == pytest.approx(alpha, abs=1e-15)
    values = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    average, model = (torch.nn.Linear(3, 1, bias=False).double() for _ in range(2))
    for n, x in enumerate(values):
        with torch.no_grad():
            model.weight.copy_(x[None])
        blend_into(average, model, polyak(n, 0.5))
    assert float((average.weight.detach()[0] - values.mean(0)).abs().max()) < 1e-12


# ---- learning rates ----------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S099")
def test_exponential_decay() -> None:
    """alpha = alpha0 e^(-kt): k = .1 and t = 10 epochs give .367879 alpha0."""
    schedule = compose(Exponential(0.1, per="1 epoch").bind(over(40)))
    assert schedule(0.0) == 1.0
    assert schedule(10 / 40) == pytest.approx(0.367879, abs=5e-7)
    assert schedule(20 / 40) == pytest.approx(0.367879**2, abs=1e-6)


@pytest.mark.item("S100")
def test_one_over_t_decay() -> None:
    """alpha = alpha0 / (1 + kt): k = .1 and t = 10 epochs give .5 alpha0."""
    schedule = compose(Inverse(0.1, per="1 epoch").bind(over(40)))
    assert schedule(0.0) == 1.0
    assert schedule(10 / 40) == pytest.approx(0.5, abs=1e-12)
    assert schedule(30 / 40) == pytest.approx(0.25, abs=1e-12)


@pytest.mark.item("S101")
def test_the_rate_of_alexnet_falls_by_ten_on_a_plateau_or_by_hand(tmp_path: Path) -> None:
    """1e-2, divided by ten whenever validation accuracy stopped improving; here by itself, or by hand."""
    plateau = Plateau(0.1, patience=3)
    scores = [0.1, 0.2, 0.3, 0.3, 0.29, 0.3, 0.35, 0.35, 0.35, 0.35]
    rates = [1e-2 * plateau(scores[:n]) for n in range(1, len(scores) + 1)]
    assert rates == pytest.approx([1e-2] * 5 + [1e-3] * 4 + [1e-4])
    steering = Steering(tmp_path)
    assert steering(7).lr_factor == 1.0
    post(tmp_path, "lr", 0.1)
    assert steering(8).lr_factor == pytest.approx(0.1)
    resumed = Steering(tmp_path, steering.commands)
    assert resumed(8).lr_factor == pytest.approx(0.1), "and stays so for a run that is resumed"
    assert resumed(3).lr_factor == 1.0, "but not before its step"


@pytest.mark.item("S104")
def test_a_cycle_is_a_triangle_and_leaves_a_saddle() -> None:
    """Up and down on straight lines, again and again; on f = x^4/4 - x^2/2 + y^2/2 high rates leave the saddle at 0 sooner."""
    schedule = compose(Cyclic(period=0.25, floor=0.1))
    triangle = [0.1 + 0.9 * (1 - abs(1 - 8 * (t % 0.25))) for t in np.arange(0, 0.999, 1 / 64)]
    assert [schedule(t) for t in np.arange(0, 0.999, 1 / 64)] == pytest.approx(triangle, abs=1e-9)

    def fall(factor: float | None, steps: int = 64) -> float:
        x, y = torch.tensor(1e-4, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        for n in range(steps):
            rate = 0.5 * (schedule(n / steps) if factor is None else factor)
            x, y = x - rate * (x**3 - x), y - rate * y
        return float(x**4 / 4 - x**2 / 2 + y**2 / 2)

    assert fall(0.1) > -0.01, "at the floor's rate it still sits at the saddle"
    assert fall(None) < -0.2, "with the cycles it has left; the minimum is -0.25"


@pytest.mark.item("S104")
def test_the_loss_after_a_restart_comes_back_below() -> None:
    """Raising the rate raises the loss for a while, on a noisy quadratic; at the end of the next cycle it is lower than before."""
    schedule, steps = compose(Cyclic(period=0.25, floor=0.02)), 2000
    chance = torch.Generator().manual_seed(0)
    w, losses = torch.full((200,), 3.0, dtype=torch.float64), []
    curvature = torch.logspace(-3, 0, 200, dtype=torch.float64)
    for n in range(steps):
        noise: Tensor = 0.3 * torch.randn(200, dtype=torch.float64, generator=chance)
        w = w - 0.9 * schedule(n / steps) * (curvature * w + noise * curvature)
        losses.append(float((curvature * w.square()).sum() / 2))
    ends = [losses[steps * k // 4 - 1] for k in (1, 2, 3, 4)]
    assert ends == sorted(ends, reverse=True), "every cycle ends lower than the one before"
    assert max(losses[steps // 4 : steps // 2]) > ends[0], "and rises in between"


@pytest.mark.item("S105")
def test_sgdr_is_a_cosine_with_restarts() -> None:
    """eta = eta_min + (eta_max - eta_min) (1 + cos(pi T / Ti)) / 2, with cycles that grow: T0 = 1/7, then 2/7 and 4/7 of the budget."""
    schedule = compose(Sgdr(cycles=3, growth=2.0, floor=0.1))
    for start, length in ((0, 1 / 7), (1 / 7, 2 / 7), (3 / 7, 4 / 7)):
        for x in (0.0, 0.2, 0.5, 0.9):
            expected = 0.1 + 0.5 * (1 - 0.1) * (1 + math.cos(math.pi * x))
            assert schedule(start + x * length + 1e-12) == pytest.approx(expected, abs=1e-9)
    assert schedule(1.0) == pytest.approx(0.1)
    assert schedule(1 / 7 - 1e-6) == pytest.approx(0.1, abs=1e-6) and schedule(1 / 7 + 1e-9) == pytest.approx(1.0), "a warm restart"
