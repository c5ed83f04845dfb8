"""Taylor: first and second order steps, and Newton's method."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.lessons.descent import valley
from goodfit.lab.optimization import descend, hessian_of
from goodfit.optim.first_order import Sgd
from goodfit.optim.newton import Newton
from goodfit.report.charts import Chart

START, DIRECTION = (0.2, 0.9), (1.0, 0.5)
LENGTHS = (0.4, 0.2, 0.1, 0.05)
RATE, STEPS = 0.3, 20
CURVATURES, BOTTOM = (1.0, 25.0), (3.0, -2.0)  # of a quadratic


def expand(t: Tensor, start: Tensor, order: int) -> Tensor:
    """The Taylor expansion of the valley around `start` [2], at t [2]: J(t0) + (t - t0)' g, and + (t - t0)' H (t - t0) / 2."""
    moved = t - start
    gradient: Tensor = torch.func.grad(valley)(start)
    value: Tensor = valley(start) + moved @ gradient
    return value + 0.5 * moved @ hessian_of(valley, start) @ moved if order == 2 else value


def quadratic(w: Tensor) -> Tensor:
    """A quadratic of two curvatures, whose minimum is 0."""
    return 0.5 * (w.new_tensor(CURVATURES) * (w - w.new_tensor(BOTTOM)) ** 2).sum()


def teach() -> Lesson:
    """Compute the lesson."""
    start, direction = torch.tensor(START, dtype=torch.float64), torch.tensor(DIRECTION, dtype=torch.float64)
    errors = [[abs(float(valley(start + s * direction) - expand(start + s * direction, start, k))) for s in LENGTHS] for k in (1, 2)]
    rows = tuple((f"{s:g}", float(valley(start + s * direction)), errors[0][k], errors[1][k]) for k, s in enumerate(LENGTHS))
    by_newton = descend(Newton(), quadratic, [0.0, 0.0], 1)[-1]
    by_sgd = descend(Sgd(1 / max(CURVATURES)), quadratic, [0.0, 0.0], 1)[-1]
    # The gradient step is where the linear expansion, plus the squared length of the step over twice the rate, is lowest.
    step = descend(Sgd(RATE), valley, START, 1)[-1]
    trust = descend(Newton(), lambda t: expand(t, start, 1) + (t - start).square().sum() / (2 * RATE), START, 1)[-1]
    newton = [float(valley(w)) for w in descend(Newton(), valley, [0.0, 0.0], STEPS)]
    sgd = [float(valley(w)) for w in descend(Sgd(RATE), valley, [0.0, 0.0], STEPS)]
    return Lesson(
        "A gradient step minimizes a linear approximation, within reach; Newton's step, to the critical point of the second-order"
        " expansion, has no learning rate. Its Hessian has N^2 numbers, and inverting it takes N^3 operations.",
        "CS231n, second-order optimization",
        (
            Number("error of first order, from a step to half of it, falls by", errors[0][-2] / errors[0][-1], "", "tends to 4"),
            Number("error of second order, from a step to half of it, falls by", errors[1][-2] / errors[1][-1], "", "tends to 8"),
            Number("distance of a gradient step from the minimum of the linear expansion", float((step - trust).norm())),
            Number("loss of a quadratic after one Newton step", float(quadratic(by_newton))),
            Number("loss of it after one gradient step", float(quadratic(by_sgd))),
            Number(f"loss of the bent valley after {STEPS} Newton steps", newton[-1]),
            Number(f"loss of it after {STEPS} gradient steps", sgd[-1]),
        ),
        (Table("Taylor expansion of the bent valley", ("length", "loss", "error of first order", "error of second order"), rows),),
        (
            Chart(
                "Loss of the bent valley over the steps",
                (line("newton", [max(x, 1e-20) for x in newton], 0), line(f"sgd, rate {RATE:g}", sgd, 1)),
                x="step", y="loss", log=True,
            ),
        ),
    )  # fmt: skip
