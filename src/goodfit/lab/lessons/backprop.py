"""Backpropagation: the gradient at every node of a computational graph."""

from __future__ import annotations

import torch

from goodfit.lab.graph import Graph
from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.lab.tracing import trace

PRODUCT = "(x + y) * z"
NEURON = "1 / (1 + exp(-(w0 * x0 + w1 * x1 + w2)))"
CHAIN = "exp(3 * x)"
PRINTED_NEURON = "1 / (1 + exp(-(w0 * x0 + w1 * x1 + w2 * x2)))"  # with a third input that the slide's numbers do not have
HEADER = ("node", "value", "gradient", "role")


def teach() -> Lesson:
    """Compute the lesson."""
    product = trace(PRODUCT, {"x": -2.0, "y": 5.0, "z": -4.0})
    neuron = trace(NEURON, {"w0": 2.0, "x0": -1.0, "w1": -3.0, "x1": -2.0, "w2": -3.0})
    chain, moved = trace(CHAIN, {"x": 0.5}), 1e-5
    difference = (_output(trace(CHAIN, {"x": 0.5 + moved})) - _output(trace(CHAIN, {"x": 0.5 - moved}))) / (2 * moved)
    dz_dy, dy_dx = chain["exp(3 * x)"].local[0] or 0.0, chain["3 * x"].local[0] or 0.0
    return Lesson(
        "Every node gets a gradient from what comes after it, multiplies it by its local gradient, and passes it on: an add gate"
        " distributes, a max gate routes, a multiply gate switches its inputs.",
        "CS231n, backpropagation",
        (
            Number("q = x + y", _value(product, "x + y")),
            Number("f = (x + y) z", _output(product)),
            *(Number(f"df/d{name}", _gradient(product, name)) for name in "xyz"),
            Number("sigmoid neuron", _output(neuron), "", "CS231n's figure: 0.73"),
            *(Number(f"its gradient by {name}", _gradient(neuron, name)) for name in ("w0", "x0", "w1", "x1", "w2")),
            Number("dz/dy for z = exp(y)", dz_dy),
            Number("dy/dx for y = 3 x", dy_dx),
            Number("dz/dx = dz/dy dy/dx", _gradient(chain, "x")),
            Number("dz/dx by central differences", difference),
        ),
        (_table(PRODUCT, product), _table("The sigmoid neuron", neuron), local_gradients(), gates()),
        erratum=f"The slide's neuron is {PRINTED_NEURON}: in its figure w2 has no input. It is the bias, with the gradient of the sum,"
        f" {_gradient(neuron, 'w2'):.2f}.",
    )


def local_gradients() -> Table:
    """The local gradients that a slide lists, each at x = 2, with a = 3 and c = 1."""
    slide = {"exp(x)": "e^x", "3 * x": "a", "1 / x": "-1 / x^2", "1 + x": "1"}
    rows = tuple((text, formula, trace(text, {"x": 2.0})[text].local[0] or 0.0) for text, formula in slide.items())
    return Table("Local gradients at x = 2", ("f", "df/dx on the slide", "computed"), rows)


def gates() -> Table:
    """What the gates x + y, max(x, y) and x * y make of a gradient of 2, at x = 4 and y = -1."""
    rows = []
    for text in ("x + y", "max(x, y)", "x * y"):
        node = trace(f"2 * ({text})", {"x": 4.0, "y": -1.0})[text]
        first, second = (float(share if share is not None else torch.zeros(())) for share in node.passed)
        rows.append((text, node.role, first, second))
    return Table("Gates at x = 4, y = -1, for a gradient of 2", ("gate", "role", "to x", "to y"), tuple(rows))


def _table(title: str, graph: Graph) -> Table:
    """The nodes of a graph of single numbers."""
    return Table(title, HEADER, tuple((node.name, float(node.value), _gradient(graph, node.name), node.role) for node in graph.nodes))


def _value(graph: Graph, name: str) -> float:
    return float(graph[name].value)


def _output(graph: Graph) -> float:
    return float(graph.nodes[-1].value)


def _gradient(graph: Graph, name: str) -> float:
    return float(graph.gradient_of(name))
