"""Newton, BFGS and L-BFGS: their minima against scipy's, the Hessian behind them, noise refused, and the same weights after a resume."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize, rosen, rosen_der, rosen_hess
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.progress import Length, Lengths
from goodfit.core.run import Run
from goodfit.data import loader, pixels
from goodfit.losses.mse import Mse
from goodfit.losses.penalty import L2
from goodfit.losses.softmax import Softmax
from goodfit.optim.bfgs import Bfgs
from goodfit.optim.flat import FlatParameters
from goodfit.optim.groups import make_optimizer
from goodfit.optim.lbfgs import Lbfgs
from goodfit.optim.line_search import LinePoint, search_strong_wolfe
from goodfit.optim.newton import ExactModel, Newton
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.curvature import _flatten
from goodfit.training.state import Plan, State
from goodfit.training.step import Objective
from tests.support.command import goodfit, refused, train

PARTS = [Newton(), Newton(exact=0), Bfgs(), Lbfgs()]
BY_NAME = [pytest.param(part, id=str(part)) for part in PARTS]
K, D = 4, 6


class Spot(nn.Module):
    """A model that is one point [N]."""

    def __init__(self, start: np.ndarray) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))


def descend(part: Optimizer, start: np.ndarray, loss: Callable[[Tensor], Tensor], steps: int) -> tuple[list[float], np.ndarray]:
    """The losses at the points visited, and the last point; the closure is a plain function."""
    model = Spot(start)
    optimizer = make_optimizer(model, part)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model.w)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    losses = [float(optimizer.step(closure).detach()) for _ in range(steps)]
    return [*losses, float(loss(model.w).detach())], model.w.detach().numpy()


# ---- a training by hand ------------------------------------------------------------------------------------------------------------


def examples(n: int = 90, dtype: torch.dtype = torch.float64) -> Batch:
    random = torch.Generator().manual_seed(1)
    targets = torch.randint(0, K, (n,), generator=random)
    images = torch.randn(n, D, 1, 1, generator=random, dtype=torch.float64) + F.one_hot(targets, D)[:, :, None, None]
    return Batch(images.to(dtype), F.one_hot(targets, K).to(dtype), torch.arange(n))


def linear(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(D, K)).to(dtype)


def small_net(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(D, 5, 1), nn.Tanh(), nn.Flatten(), nn.Linear(5, K))
    return made.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


PLAN = Plan(
    loss=Softmax(),
    lengths=Lengths(1, 90, Length.read("20 steps")),
    augment=lambda batch, chance, t: batch,
    normalize=lambda images: images,
    schedule=lambda t: 1.0,
    penalties=(L2(0.01),),
)


def state_of(model: nn.Module, part: Optimizer, pieces: int = 1) -> State:
    return State.start(model, make_optimizer(model, part), pieces=pieces)


def objective(state: State, batch: Batch | None = None, plan: Plan = PLAN) -> Objective:
    batch = batch or examples()
    return Objective(state, batch.but(chance=Chance.of(0, torch.arange(len(batch)), "augment", 0)), plan, 0.5)


def steps(state: State, number: int, batch: Batch | None = None, plan: Plan = PLAN) -> list[float]:
    """The loss before each step, and after the last."""
    losses = []
    for _ in range(number):
        goal = objective(state, batch, plan)
        state.optimizer.step(goal)  # type: ignore[arg-type]
        state.step += 1
        losses.append(float(goal.numbers()["loss"]))
    return [*losses, float(objective(state, batch, plan)())]


def softmax_optimum(batch: Batch, strength: float) -> tuple[float, np.ndarray]:
    """The least loss of a linear softmax with a penalty on its weights, and where, by scipy from formulas in NumPy."""
    x, y = batch.images.flatten(1).double().numpy(), batch.targets.double().numpy()

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = w[: K * D].reshape(K, D), w[K * D :]
        scores = x @ weight.T + bias
        scores = scores - scores.max(1, keepdims=True)
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        gradient = (p - y) / len(x)
        loss = -(y * np.log(p)).sum(1).mean() + strength * (weight**2).sum()
        return float(loss), np.concatenate([(gradient.T @ x + 2 * strength * weight).ravel(), gradient.sum(0)])

    found = minimize(value, np.zeros(K * D + K), jac=True, method="BFGS", options={"gtol": 1e-10})
    return float(found.fun), found.x


# ---- the Hessian -------------------------------------------------------------------------------------------------------------------


def loss_of(model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The loss as a function of the weights as one vector, by torch.func."""
    named = dict(model.named_parameters())

    def value(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in named.values()])
        given = {name: part.view(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}
        logits = torch.func.functional_call(model, given, (batch.images,))
        penalty = sum((given[name] ** 2).sum() for name in given if given[name].ndim > 1)
        return F.cross_entropy(logits, batch.targets) + 0.01 * penalty

    return value


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("make", [linear, small_net])
def test_hessian_and_products_are_torch_funcs(make: Callable[[], nn.Module], pieces: int) -> None:
    model = make()
    goal = objective(state_of(model, Newton(), pieces))
    weights = _flatten(p.detach() for p in model.parameters())
    expected = torch.func.hessian(loss_of(model, examples()))(weights)
    hessian = goal.hessian()
    assert torch.allclose(hessian, expected, atol=1e-12)
    v = torch.randn(len(weights), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.allclose(goal.hvp(v), expected @ v, atol=1e-12)
    slope = torch.func.grad(loss_of(model, examples()))
    differences = (slope(weights + 1e-5 * v) - slope(weights - 1e-5 * v)) / 2e-5
    assert torch.allclose(goal.hvp(v), differences, atol=1e-8)
    assert torch.equal(_flatten(p.detach() for p in model.parameters()), weights)


def test_products_see_the_noise_of_the_step_and_leave_batch_statistics() -> None:
    """With dropout, H v is the difference of gradients that see the same mask."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, K)).double()
    state = state_of(model, Newton(), pieces=2)
    goal, vector = objective(state), FlatParameters(model.parameters())
    goal()
    before = [b.clone() for b in model.buffers()]
    weights = vector.read()
    v = torch.randn(len(vector), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    product = goal.hvp(v)
    sides = []
    for side in (1e-6, -1e-6):
        vector.write(weights + side * v)
        goal()
        sides.append(vector.gradient())
    assert torch.allclose(product, (sides[0] - sides[1]) / 2e-6, atol=1e-6)
    assert float(product.norm()) > 0.1
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def test_frozen_parameters_have_no_curvature_and_stay() -> None:
    for part in PARTS:
        model = small_net()
        model[0].weight.requires_grad_(False)
        before = model[0].weight.detach().clone()
        state = state_of(model, part)
        if isinstance(part, Newton):
            hessian = objective(state).hessian()
            assert not hessian[:30].any()
            assert hessian[30:, 30:].any()
        losses = steps(state, 5)
        assert losses[-1] < losses[0] - 0.1, str(part)
        assert torch.equal(model[0].weight, before)


# ---- minima ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.item("S091")
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_newton_reaches_the_minimum_of_a_quadratic_in_one_step(n: int, condition: float) -> None:
    """theta = theta0 - H^-1 g with the settings it comes with, from anywhere, whatever the scale."""
    random = np.random.default_rng(n)
    turn = np.linalg.qr(random.normal(size=(n, n)))[0]
    a = turn @ np.diag(np.geomspace(1, condition, n)) @ turn.T
    center = random.normal(size=n)
    matrix, middle = torch.from_numpy(100 * (a + a.T) / 2), torch.from_numpy(center)

    class Goal:
        """A closure with an exact Hessian, as the objective is."""

        def __init__(self, model: Spot, optimizer: torch.optim.Optimizer) -> None:
            self.model, self.optimizer = model, optimizer

        def __call__(self) -> Tensor:
            self.optimizer.zero_grad()
            away = self.model.w - middle
            value = 0.5 * away @ matrix @ away + 7
            value.backward()  # type: ignore[no-untyped-call]
            return value

        def hessian(self) -> Tensor:
            return matrix

    model = Spot(10 * random.normal(size=n))
    optimizer = make_optimizer(model, Newton())
    optimizer.step(Goal(model, optimizer))  # type: ignore[arg-type]
    assert np.abs(model.w.detach().numpy() - center).max() < 1e-9 * condition


@pytest.mark.item("S091")
def test_newton_solves_least_squares_in_one_step_of_the_loop() -> None:
    """Through the objective: the mean squared error of a linear model is a quadratic; the answer is the normal equations'."""
    batch, model = examples(), linear()
    steps(state_of(model, Newton()), 1, batch, dataclasses.replace(PLAN, loss=Mse(), penalties=(L2(0.01),)))
    x = np.c_[batch.images.flatten(1).numpy(), np.ones(len(batch))]
    once = Mse()(torch.ones(1, K), torch.zeros(1, K)).item()  # the loss of K errors of 1: K, or 1 for a mean over them
    ridge = np.diag([0.01 * len(batch) / (once / K)] * D + [0.0])
    expected = np.linalg.solve(x.T @ x + ridge, x.T @ batch.targets.numpy())
    assert np.abs(model[1].weight.detach().numpy() - expected[:D].T).max() < 1e-9
    assert np.abs(model[1].bias.detach().numpy() - expected[D]).max() < 1e-9


def rosenbrock(w: Tensor) -> Tensor:
    return (100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2).sum()


@pytest.mark.parametrize("part", BY_NAME)
@pytest.mark.parametrize("n", [2, 6])
def test_rosenbrock_as_scipy(part: Optimizer, n: int) -> None:
    start = np.resize([-1.2, 1.0], n)
    name = {"Newton": "Newton-CG", "Bfgs": "BFGS", "Lbfgs": "L-BFGS-B"}[type(part).__name__]
    hessian = {"hess": rosen_hess} if name == "Newton-CG" else {}
    theirs = minimize(rosen, start, jac=rosen_der, method=name, options={"maxiter": 500}, **hessian)
    losses, found = descend(part, start, rosenbrock, 150)
    assert np.abs(found - theirs.x).max() < 1e-3
    assert losses[-1] <= theirs.fun + 1e-12
    assert all(after <= before for before, after in itertools.pairwise(losses)), "it never goes uphill"


@pytest.mark.parametrize("part", BY_NAME)
def test_a_quadratic_of_condition_1000(part: Optimizer) -> None:
    curvature = torch.from_numpy(np.geomspace(1e-3, 1, 20))
    losses, found = descend(part, np.ones(20), lambda w: 0.5 * (curvature * w**2).sum(), 150)
    assert losses[-1] < 1e-9 * losses[0]
    assert np.abs(found).max() < 1e-3


@pytest.mark.parametrize("part", BY_NAME)
def test_the_optimum_of_a_linear_softmax(part: Optimizer) -> None:
    least, where = softmax_optimum(examples(), 0.01)
    model = linear()
    losses = steps(state_of(model, part), 40)
    assert losses[-1] == pytest.approx(least, abs=1e-10)
    found = _flatten(p.detach() for p in model.parameters()).numpy()
    found[-K:] -= found[-K:].mean()  # the biases may all rise together for nothing
    where[-K:] -= where[-K:].mean()
    assert np.abs(found - where).max() < 1e-4
    assert all(after <= before for before, after in itertools.pairwise(losses))


@pytest.mark.parametrize("part", BY_NAME)
def test_in_fp32_the_optimum_is_reached_to_1e_6(part: Optimizer) -> None:
    batch = examples(dtype=torch.float32)
    least, _ = softmax_optimum(batch, 0.01)
    losses = steps(state_of(linear(torch.float32), part), 40, batch)
    assert abs(losses[-1] - least) < 1e-6


@pytest.mark.parametrize("part", BY_NAME)
def test_lowers_the_loss_of_a_small_net(part: Optimizer) -> None:
    losses = steps(state_of(small_net(torch.float32), part), 30, examples(dtype=torch.float32))
    assert losses[-1] < 0.7 * losses[0]
    assert all(after <= before for before, after in itertools.pairwise(losses))


@pytest.mark.parametrize("part", BY_NAME)
def test_pieces_give_the_same_step(part: Optimizer) -> None:
    whole, cut = small_net(), small_net()
    steps(state_of(whole, part), 4)
    steps(state_of(cut, part, pieces=4), 4)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("part", BY_NAME)
def test_channels_last_weights_take_the_same_steps(part: Optimizer) -> None:
    made = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, K)).double().to(memory_format=layout)
        batch = Batch(examples().images.view(90, 3, 2, 1).expand(-1, -1, -1, 2), examples().targets, torch.arange(90))
        steps(state_of(model, part), 4, batch)
        made.append(model[0].weight.detach())
    assert torch.allclose(made[0], made[1], atol=1e-9)


def test_newton_leaves_a_saddle_only_downhill() -> None:
    """Where the Hessian is not positive definite plain Newton would go to the saddle; damping makes the step a descent."""

    def saddle(w: Tensor) -> Tensor:
        return w[0] ** 2 - w[1] ** 2 + w[1] ** 4

    losses, found = descend(Newton(), np.array([1.0, 0.1]), saddle, 30)
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert found == pytest.approx([0, math.sqrt(0.5)], abs=1e-5)


# ---- the line search ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize(
    "function",
    [
        lambda t: -t / (t**2 + 2),
        lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
        lambda t: (t - 1) ** 2,
        lambda t: -np.log(1 - t) - 2 * t,
    ],
    ids=["more1", "more2", "parabola", "wall"],
)
def test_strong_wolfe_holds(function: Callable[[float], float], first: float) -> None:
    """The functions of More and Thuente 1994 among them; beyond the wall the loss is not a number."""

    def at(t: float) -> LinePoint:
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(function(np.float64(t)))
            slope = float((function(np.float64(t) + 1e-7) - function(np.float64(t) - 1e-7)) / 2e-7)
        return LinePoint(t, value, slope, torch.zeros(1))

    start = at(0.0)
    found = search_strong_wolfe(at, start, first)
    assert found.step > 0
    assert found.loss <= start.loss + 1e-4 * found.step * start.slope
    assert abs(found.slope) <= 0.9 * abs(start.slope)


def test_a_search_uphill_stays() -> None:
    start = LinePoint(0.0, 0.0, -1.0, torch.zeros(1))  # a slope that promises what no step keeps
    assert search_strong_wolfe(lambda t: LinePoint(t, 1.0, 1.0, torch.zeros(1)), start, 1.0) is start


# ---- state, cost, refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [*BY_NAME, pytest.param(Lbfgs(history=2), id="history2")])
def test_resume_is_bit_equal(part: Optimizer, tmp_path: Path) -> None:
    def fresh() -> State:
        return state_of(small_net(torch.float32), part)

    batch = examples(dtype=torch.float32)
    straight, first, second = fresh(), fresh(), fresh()
    steps(straight, 9, batch)
    steps(first, 4, batch)
    Checkpoints(tmp_path).save(first)
    Checkpoints(tmp_path).restore(second)
    assert second.step == 4
    steps(second, 5, batch)
    for a, b in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.model[0].weight, second.model[0].weight)
    if not isinstance(part, Newton):
        forgetful = fresh()
        forgetful.model.load_state_dict(first.model.state_dict())
        steps(forgetful, 5, batch)
        assert not torch.equal(forgetful.model[0].weight, second.model[0].weight), "what was learned matters"


def test_a_hessian_through_max_pooling_of_channels_last_maps() -> None:
    """torch has no rule for many of its backward passes at once; the rows come one by one, and are the same."""

    def hessian(layout: torch.memory_format) -> Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.LazyLinear(2)).double()
        images = torch.randn(8, 3, 6, 6, dtype=torch.float64)
        net(images)
        net = net.to(memory_format=layout)  # type: ignore[call-overload]
        batch = Batch(images.contiguous(memory_format=layout), F.one_hot(torch.arange(8) % 2, 2).double(), torch.arange(8))
        return objective(state_of(net, Newton()), batch).hessian()

    assert torch.allclose(hessian(torch.channels_last), hessian(torch.contiguous_format), atol=1e-12)


@pytest.mark.item("S092")
def test_memory_grows_with_the_square_of_n_or_with_n() -> None:
    """BFGS keeps N^2 numbers, Newton makes a Hessian of N^2, L-BFGS keeps 2 history N and no matrix."""
    kept: dict[str, list[int]] = {"bfgs": [], "lbfgs": [], "hessian": []}
    for n in (50, 100, 200):
        for name, part in (("bfgs", Bfgs()), ("lbfgs", Lbfgs(history=5))):
            model = Spot(np.ones(n))
            optimizer = make_optimizer(model, part)

            def closure(model: Spot = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
                optimizer.zero_grad()
                value = (model.w**2).cosh().sum() + model.w.sum() ** 2 + (torch.arange(len(model.w)) * model.w**4).sum()
                value.backward()  # type: ignore[no-untyped-call]
                return value

            for _ in range(12):
                optimizer.step(closure)
            values = [x for state in optimizer.state_dict()["state"].values() for x in state.values()]
            kept[name].append(sum(t.numel() for x in values for t in (x if isinstance(x, list) else [x])))
    for n in (50, 100, 200):
        model = nn.Sequential(nn.Flatten(), nn.Linear(n, 2, bias=False))
        batch = Batch(torch.randn(16, n, 1, 1), F.one_hot(torch.arange(16) % 2, 2).float(), torch.arange(16))
        kept["hessian"].append(objective(state_of(model, Newton()), batch).hessian().numel())
    assert kept["bfgs"] == [n**2 for n in (50, 100, 200)]
    assert kept["hessian"] == [(2 * n) ** 2 for n in (50, 100, 200)]
    assert kept["lbfgs"] == [2 * 5 * n for n in (50, 100, 200)]


class Work(TorchDispatchMode):
    """Counts multiply-adds: a third of n^3 for a Cholesky factor, m n k for a product of matrices, else one for each number touched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        shapes = [x.shape for x in tree_leaves((args, out)) if isinstance(x, Tensor)]
        name = func.overloadpacket.__name__
        if name == "linalg_cholesky_ex":
            self.count += args[0].shape[-1] ** 3 // 3
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            self.count += args[-2].shape.numel() * args[-1].shape[-1]
        elif not func.is_view:
            self.count += max((shape.numel() for shape in shapes), default=0)
        return out


@pytest.mark.item("S092")
def test_the_work_of_a_step_grows_with_n_its_square_or_its_cube() -> None:
    """L-BFGS: N. BFGS: N^2, for its direction and its correction. Newton: N^3, for solving its system."""

    def quasi_newton(part: Optimizer, n: int) -> int:
        optimizer: Any = make_optimizer(Spot(np.ones(n)), part)
        memory: dict[str, Any] = {}
        for count in range(8):
            step = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
            with Work() as work:
                optimizer.direction(memory, step)
                optimizer.update_memory(memory, step, step * torch.arange(1, n + 1))
        return work.count

    def newton(part: Optimizer, n: int) -> int:
        model = ExactModel(torch.eye(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64))
        with Work() as work:
            model.solve(0.1)
        return work.count

    for work_of, part, power in ((quasi_newton, Lbfgs(history=5), 1), (quasi_newton, Bfgs(), 2), (newton, Newton(), 3)):
        small, large = (work_of(part, n) for n in (500, 1000))
        assert math.log2(large / small) == pytest.approx(power, abs=0.05), part


@pytest.mark.item("S092")
def test_bfgs_corrects_by_rank_two_and_keeps_the_secant() -> None:
    """The slide says rank 1: each step changes the inverse Hessian by a matrix of rank 2, which maps the change to the step."""
    model = Spot(np.linspace(-1, 1, 8))
    optimizer = make_optimizer(model, Bfgs())
    random = torch.Generator().manual_seed(0)
    memory: dict[str, Any] = {}
    for count in range(5):
        step = torch.randn(8, generator=random, dtype=torch.float64)
        change = step * torch.arange(1, 9)
        before = memory["inverse"].clone() if memory else None
        optimizer.update_memory(memory, step, change)  # type: ignore[attr-defined]
        inverse = memory["inverse"]
        assert torch.allclose(inverse @ change, step, atol=1e-10)
        assert torch.allclose(inverse, inverse.T)
        assert float(torch.linalg.eigvalsh(inverse).min()) > 0
        if before is not None:
            assert int(torch.linalg.matrix_rank(inverse - before, atol=1e-9)) == 2, count


def test_bfgs_refuses_what_its_matrix_would_not_fit() -> None:
    with pytest.raises(UsageError, match=r"matrix of 28 x 28 numbers \(6\.3 kB\) for 28 parameters: expected at most 20; use lbfgs"):
        make_optimizer(linear(), Bfgs(most=20))


def test_sentences_of_wrong_use() -> None:
    for part in PARTS:
        optimizer = make_optimizer(linear(), part)
        with pytest.raises(UsageError, match=r"expected step\(closure\), received no closure"):
            optimizer.step()
        with pytest.raises(UsageError, match="expected no rates by stage"):
            make_optimizer(linear(), part, {"1": 0.1})
        two = [{"params": [p]} for p in linear().parameters()]
        with pytest.raises(UsageError, match="expected one parameter group, received 2"):
            part(two)
        assert type(part).full_batch
        assert not hasattr(part, "weight_decay")
        assert "l2(" in str(type(part).__doc__)


@pytest.mark.parametrize("part", BY_NAME)
def test_a_rate_of_zero_stands_still_and_a_smaller_one_steps_less(part: Optimizer) -> None:
    moved = []
    for rate in (0.0, 0.3, 1.0):
        model = linear()
        before = _flatten(p.detach().clone() for p in model.parameters())
        state = state_of(model, part)
        state.optimizer.param_groups[0]["lr"] = rate
        steps(state, 1)
        moved.append(float((_flatten(p.detach() for p in model.parameters()) - before).norm()))
    assert moved[0] == 0 < moved[1]
    assert moved[1] != moved[2]


# ---- from the command line ---------------------------------------------------------------------------------------------------------

FULL = {"optimizer": "lbfgs", "batch_size": "all", "budget": "6 steps", "schedule": "constant", "evaluate_every": "2 steps"}


@pytest.mark.item("S094")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augment": "flip | crop(2)"}, ["the augmentation flip | crop(2)", "--augment none"]),
        ({"model": "mlp((8,), drop=dropout(0.5))"}, ["drop=dropout in the model", '--model "mlp((8,))"']),
        ({"model": "mlp((8,), norm=batch)"}, ["norm=batch in the model", "--model", "norm=layer"]),
        ({"batch_size": "16"}, ["mini-batches of 16 of ", "--batch-size all"]),
        ({"clip": "1"}, ["clipping at 1", "--clip 0"]),
    ],
)
@pytest.mark.parametrize("optimizer", ["newton", "bfgs", "lbfgs"])
def test_noise_is_refused_in_a_sentence(photos: Path, tmp_path: Path, optimizer: str, changes: dict[str, str], said: list[str]) -> None:
    told = train(photos, tmp_path / "run", **{**FULL, **changes, "optimizer": optimizer})
    refused(told, 2, f"{optimizer} needs the same loss at every call", *said, "--noise allow")
    assert not (tmp_path / "run").exists()


@pytest.mark.item("S094")
def test_every_source_is_named_at_once_and_the_remedies_work(photos: Path, tmp_path: Path) -> None:
    noisy = {**FULL, "augment": "flip", "model": "convnet(4, drop=dropout(0.2))", "batch_size": "16", "clip": "1"}
    told = train(photos, tmp_path / "run", **noisy)
    refused(told, 2, "the augmentation flip, norm=batch", "drop=dropout(0.2) in the model", "mini-batches of 16", "clipping at 1")
    model = told.sentence.split('--model "')[1].split('"')[0]
    quiet = {**noisy, "augment": "none", "model": model, "batch_size": "all", "clip": "0", "budget": "2 steps"}
    assert train(photos, tmp_path / "run", **quiet).code == 0


@pytest.mark.item("S094")
def test_noise_may_be_allowed_with_a_warning(photos: Path, tmp_path: Path) -> None:
    told = train(photos, tmp_path / "run", **{**FULL, "batch_size": "16", "augment": "flip", "noise": "allow"})
    assert told.code == 0, told.err
    assert "Warning: lbfgs mistakes a loss that changes" in told.err
    assert "the augmentation flip, mini-batches of 16" in told.err
    assert "Warning" not in train(photos, tmp_path / "quiet", **FULL).err


def losses_of(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize("optimizer", ["newton(exact=0)", "bfgs(most=10000)", "lbfgs"])
def test_a_training_from_the_command_line(photos: Path, tmp_path: Path, optimizer: str) -> None:
    told = train(photos, tmp_path / "run", **{**FULL, "optimizer": optimizer})
    assert told.code == 0, told.err
    losses = losses_of(tmp_path / "run")
    assert len(losses) == 6
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.5 * losses[0]
    again = train(photos, tmp_path / "pieces", **{**FULL, "optimizer": optimizer, "pieces": "3"})
    assert again.code == 0
    assert losses_of(tmp_path / "pieces")[:2] == pytest.approx(losses[:2], rel=1e-3)


def test_a_large_batch_is_read_piece_by_piece(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images in each step and never all in memory: no read is larger than a piece, and the weights are the same."""
    words = {**FULL, "pieces": "4", "size": "16"}
    assert train(photos, tmp_path / "whole", **words).code == 0
    reads: list[int] = []
    rows = pixels.RawPixels.read

    def counted(self: pixels.RawPixels, wanted: Any) -> Tensor:
        reads.append(len(wanted))
        return rows(self, wanted)

    monkeypatch.setattr(loader, "MAX_EAGER_BYTES", 0)
    monkeypatch.setattr(pixels.RawPixels, "read", counted)
    monkeypatch.setattr(pixels.RawPixels, "read_exact", rows)
    assert train(photos, tmp_path / "parts", **words).code == 0
    assert max(reads) == 16
    assert len(reads) > 6 * 3
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_auto_goes_along_with_a_full_batch_optimizer(photos: Path, tmp_path: Path) -> None:
    told = goodfit("train", photos, "--optimizer", "lbfgs", "--budget", "5 steps", "--size", "16", "--out", tmp_path / "run", "-v")
    assert told.code == 0, told.err
    recipe = (tmp_path / "run" / "recipe.toml").read_text()
    for line in ('augment = "none"', 'batch_size = "all"', 'precision = "fp32"', "model = \"linear(he('in'))\"", 'schedule = "constant('):
        assert line in recipe
    assert "batch_size = all  (a full-batch optimizer needs all training images in each step" in told.err


def test_digits_with_a_linear_model(tmp_path: Path) -> None:
    """The example of the manual: twenty steps of L-BFGS on a linear model of the digits."""
    words = ("--model", "linear", "--optimizer", "lbfgs", "--augment", "none", "--budget", "20 steps", "--out", tmp_path / "run")
    assert goodfit("train", "digits", *words).code == 0
    run = Run(tmp_path / "run")
    assert losses_of(run.path)[-1] < 0.02
    assert run.read("scores.json")["validation"]["accuracy"] > 0.92
