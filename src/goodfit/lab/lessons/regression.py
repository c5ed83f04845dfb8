"""Linear regression: the closed form against iterating."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodfit.lab.lesson import Lesson, Number, Rows, Table, line
from goodfit.lab.optimization import descend, hessian_of, steps_until
from goodfit.losses.mse import Mse
from goodfit.optim.first_order import Adam, Sgd
from goodfit.optim.newton import Newton
from goodfit.report.charts import Chart, Series

TRUE = (2.0, -1.0, 0.5)  # the slope of each of two inputs, and the constant
EXAMPLES, STEPS, TOLERANCE = 60, 400, 1e-6
PRICES = 40  # days of the picture


def draw_examples() -> tuple[Tensor, Tensor]:
    """Inputs [N, 3] whose last column is 1, and what is to be predicted from them [N, 1], with some noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.cat([torch.randn(EXAMPLES, 2, generator=generator), torch.ones(EXAMPLES, 1)], dim=1).double()
    noise = 0.3 * torch.randn(EXAMPLES, 1, generator=generator).double()
    return inputs, inputs @ torch.tensor(TRUE, dtype=torch.float64)[:, None] + noise


def solve(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The weights [N] of least squares in closed form: the solution of X^T X w = X^T y."""
    solution: Tensor = torch.linalg.solve(inputs.T @ inputs, inputs.T @ outputs)
    return solution[:, 0]


def teach() -> Lesson:
    """Compute the lesson."""
    inputs, outputs = draw_examples()

    def loss(w: Tensor) -> Tensor:
        return Mse()(inputs @ w[:, None], outputs).mean()

    exact = solve(inputs, outputs)
    curvature = float(torch.linalg.eigvalsh(hessian_of(loss, exact)).max())
    parts = {"sgd": Sgd(1 / curvature), "adam": Adam(0.1), "newton": Newton()}
    paths = {name: descend(part, loss, [0.0] * 3, STEPS) for name, part in parts.items()}
    distances = {name: [float((w - exact).norm()) for w in path] for name, path in paths.items()}
    names = ("slope of x1", "slope of x2", "constant")
    rows: Rows = tuple((name, float(exact[k]), *(float(path[-1, k]) for path in paths.values()), TRUE[k]) for k, name in enumerate(names))
    return Lesson(
        "Regression predicts a number, such as tomorrow's price: no activation at the end, and the mean squared error. If the model is"
        " linear, setting the derivative to zero gives the weights at once; any other needs iterating.",
        "CS231n, optimization",
        (
            Number("loss of the closed form", float(loss(exact))),
            Number("loss of all weights zero", float(loss(torch.zeros(3, dtype=torch.float64)))),
            Number("largest gradient at the closed form", float(torch.func.grad(loss)(exact).abs().max())),
            *(Number(f"steps of {name} to {TOLERANCE:g} of it", steps_until(x, TOLERANCE)) for name, x in distances.items()),
        ),
        (Table("Weights", ("weight", "closed form", *parts, "of the data"), rows),),
        (
            draw_fit(),
            Chart(
                "Distance from the closed form",
                tuple(line(n, [max(x, 1e-16) for x in d[:100]], k) for k, (n, d) in enumerate(distances.items())),
                x="step",
                y="distance",
                log=True,
            ),
        ),
    )


def draw_fit() -> Chart:
    """A line through prices day by day, by least squares, and the price it predicts for tomorrow."""
    generator = torch.Generator().manual_seed(1)
    days = torch.arange(PRICES, dtype=torch.float64)
    prices = 100 + torch.randn(PRICES, generator=generator).double().cumsum(0) + 0.3 * days
    head = nn.Linear(1, 1).double()  # no activation: a price may be any number
    slope, constant = solve(torch.stack([days, torch.ones_like(days)], dim=1), prices[:, None]).tolist()
    with torch.no_grad():
        head.weight.fill_(slope)
        head.bias.fill_(constant)
        ahead = torch.arange(PRICES + 1, dtype=torch.float64)
        fitted = head(ahead[:, None])[:, 0].tolist()
    dots = Series("price", list(zip(days.tolist(), prices.tolist(), strict=True)), "ink", radii=(3.0,) * PRICES)
    return Chart("Tomorrow's price by a line", (dots, line("fitted line", fitted, 0)), x="day", y="price")
