"""Universal approximation: one hidden layer comes nearer to a sine the wider it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from goodfit.core.words import count_of
from goodfit.inspection.chance import OwnChance
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import descend
from goodfit.layers.activation import Tanh
from goodfit.losses.mse import Mse
from goodfit.optim.bfgs import Bfgs
from goodfit.report.charts import Chart

WIDTHS, STEPS = range(1, 8), 100
DRAWN_WIDTHS = (1, 2, 7)
INTERVAL, PLACES = 2 * math.pi, 101
X = torch.linspace(-INTERVAL, INTERVAL, PLACES, dtype=torch.float64)
ACT = Tanh()()


def approximate(weights: Tensor) -> Tensor:
    """The outputs [PLACES] of a net with one hidden layer of `width` units, from its 3 width + 1 weights."""
    width = len(weights) // 3
    slopes, shifts, outs = weights[:-1].view(3, width)
    outputs: Tensor = ACT(X[:, None] * slopes + shifts) @ outs + weights[-1]
    return outputs


def error_of(weights: Tensor) -> Tensor:
    """The mean squared distance from the sine over the interval."""
    return Mse()(approximate(weights)[None], X.sin()[None]).sum()


def fit_widths() -> dict[int, Tensor]:
    """The weights [3 width + 1] of a net of each width, which begins as the one before ended, with another unit that adds nothing yet."""
    fitted, units, constant = {}, torch.zeros(3, 0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    with OwnChance(0).active():
        for width in WIDTHS:
            new = torch.cat([torch.randn(2, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)])
            start = torch.cat([torch.cat([units, new], dim=1).flatten(), constant])
            fitted[width] = descend(Bfgs(), error_of, start.tolist(), STEPS)[-1]
            units, constant = fitted[width][:-1].view(3, width), fitted[width][-1:]
    return fitted


def teach() -> Lesson:
    """Compute the lesson."""
    weights = fit_widths()
    errors = {width: float(error_of(w)) for width, w in weights.items()}
    curves = [line("sine", X.sin().tolist(), 0, X.tolist())]
    curves += [
        line(count_of(width, "unit"), approximate(weights[width]).tolist(), k + 1, X.tolist())
        for k, width in enumerate(WIDTHS)
        if width in DRAWN_WIDTHS
    ]
    return Lesson(
        "A multilayer perceptron with one hidden layer approximates every continuous function on an interval as closely as one likes, if it"
        " is wide enough and its activation is, for example, a sigmoid.",
        "CS231n, neural networks (universal approximation theorem)",
        (
            Number(f"mean squared error of {WIDTHS[0]} unit", errors[WIDTHS[0]]),
            Number(f"mean squared error of {WIDTHS[-1]} units", errors[WIDTHS[-1]]),
        ),
        (Table("Fit of sin x, two periods", ("hidden units", "mean squared error"), tuple((str(k), x) for k, x in errors.items())),),
        (
            Chart("sin x by one hidden layer", tuple(curves), x="x", y="y"),
            Chart(
                "Error by width",
                (line("mean squared error", list(errors.values()), 0, list(WIDTHS)),),
                x="hidden units",
                y="error",
                log=True,
            ),
        ),
    )
