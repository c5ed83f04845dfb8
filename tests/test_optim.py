"""Optimizers: laws over the whole catalog, the lecture's formulas in NumPy, and which parameters decay."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from goodfit.core.catalog import Catalog, Foreign, name_of
from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.weights import weights
from goodfit.optim.first_order import Adam, Adamw, Sgd
from goodfit.optim.groups import groups, optimizer_for, with_peaks
from goodfit.optim.sam import Sam

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
    return model.descend(optimizer_for(model, part), steps)


# ---- laws ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", OPTIMIZERS)
def test_lowers_a_quadratic(part: Optimizer) -> None:
    rates = {"sgd": 0.01, "adagrad": 1.0}  # adagrad's steps shrink, so it starts with long ones
    tried = dataclasses.replace(part, lr=rates.get(name_of(part), 0.05)) if hasattr(part, "lr") else part
    if isinstance(part, Sam):  # it circles the minimum at the distance rho
        tried = Sam(rho=1e-3, around=Sgd(0.01))
    path = descend(tried, 200)
    values = 0.5 * (STEEP * path**2).sum(axis=(1, 2))
    assert values[-1] < 1e-3 * values[0]


@pytest.mark.parametrize("part", OPTIMIZERS)
def test_fits_twenty_images(part: Optimizer) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 30, generator=random), torch.randint(0, 4, (20,), generator=random)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = optimizer_for(model, part)

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

    optimizer = optimizer_for(first, part)
    step(first, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state.update({name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)})
    second = copy.deepcopy(first)
    resumed = optimizer_for(second, part)
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
    (Adam(0.05, weight_decay=0.1), adam),
    (Adam(0.05, betas=(0.8, 0.9), eps=0.01), adam),
    (Adamw(0.05, weight_decay=0.1), adam),
]


@pytest.mark.item("S072", "S078", "S080", "S084")
@pytest.mark.parametrize(("part", "formula"), FORMULAS, ids=[str(part) for part, _ in FORMULAS])
def test_equals_the_formula(part: Optimizer, formula: Any) -> None:
    expected = formula(START, lambda w: STEEP * w, 50, part)
    np.testing.assert_allclose(descend(part, 50), expected, rtol=1e-12, atol=1e-14)


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


@pytest.mark.item("S079")
def test_momentum_is_nine_tenths_by_default() -> None:
    assert Sgd().momentum == 0.9


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
    assert list(weights(model)) == ["stem.weight", "head.weight"]
    decayed, spared = groups(model, Sgd(0.1, weight_decay=0.01))
    assert [id(p) for p in decayed["params"]] == [id(model.stem.weight), id(model.head.weight)]  # type: ignore[union-attr]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert len(spared["params"]) == 6
    assert all(group["peak"] == group["lr"] == 0.1 for group in (decayed, spared))


@pytest.mark.parametrize("part", OPTIMIZERS)
def test_peaks_are_kept_and_saved(part: Optimizer) -> None:
    optimizer = optimizer_for(net(), part)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * 0.5
    again = optimizer_for(net(), part)
    again.load_state_dict(optimizer.state_dict())
    assert all(group["lr"] == 0.5 * group["peak"] > 0 for group in again.param_groups)


def test_rates_by_stage() -> None:
    made = groups(net(), Sgd(0.1), {"stem": 0.1, "norm": 0.1})
    assert [(round(g["peak"], 6), g["weight_decay"] > 0, len(g["params"])) for g in made] == [
        (0.1, True, 1),
        (0.1, False, 3),
        (0.01, True, 1),
        (0.01, False, 3),
    ]
    assert sum(len(g["params"]) for g in made) == len(list(net().parameters()))


def test_torchs_own_optimizers_are_welcome() -> None:
    optimizer = optimizer_for(net(), Foreign("torch.optim.Adagrad", settings=(("lr", 0.02), ("weight_decay", 0.3))), {"stem": 0.5})  # type: ignore[arg-type]
    assert [(g["peak"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.02, 0.3), (0.02, 0.0), (0.01, 0.3), (0.01, 0.0)]
    plain = with_peaks(torch.optim.SGD(net().parameters(), lr=0.3))
    assert with_peaks(plain).param_groups[0]["peak"] == 0.3
