"""Optimizers: laws over the whole catalog, the lecture's formulas in NumPy, and which parameters decay."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goodfit.core.catalog import Catalog
from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.parameters import weight_parameters
from goodfit.core.parts import ExternalPart
from goodfit.optim.first_order import Adagrad, Adam, Adamw, Rmsprop, Sgd
from goodfit.optim.groups import make_optimizer, parameter_groups, record_peak_rates
from goodfit.optim.muon import Muon, orthogonalize
from goodfit.optim.sam import Sam
from goodfit.recipe.build import build_optimizer
from goodfit.recipe.parts import with_lr
from goodfit.recipe.recipe import Recipe
from goodfit.training.checkpoint import Checkpoints
from goodfit.training.state import State

CATALOG = Catalog(["goodfit.optim"])
OPTIMIZERS = [pytest.param(cls(), id=name) for name, cls in CATALOG.kinds["optimizer"].items()]
Array = NDArray[np.float64]


class Point(nn.Module):
    """A model that is one point, with a function to lower."""

    def __init__(self, start: Array, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))
        self.loss = loss

    def descend(self, optimizer: torch.optim.Optimizer, steps: int) -> Array:
        """The points visited, the start first."""
        path = [self.w.detach().numpy().copy()]

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self.loss(self.w)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        for _ in range(steps):
            optimizer.step(closure)
            path.append(self.w.detach().numpy().copy())
        return np.array(path)


STEEP = np.array([1.0, 30.0])
START = np.array([[2.0, -1.0]])  # two dimensions: it is a weight and decays


def bowl(w: Tensor) -> Tensor:
    return 0.5 * (torch.from_numpy(STEEP) * w**2).sum()


def descend(part: Optimizer, steps: int, loss: Callable[[Tensor], Tensor] = bowl, start: Array = START) -> Array:
    model = Point(start, loss)
    return model.descend(make_optimizer(model, part), steps)


# ---- laws ------------------------------------------------------------------------------------------------------------------------


def at(part: Any, lr: float) -> Any:
    """The part at another rate, its own or that of the optimizer within."""
    return dataclasses.replace(part, around=at(part.around, lr)) if hasattr(part, "around") else dataclasses.replace(part, lr=lr)


def valley(w: Tensor) -> Tensor:
    """Rosenbrock's: a bent valley with its lowest point, 0, at (1, 1)."""
    return (1 - w[0, 0]) ** 2 + 100 * (w[0, 1] - w[0, 0] ** 2) ** 2


def slope(w: Tensor) -> Tensor:
    """A quadratic of condition number 1,000."""
    return 0.5 * (w[0, 0] ** 2 + 1000 * w[0, 1] ** 2)


def matrix(w: Tensor) -> Tensor:
    """A quadratic of a matrix, of condition number 100."""
    aim = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.3, 0.2], [0.0, 1.0, -2.0]], dtype=torch.float64)
    return 0.5 * (torch.tensor([[1.0], [0.3], [0.1]], dtype=torch.float64) * (w - aim)).square().sum()


SURFACES: dict[str, tuple[Callable[[Tensor], Tensor], Array, float]] = {
    "rosenbrock": (valley, np.array([[-1.2, 1.0]]), 1.5),
    "condition number 1,000": (slope, np.array([[30.0, 1.0]]), 1.0),
    "matrix": (matrix, np.zeros((3, 3)), 0.02),
}
RATES = (0.5, 0.001, 3.0, 0.03)  # the likeliest first


def with_momentum(part: Any) -> Any:
    """The part with momentum where it has a setting for it: plain SGD is too slow for these surfaces."""
    if hasattr(part, "around"):
        return dataclasses.replace(part, around=with_momentum(part.around))
    return dataclasses.replace(part, momentum=0.9) if isinstance(part, Sgd) else part


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("part", OPTIMIZERS)
@pytest.mark.thorough
def test_lowers_a_surface(part: Optimizer, name: str) -> None:
    """At one rate of a wide choice, annealed to zero, from a loss of 24.2, 950 and 3.5."""
    loss, start, low = SURFACES[name]
    if isinstance(part, Muon) and len(start) == 1:
        pytest.skip("the orthogonal matrix nearest to a single row is that row at length 1: no more than sign descent")
    part, reached = with_momentum(part), []
    for rate in (None,) if part.full_batch else RATES:
        model = Point(start, loss)
        optimizer = make_optimizer(model, part if rate is None else at(part, rate))
        for k in range(100 if part.full_batch else 800):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1 if part.full_batch else 1 - k / 800)
            model.descend(optimizer, 1)
        reached.append(loss(model.w).item())
        if reached[-1] < low:
            return
    raise AssertionError(f"reached only {reached}")


@pytest.mark.parametrize("part", OPTIMIZERS)
def test_fits_twenty_images(part: Optimizer) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 30, generator=random), torch.randint(0, 4, (20,), generator=random)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = make_optimizer(model, part)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(30 if part.full_batch else 150):
        optimizer.step(closure)
    assert (model(x).argmax(dim=1) == y).all()


@pytest.mark.parametrize("part", OPTIMIZERS)
def test_loaded_state_is_laid_out_as_the_weights_are(part: Optimizer) -> None:
    """Fused kernels would read a contiguous momentum beside channels_last weights in the wrong order, without a word."""
    torch.manual_seed(0)
    first = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)

    optimizer = make_optimizer(first, part)
    step(first, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state.update({name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)})
    second = copy.deepcopy(first)
    resumed = make_optimizer(second, part)
    resumed.load_state_dict(saved)
    step(first, optimizer)
    step(second, resumed)
    assert torch.equal(first.weight, second.weight)
    assert first.weight.stride() == second.weight.stride()


# ---- the lecture's formulas ------------------------------------------------------------------------------------------------------


def sgd(w: Array, gradient: Callable[[Array], Array], steps: int, part: Sgd) -> Array:
    """Momentum as the slides write it; Nesterov with the gradient really taken at the look-ahead."""
    path, v, look = [w], np.zeros_like(w), w
    for _ in range(steps):
        g = gradient(look if part.nesterov else w) + part.weight_decay * (look if part.nesterov else w)
        v = part.momentum * v - part.lr * g
        w = w + v
        look = w + part.momentum * v
        path.append(look if part.nesterov else w)  # torch keeps the look-ahead as its parameter (change of variables)
    return np.array(path)


def velocity(w: Array, gradient: Callable[[Array], Array], steps: int, part: Sgd) -> Array:
    """The slides' first form: v = alpha v - lr g, W = W + v."""
    path, v, look = [w], np.zeros_like(w), w
    for _ in range(steps):
        at = look if part.nesterov else w
        v = part.momentum * v - part.lr * (gradient(at) + part.weight_decay * at)
        w = w + v
        look = w + part.momentum * v
        path.append(look if part.nesterov else w)
    return np.array(path)


def adagrad(w: Array, gradient: Callable[[Array], Array], steps: int, part: Adagrad) -> Array:
    path, h = [w], np.zeros_like(w)
    for _ in range(steps):
        g = gradient(w) + part.weight_decay * w
        h = h + g**2
        w = w - part.lr * g / (np.sqrt(h) + part.eps)
        path.append(w)
    return np.array(path)


def rmsprop(w: Array, gradient: Callable[[Array], Array], steps: int, part: Rmsprop) -> Array:
    path, h, v = [w], np.zeros_like(w), np.zeros_like(w)
    for _ in range(steps):
        g = gradient(w) + part.weight_decay * w
        h = part.alpha * h + (1 - part.alpha) * g**2
        v = part.momentum * v + g / (np.sqrt(h) + part.eps)
        w = w - part.lr * v
        path.append(w)
    return np.array(path)


def almost_adam(w: Array, gradient: Callable[[Array], Array], steps: int, part: Adam) -> Array:
    path, m, v = [w], np.zeros_like(w), np.zeros_like(w)
    for _ in range(steps):
        g = gradient(w) + part.weight_decay * w
        m, v = part.betas[0] * m + (1 - part.betas[0]) * g, part.betas[1] * v + (1 - part.betas[1]) * g**2
        w = w - part.lr * m / (np.sqrt(v) + part.eps)
        path.append(w)
    return np.array(path)


def sam(w: Array, gradient: Callable[[Array], Array], steps: int, part: Sam) -> Array:
    inner: Any = part.around
    path, v = [w], np.zeros_like(w)
    for _ in range(steps):
        g = gradient(w)
        g = gradient(w + part.rho * g / np.linalg.norm(g)) + inner.weight_decay * w
        v = inner.momentum * v + g
        w = w - inner.lr * v
        path.append(w)
    return np.array(path)


def newton_schulz(x: Array, rounds: int) -> Array:
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(rounds):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x


def muon(w: Array, gradient: Callable[[Array], Array], steps: int, part: Muon) -> Array:
    path, v = [w], np.zeros_like(w)
    for _ in range(steps):
        g = gradient(w)
        v = part.momentum * v + (1 - part.momentum) * g
        ahead = (1 - part.momentum) * g + part.momentum * v if part.nesterov else v
        longer = np.sqrt(max(1, w.shape[0] / w.shape[1]))
        w = (1 - part.lr * part.weight_decay) * w - part.lr * longer * newton_schulz(ahead, part.rounds)
        path.append(w)
    return np.array(path)


def adam(w: Array, gradient: Callable[[Array], Array], steps: int, part: Adam | Adamw) -> Array:
    path, m, v = [w], np.zeros_like(w), np.zeros_like(w)
    (b1, b2), coupled = part.betas, isinstance(part, Adam)
    for t in range(1, steps + 1):
        g = gradient(w) + (part.weight_decay * w if coupled else 0)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        decay = 0 if coupled else part.lr * part.weight_decay * w
        w = w - decay - part.lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + part.eps)
        path.append(w)
    return np.array(path)


FORMULAS: list[tuple[Any, Any]] = [
    (Sgd(0.01, momentum=0.0, weight_decay=0.1), sgd),
    (Sgd(0.01, momentum=0.9, weight_decay=0.1), sgd),
    (Sgd(0.01, momentum=0.9, nesterov=True, weight_decay=0.1), sgd),
    (Sgd(0.01, momentum=0.9, weight_decay=0.1, form="velocity"), velocity),
    (Sgd(0.01, momentum=0.9, nesterov=True, weight_decay=0.1, form="velocity"), velocity),
    (Adagrad(0.3, weight_decay=0.1), adagrad),
    (Adagrad(0.3, eps=0.01), adagrad),
    (Rmsprop(0.05, alpha=0.9, weight_decay=0.1), rmsprop),
    (Rmsprop(0.05, eps=0.01, momentum=0.5), rmsprop),
    (Adam(0.05, bias_correction=False, weight_decay=0.1), almost_adam),
    (Sam(0.1, around=Sgd(0.01, weight_decay=0.1)), sam),
    (Muon(0.05, weight_decay=0.1), muon),
    (Muon(0.05, momentum=0.8, nesterov=False, rounds=3), muon),
    (Adam(0.05, weight_decay=0.1), adam),
    (Adam(0.05, betas=(0.8, 0.9), eps=0.01), adam),
    (Adamw(0.05, weight_decay=0.1), adam),
]


@pytest.mark.item("S072", "S078", "S080", "S081", "S082", "S083", "S084")
@pytest.mark.parametrize(("part", "formula"), FORMULAS, ids=[str(part) for part, _ in FORMULAS])
def test_equals_the_formula(part: Optimizer, formula: Any) -> None:
    expected = formula(START, lambda w: STEEP * w, 50, part)
    rounding = 1e-9 if isinstance(part, Sam) else 1e-12  # near the minimum the direction to climb hangs on small differences
    np.testing.assert_allclose(descend(part, 50), expected, rtol=rounding, atol=1e-14)


@pytest.mark.item("S072")
def test_a_step_of_sgd_goes_down() -> None:
    path = descend(Sgd(0.01, momentum=0, weight_decay=0), 1)
    np.testing.assert_allclose(path[1], START - 0.01 * STEEP * START)  # the slide's code adds, which would climb


@pytest.mark.item("S078")
def test_momentum_of_the_slide() -> None:
    slopes = iter([1.0, 0.5, 0.25, 0.125])
    path = descend(Sgd(1.0, momentum=0.9, weight_decay=0), 4, lambda w: (w * next(slopes)).sum(), np.zeros((1, 1)))
    np.testing.assert_allclose(np.diff(path.ravel()), [-1, -1.4, -1.51, -1.484])
    v, w, other = 0.0, 0.0, []  # the slides' second form: v = rho v + g, x = x - lr v
    for g in (1.0, 0.5, 0.25, 0.125):
        v = 0.9 * v + g
        w -= v
        other.append(w)
    np.testing.assert_allclose(path.ravel()[1:], other)


@pytest.mark.item("S078")
def test_the_forms_of_momentum_part_when_the_rate_changes() -> None:
    """Equal at a constant rate; after a cut the velocity that holds the rate goes on as before for a while."""
    one, other = descend(Sgd(0.01, momentum=0.9), 30), descend(Sgd(0.01, momentum=0.9, form="velocity"), 30)
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)
    moves = []
    for form in ("step", "velocity"):
        model = Point(np.zeros((1, 1)), lambda w: w.sum())
        optimizer = make_optimizer(model, Sgd(1.0, momentum=0.5, weight_decay=0, form=form))  # type: ignore[arg-type]
        model.descend(optimizer, 2)
        optimizer.param_groups[0]["lr"] = 0.1
        moves.append(np.diff(model.descend(optimizer, 1).ravel())[0])
    np.testing.assert_allclose(moves, [-0.1 * 1.75, -(0.5 * 1.5 + 0.1)])


@pytest.mark.item("S080")
def test_nesterov_by_hand() -> None:
    """Two steps on f = w^2 / 2 from 1, lr .1, momentum .9, at the look-ahead: 1 -> .81 -> .5751 (w itself: .9, .729)."""
    for form in ("step", "velocity"):
        part = Sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0, form=form)  # type: ignore[arg-type]
        path = descend(part, 2, lambda w: 0.5 * w.square().sum(), np.ones((1, 1)))
        v1 = -0.1
        w1 = 1 + v1
        look1 = w1 + 0.9 * v1
        v2 = 0.9 * v1 - 0.1 * look1
        np.testing.assert_allclose(path.ravel(), [1, look1, w1 + v2 + 0.9 * v2], rtol=1e-12)
        assert path.ravel()[1:] == pytest.approx([0.81, 0.5751])


def test_newton_schulz_makes_singular_values_nearly_one() -> None:
    for shape in ((5, 5), (3, 40), (40, 3)):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        u, s, vt = torch.linalg.svd(x, full_matrices=False)
        made = orthogonalize(x)
        mixed = u.T @ made @ vt.T
        torch.testing.assert_close(mixed, torch.diag(mixed.diagonal()), atol=1e-10, rtol=0)  # the same singular vectors
        assert s.max() / s.min() > 1.2 and 0.6 < mixed.diagonal().min() <= mixed.diagonal().max() < 1.25


def test_newton_schulz_in_bfloat16_rounds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipe's precision is bf16 muon iterates in it, and elsewhere not."""
    x = torch.randn((20, 60), generator=torch.Generator().manual_seed(0))
    exact, rounded = orthogonalize(x, 3), orthogonalize(x, 3, bf16=True)
    assert rounded.dtype == torch.float32 and 0 < float((rounded - exact).norm() / exact.norm()) < 0.05
    asked: list[bool] = []
    monkeypatch.setattr("goodfit.optim.muon.orthogonalize", lambda matrix, rounds, bf16: (asked.append(bf16), matrix)[1])
    for precision in ("bf16", "fp32"):
        model = nn.Linear(3, 4, bias=False)
        optimizer = build_optimizer(Muon(0.02), model, {}, precision)
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert asked == [True, False]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_muon_is_torchs_to_its_rounding() -> None:
    """Torch iterates in bfloat16 and takes matrices only."""
    torch.manual_seed(0)
    ours = nn.Linear(12, 30, bias=False)
    theirs = copy.deepcopy(ours)
    x = torch.randn(16, 12)
    first = make_optimizer(ours, Muon(0.02, weight_decay=0.1))
    second = torch.optim.Muon(theirs.parameters(), lr=0.02, weight_decay=0.1)
    start = ours.weight.detach().clone()
    for _ in range(5):
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    gap = (ours.weight - theirs.weight).norm() / (ours.weight - start).norm()
    assert float(gap.detach()) < 0.02


def test_muon_takes_filters_as_rows_and_leaves_the_rest_to_another() -> None:
    model = net()
    optimizer = make_optimizer(model, Muon(0.02, weight_decay=0.3, rest=Adamw(0.005, weight_decay=0.1)), {"head": 0.5})
    sizes = [(g["peak"], g["weight_decay"], sum(p.numel() for p in g["params"])) for g in optimizer.param_groups]
    norms = 4 + 4 + 2 * 4 * 6 * 6 + 4  # batch norm, layer norm (of three dimensions, but no weight), and the stem's bias
    assert sizes == [(0.02, 0.3, 4 * 27), (0.01, 0.3, 8), (0.005, 0.0, norms), (0.0025, 0.0, 2)]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["peak"]
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    optimizer.step()
    moved = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    assert isinstance(model.stem, nn.Conv2d) and model.stem.weight.grad is not None
    matrix = (moved["stem.weight"] - 0.01 * 0.3 * before["stem.weight"]).reshape(4, 27) / 0.01
    expected = newton_schulz((1 - 0.95**2) * model.stem.weight.grad.reshape(4, 27).double().numpy(), 5)
    np.testing.assert_allclose(matrix, expected, atol=1e-4)
    assert moved["norm.bias"].abs().numpy() == pytest.approx(0.0025, rel=1e-3), "adamw's first step, at half its peak"
    assert moved["head.bias"].abs().numpy() == pytest.approx(0.00125, rel=1e-3)


def test_muon_leaves_the_first_and_the_last_of_three_layers_to_the_rest() -> None:
    """And of two layers none, for else there would be nothing left to it."""
    cases = itertools.product(((3, [(6, 5)]), (2, [(5, 4), (6, 5)]), (1, [(5, 4)])), (lambda muon: muon, lambda muon: Sam(around=muon)))
    for (layers, own), part in cases:
        sides = [4, 5, 6, 7][: layers + 1]
        model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sides)))
        optimizer = make_optimizer(model, part(Muon(0.02, rest=Adamw(0.005), hidden_only=True)))
        shapes = {
            peak: [tuple(p.shape) for g in optimizer.param_groups if g["peak"] == peak for p in g["params"]] for peak in (0.02, 0.005)
        }
        assert shapes[0.02] == own
        assert len(shapes[0.02]) + len(shapes[0.005]) == 2 * layers
    deep = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    for optimizer in (Sgd(0.1), Muon(0.02)):
        assert all("hidden" not in group for group in parameter_groups(deep, optimizer)), "unless asked"


def test_sam_calls_twice_reports_the_first_loss_and_restores_exactly() -> None:
    model = Point(START, bowl)
    optimizer = make_optimizer(model, Sam(0.1, around=Sgd(1e-300, momentum=0, weight_decay=0)))
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = bowl(model.w)
        value.backward()  # type: ignore[no-untyped-call]
        seen.append((value.item(), model.w.detach().numpy().copy()))
        return value

    assert optimizer.step(closure).item() == seen[0][0]  # type: ignore[call-overload, union-attr]
    assert len(seen) == 2 and np.array_equal(model.w.detach().numpy(), START)
    assert np.linalg.norm(seen[1][1] - START) == pytest.approx(0.1)
    with pytest.raises(UsageError, match="twice a step"):
        optimizer.step()


@pytest.mark.item("S079")
def test_sgd_alone_is_plain_and_a_default_training_has_momentum_of_nine_tenths() -> None:
    assert (Sgd().momentum, Sgd().weight_decay) == (0, 0)
    assert "momentum=0.9" in str(with_lr(Recipe(), 0.1).optimizer)


@pytest.mark.item("S079")
def test_plain_sgd_is_slow_where_the_loss_is_steep_in_one_direction_and_flat_in_another() -> None:
    ends = [descend(Sgd(0.001, momentum=momentum), 800, slope, np.array([[30.0, 1.0]]))[-1] for momentum in (0.0, 0.9)]
    assert abs(ends[0][0, 0]) > 10 and abs(ends[1][0, 0]) < 0.1


@pytest.mark.item("S084")
def test_first_step_of_adam_is_the_learning_rate() -> None:
    path = descend(Adam(0.001), 1)
    np.testing.assert_allclose(path[1] - path[0], -0.001 * np.sign(START), rtol=1e-6)


@pytest.mark.item("S075")
@pytest.mark.parametrize(("lr", "last"), [(0.0199, 0.366), (0.0201, 2.705)])
def test_the_steep_direction_bounds_the_learning_rate(lr: float, last: float) -> None:
    def slide(w: Tensor) -> Tensor:
        return 0.5 * (w[0, 0] ** 2 + 100 * w[0, 1] ** 2)

    path = descend(Sgd(lr, momentum=0, weight_decay=0), 100, slide, np.ones((1, 2)))
    assert abs(path[-1, 0, 1]) == pytest.approx(last, abs=1e-3)


@pytest.mark.item("S076")
def test_gradient_descent_stays_on_the_ridge_of_a_saddle() -> None:
    path = descend(Sgd(0.1, momentum=0, weight_decay=0), 100, lambda w: w[0, 0] ** 2 - w[0, 1] ** 2, np.array([[1.0, 0.0]]))
    assert abs(path[-1, 0, 0]) < 1e-9
    assert not path[:, 0, 1].any()


@pytest.mark.item("S090")
def test_steps_shrink_toward_the_minimum() -> None:
    path = descend(Sgd(0.01, momentum=0, weight_decay=0), 50)
    lengths = np.linalg.norm(np.diff(path[:, 0], axis=0), axis=1)
    assert (np.diff(lengths) < 0).all()


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="nesterov"):
        Sgd(momentum=0.0, nesterov=True)
    with pytest.raises(UsageError, match="momentum"):
        Sgd(momentum=1.0)
    for text in ("sam(around=lbfgs)", "sam(around=sam)", "muon(rest=newton)", "muon(rest=sam(around=adam))"):
        with pytest.raises(UsageError, match="does not evaluate the loss itself, such as sgd, received"):
            CATALOG.make(text, "optimizer")
    assert CATALOG.make("sam(0.1, around=muon(rest=torch.optim.NAdam(lr=0.01)))", "optimizer")
    with pytest.raises(UsageError, match="betas"):
        Adam(betas=(0.9, 1.0))


# ---- groups ----------------------------------------------------------------------------------------------------------------------


def net() -> nn.Module:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 3))
    model.add_module("norm", nn.BatchNorm2d(4))
    model.add_module("layer_norm", nn.LayerNorm((4, 6, 6)))  # two and more dimensions, and yet no weight
    model.add_module("head", nn.Linear(4, 2))
    return model


def test_decay_is_for_weights_only() -> None:
    model = net()
    assert list(weight_parameters(model)) == ["stem.weight", "head.weight"]
    decayed, spared = parameter_groups(model, Sgd(0.1, weight_decay=0.01))
    assert [id(p) for p in decayed["params"]] == [id(model.stem.weight), id(model.head.weight)]  # type: ignore[union-attr]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert len(spared["params"]) == 6
    assert all(group["peak"] == group["lr"] == 0.1 for group in (decayed, spared))


@pytest.mark.parametrize("part", OPTIMIZERS)
def test_peaks_are_kept_and_saved(part: Optimizer) -> None:
    optimizer = make_optimizer(net(), part)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * 0.5
    again = make_optimizer(net(), part)
    again.load_state_dict(optimizer.state_dict())
    assert all(group["lr"] == 0.5 * group["peak"] > 0 for group in again.param_groups)


def test_rates_by_stage() -> None:
    made = parameter_groups(net(), Sgd(0.1, weight_decay=0.01), {"stem": 0.1, "norm": 0.1})
    assert [(round(g["peak"], 6), g["weight_decay"] > 0, len(g["params"])) for g in made] == [
        (0.1, True, 1),
        (0.1, False, 3),
        (0.01, True, 1),
        (0.01, False, 3),
    ]
    assert sum(len(g["params"]) for g in made) == len(list(net().parameters()))


def test_torchs_own_optimizers_are_welcome() -> None:
    optimizer = make_optimizer(net(), ExternalPart("torch.optim.Adagrad", settings=(("lr", 0.02), ("weight_decay", 0.3))), {"stem": 0.5})  # type: ignore[arg-type]
    assert [(g["peak"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.02, 0.3), (0.02, 0.0), (0.01, 0.3), (0.01, 0.0)]
    plain = record_peak_rates(torch.optim.SGD(net().parameters(), lr=0.3))
    assert record_peak_rates(plain).param_groups[0]["peak"] == 0.3


# ---- resume ----------------------------------------------------------------------------------------------------------------------

NESTED = [
    Sgd(0.05, momentum=0.9, nesterov=True, form="velocity"), Adam(bias_correction=False), Sgd(0.05),
    Sam(around=Muon(0.01)), Sam(around=Adamw()),
    Muon(rest=Sgd(0.05, momentum=0.9, nesterov=True)), Muon(rest=Adagrad()), Muon(rest=Adam(bias_correction=False)),
]  # fmt: skip


def begin(part: Optimizer, seed: int) -> State:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2 * 4, 3)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State.start(model, make_optimizer(model, part))


def train(state: State, steps: int, whole: bool) -> None:
    """Steps on batches that are functions of the step alone, at rates that change."""
    for _ in range(steps):
        generator = torch.Generator().manual_seed(0 if whole else state.step)
        images = torch.randn(12, 2, 4, 4, generator=generator).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, 3, (12,), generator=generator)

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            state.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(state.model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        for group in state.optimizer.param_groups:
            group["lr"] = group["peak"] * (1 - 0.05 * state.step)
        state.optimizer.step(closure)  # type: ignore[arg-type]
        state.step += 1


@pytest.mark.parametrize("part", [*OPTIMIZERS, *(pytest.param(part, id=str(part)) for part in NESTED)])
def test_resume_is_bit_equal(part: Optimizer, tmp_path: Path) -> None:
    """Five steps, a checkpoint on disk, five more: in fresh objects the weights of the run that was never stopped."""
    whole = begin(part, 0)
    start = [p.detach().clone() for p in whole.model.parameters()]
    train(whole, 5, part.full_batch)
    Checkpoints(tmp_path).save(whole)
    again = begin(part, 1)
    assert Checkpoints(tmp_path).restore(again) == []
    for state in (whole, again):
        train(state, 5, part.full_batch)
    for one, other, old in zip(whole.model.parameters(), again.model.parameters(), start, strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()
        assert not torch.equal(one, old), "every parameter moves"
    assert all(a["lr"] == b["lr"] for a, b in zip(whole.optimizer.param_groups, again.optimizer.param_groups, strict=True))
