"""Elastic net: from lasso, which drops inputs, to ridge, which spreads over all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Penalty
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import fit_network
from goodfit.layers.init import Zero
from goodfit.losses.mse import Mse
from goodfit.losses.penalty import L1, L2, ElasticNet
from goodfit.models.linear import Linear
from goodfit.optim.first_order import Sgd
from goodfit.report.charts import Chart
from goodfit.schedules.shapes import Cosine

EXAMPLES, STRENGTH = 50, 0.4
TRUE = (1.5, 1.5, -1.0, 0.2, 0.0, 0.0)  # the first two inputs are much alike
THETAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
STEPS, RATE, ZERO = 400, 0.05, 1e-3  # below ZERO, a weight counts as dropped
FIRST, SECOND = (1.0, 0.0, 0.0, 0.0), (0.25, 0.25, 0.25, 0.25)  # the slide's w1 and w2, both 1 for x = (1, 1, 1, 1)


def draw_examples() -> Batch:
    """Inputs [N, 6, 1, 1], each of mean 0 and standard deviation 1, and what is to be predicted [N, 1], of mean 0."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, len(TRUE), generator=generator).double()
    inputs[:, 1] = inputs[:, 0] + 0.4 * inputs[:, 1]
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    outputs = inputs @ torch.tensor(TRUE, dtype=torch.float64) + 0.5 * torch.randn(EXAMPLES, generator=generator).double()
    return Batch(inputs[:, :, None, None], (outputs - outputs.mean())[:, None], torch.arange(EXAMPLES))


def penalty_at(theta: float) -> Penalty:
    """STRENGTH times theta W^2 + (1 - theta) |W|."""
    return L2(STRENGTH) if theta == 1 else ElasticNet(STRENGTH * (1 - theta), theta / (1 - theta))


def fit_weights(penalty: Penalty) -> Tensor:
    """The weights [6] of linear regression with a penalty."""
    net = Linear(init=Zero())(1, len(TRUE), (1, 1)).double()
    fit_network(net, draw_examples(), Mse(), Sgd(RATE, momentum=0.9), STEPS, (penalty,), Cosine())
    return net.get_parameter("head.weight").detach()[0]


def measure(penalty: Penalty, weights: tuple[float, ...]) -> float:
    """A penalty of weights alone."""
    layer = nn.Linear(len(weights), 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
        return float(penalty(layer))


def teach() -> Lesson:
    """Compute the lesson."""
    paths = {theta: fit_weights(penalty_at(theta)).tolist() for theta in THETAS}
    rows = tuple((f"{theta:g}", *w, sum(abs(x) < ZERO for x in w)) for theta, w in paths.items())
    curves = tuple(line(f"w{k + 1}", [w[k] for w in paths.values()], k, THETAS) for k in range(len(TRUE)))
    header = ("theta", *(f"w{k + 1}" for k in range(len(TRUE))), "dropped")
    return Lesson(
        "Of weights with the same score, L2 prefers those that spread over all inputs; lasso (L1, theta = 0) drops inputs, ridge (L2,"
        " theta = 1) keeps them all, and the elastic net goes from one to the other.",
        "CS231n, regularization",
        (
            Number("L2 of w1 = (1, 0, 0, 0)", measure(L2(1.0), FIRST), "1"),
            Number("L2 of w2 = (.25, .25, .25, .25)", measure(L2(1.0), SECOND), "0.25"),
            Number("L1 of w1", measure(L1(1.0), FIRST)),
            Number("L1 of w2", measure(L1(1.0), SECOND)),
            Number("elastic net of w1, beta = 1", measure(ElasticNet(1.0), FIRST)),
            Number("elastic net of w2, beta = 1", measure(ElasticNet(1.0), SECOND)),
            Number("weights that lasso drops", rows[0][-1]),
            Number("weights that ridge drops", rows[-1][-1]),
        ),
        (Table(f"Weights, penalty {STRENGTH:g} (theta W^2 + (1 - theta) |W|)", header, rows),),
        (Chart("Weights from lasso to ridge", curves, x="theta", y="weight"),),
    )
