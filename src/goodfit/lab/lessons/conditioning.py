"""Condition number: how slow gradient descent is, by the singular values of the Hessian."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import descend, hessian_of, steps_until
from goodfit.losses.mse import Mse
from goodfit.optim.first_order import Sgd
from goodfit.optim.newton import Newton
from goodfit.report.charts import Chart, Series, run_style

CONDITIONS, STEPS, TOLERANCE = (1.0, 10.0, 100.0), 1000, 1e-6
START = (1.0, 1.0)


def condition_number(hessian: Tensor) -> float:
    """The ratio of the largest to the smallest singular value of a Hessian [N, N]."""
    values = torch.linalg.svdvals(hessian)
    return float(values.max() / values.min())


def make_quadratic(condition: float) -> tuple[Tensor, float]:
    """A Hessian [2, 2] of a condition number, turned by 30 degrees, and its largest singular value."""
    turn = torch.tensor([[0.75**0.5, -0.5], [0.5, 0.75**0.5]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor([condition, 1.0], dtype=torch.float64)) @ turn.T, condition


def teach() -> Lesson:
    """Compute the lesson."""
    rows: list[tuple[str | float, ...]] = []
    curves, tracks = [], []
    for place, condition in enumerate(CONDITIONS):
        hessian, largest = make_quadratic(condition)

        def loss(w: Tensor, hessian: Tensor = hessian) -> Tensor:
            return 0.5 * w @ hessian @ w

        found = condition_number(hessian_of(loss, torch.zeros(2, dtype=torch.float64)))
        path = descend(Sgd(2 / (largest + 1)), loss, START, STEPS)  # the rate that contracts fastest
        too_fast = descend(Sgd(2.02 / largest), loss, START, STEPS)
        distances = [float(w.norm()) for w in path]
        by_newton = [float(w.norm()) for w in descend(Newton(), loss, START, 2)]
        grows = "grows" if float(too_fast[-1].norm()) > float(too_fast[0].norm()) else "falls"
        rows.append(
            (
                f"{condition:g}",
                found,
                (found - 1) / (found + 1),
                steps_until(distances, TOLERANCE),
                steps_until(by_newton, TOLERANCE),
                grows,
            )
        )
        label = f"condition {condition:g}"
        curves.append(line(label, [max(x, 1e-17) for x in distances[:150]], place))
        tracks.append(Series(label, [(float(x), float(y)) for x, y in path[:40]], run_style(place)))
    raw, scaled = condition_of_inputs()
    header = ("asked for", "condition number", "contraction a step", "steps of sgd", "steps of newton", "distance beyond 2 / largest")
    return Lesson(
        "Where the loss changes quickly in one direction and slowly in another, gradient descent jitters along the steep one and creeps"
        " along the shallow one: its Hessian has a high condition number, the ratio of its largest to its smallest singular value.",
        "CS231n, optimization",
        (
            Number("condition number, inputs of sizes 1 and 30", raw),
            Number("condition number, the same inputs normalized", scaled, "", "why pixels are normalized"),
        ),
        (Table(f"Steps to {TOLERANCE:g} from the minimum", header, tuple(rows)),),
        (
            Chart("Distance from the minimum", tuple(curves), x="step", y="distance", log=True),
            Chart("The way to the minimum", tuple(tracks), x="w0", y="w1", height=360),
        ),
    )


def _squared_error(x: Tensor, targets: Tensor, w: Tensor) -> Tensor:
    """The mean squared error of a linear model with weights [N]."""
    return Mse()(x @ w[:, None], targets).mean()


def condition_of_inputs() -> tuple[float, float]:
    """The condition number of the mean squared error of a linear model, with two inputs of sizes 1 and 30, as they are and normalized."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 2, generator=generator).double() * torch.tensor([1.0, 30.0], dtype=torch.float64)
    targets = torch.zeros(200, 1, dtype=torch.float64)  # the Hessian does not depend on them
    conditions = []
    for x in (inputs, (inputs - inputs.mean(0)) / inputs.std(0)):
        hessian = hessian_of(functools.partial(_squared_error, x, targets), torch.zeros(2, dtype=torch.float64))
        conditions.append(condition_number(hessian))
    return conditions[0], conditions[1]
