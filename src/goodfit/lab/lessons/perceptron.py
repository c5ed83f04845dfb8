"""The perceptron: it learns AND and OR, and no XOR."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Model
from goodfit.inspection.chance import OwnChance
from goodfit.lab.examples import make_batch
from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.lab.optimization import accuracy_of, fit_network
from goodfit.lab.pictures import draw_points, draw_regions, extent_of
from goodfit.layers.activation import Tanh
from goodfit.losses.mse import Mse
from goodfit.models.mlp import Mlp
from goodfit.models.perceptron import Perceptron
from goodfit.optim.first_order import Adam
from goodfit.report.charts import Chart

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])[:, :, None, None]
GATES = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}
STEPS, SEED = 150, 0


def points_of(gate: str) -> Batch:
    """The four points of a gate, with what it makes of them."""
    return make_batch(POINTS, torch.tensor(GATES[gate]), 2)


def learn(part: Model, gate: str) -> tuple[nn.Module, float]:
    """Train a net on the four points of a gate; returns it and the share that it gets right."""
    with OwnChance(SEED).active():
        net = part(2, 2, (1, 1))
    fit_network(net, points_of(gate), Mse(), Adam(0.1), STEPS)
    return net, accuracy_of(net, points_of(gate))


def best_line(gate: str) -> float:
    """The largest share of a gate's four points that a perceptron gets right, over lines of every kind there is."""
    net, best = Perceptron()(2, 2, (1, 1)), 0.0
    weight, bias = net.parameters()
    for w1, w2, b in itertools.product((-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0), (-1.5, -0.5, 0.5, 1.5)):
        with torch.no_grad():
            weight.copy_(torch.tensor([[0.0, 0.0], [w1, w2]]))
            bias.copy_(torch.tensor([0.0, b]))
        best = max(best, accuracy_of(net, points_of(gate)))
    return best


def teach() -> Lesson:
    """Compute the lesson."""
    perceptron, layers = Perceptron(), Mlp((8,), act=Tanh())
    alone = {gate: learn(perceptron, gate) for gate in GATES}
    stacked = {gate: learn(layers, gate) for gate in GATES}

    def draw(net: nn.Module, gate: str, name: str) -> Chart:
        dots = (*draw_regions(net, extent_of(POINTS)), *draw_points(points_of(gate)))
        return Chart(f"{gate.upper()} by {name}", dots, x="x1", y="x2", height=320)

    return Lesson(
        "One perceptron, y = f(w x + b) with a sigmoid f, separates what a line separates; perceptrons in layers can do the rest.",
        "CS231n, neural networks",
        (
            Number("AND by a perceptron", alone["and"][1]),
            Number("OR by a perceptron", alone["or"][1]),
            Number("XOR by a perceptron", alone["xor"][1]),
            Number("XOR by the best line", best_line("xor"), "", "three of four points"),
            Number("XOR by two layers", stacked["xor"][1]),
        ),
        (
            Table(
                "Share of the four points that is right",
                ("gate", "perceptron", "two layers"),
                tuple((g, alone[g][1], stacked[g][1]) for g in GATES),
            ),
        ),
        (
            draw(alone["or"][0], "or", "a perceptron"),
            draw(alone["xor"][0], "xor", "a perceptron"),
            draw(stacked["xor"][0], "xor", "two layers"),
        ),
    )
