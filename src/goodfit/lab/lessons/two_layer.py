"""Two layers: one step of backpropagation through the net of the linked tutorial, number by number, and ten thousand."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.lab.graph import Graph
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import descend
from goodfit.lab.tracing import trace
from goodfit.layers.activation import Sigmoid
from goodfit.losses.mse import Mse
from goodfit.optim.first_order import Sgd
from goodfit.report.charts import Chart

WEIGHTS = {"w1": 0.15, "w2": 0.20, "w3": 0.25, "w4": 0.30, "w5": 0.40, "w6": 0.45, "w7": 0.50, "w8": 0.55}
GIVEN = {"i1": 0.05, "i2": 0.10, "b1": 0.35, "b2": 0.60, "t1": 0.01, "t2": 0.99}  # inputs, biases, which do not learn, and targets
RATE, STEPS, DRAWN_EVERY = 0.5, 10_000, 25
H1, H2 = "sigmoid(w1 * i1 + w2 * i2 + b1)", "sigmoid(w3 * i1 + w4 * i2 + b1)"
NET_O1, NET_O2 = f"w5 * {H1} + w6 * {H2} + b2", f"w7 * {H1} + w8 * {H2} + b2"
ERROR = f"((t1 - sigmoid({NET_O1})) ** 2 + (t2 - sigmoid({NET_O2})) ** 2) / 2"
INPUTS, TARGETS = (torch.tensor([GIVEN[name] for name in names], dtype=torch.float64) for names in (("i1", "i2"), ("t1", "t2")))
ACT = Sigmoid()()
PRINTED = ("0.149780716", "0.19956143", "0.24975114", "0.29950229", "0.35891648", "0.408666186", "0.511301270", "0.561370121")


def outputs_of(w: Tensor) -> Tensor:
    """The two outputs [1, 2] of the net with weights w1 to w8 [8]."""
    hidden = ACT(w[:4].view(2, 2) @ INPUTS + GIVEN["b1"])
    outputs: Tensor = ACT(w[4:].view(2, 2) @ hidden + GIVEN["b2"])[None]
    return outputs


def error_of(w: Tensor) -> Tensor:
    """The tutorial's error, the sum of (target - output)^2 / 2, which for two outputs is their mean squared error."""
    return Mse()(outputs_of(w), TARGETS[None]).sum()


def teach() -> Lesson:
    """Compute the lesson."""
    graph = trace(ERROR, WEIGHTS | GIVEN)
    path = descend(Sgd(RATE), error_of, list(WEIGHTS.values()), STEPS)
    errors = [(step, float(error_of(path[step]))) for step in range(0, STEPS + 1, DRAWN_EVERY)]
    outputs, printed_error = outputs_of(path[-1])[0].tolist(), "0.291027924"
    steps, values = zip(*errors, strict=True)
    return Lesson(
        "The gradient of the error by w5 is a product along the chain from the error back to w5; the linked tutorial does a step by hand.",
        "CS231n, backpropagation; printed are the numbers of the tutorial it links, mattmazur.com",
        (
            Number("error at first", values[0], "0.298371109"),
            Number("dE/dw5", _received(graph, "w5"), "0.082167041"),
            *(Number(f"{name} after a step", float(w), p) for name, w, p in zip(WEIGHTS, path[1], PRINTED, strict=True)),
            Number("error after a step", float(error_of(path[1])), printed_error),
            Number("the same, passed back through the new w5 to w8", float(error_of(update_in_turn(graph, path[1]))), printed_error),
            Number(f"error after {STEPS - 1:,} steps", float(error_of(path[-2])), "0.0000351085", "it says 10,000"),
            Number("output o1 after 10,000", outputs[0], "0.015912196", "target 0.01"),
            Number("output o2 after 10,000", outputs[1], "0.984065734", "target 0.99"),
        ),
        (Table("The chain to w5", ("factor", "right", "second copy of the slide"), compare_chains(graph)),),
        (Chart("Error over the steps", (line("error", values, 0, steps),), x="step", y="error", log=True),),
        erratum="One copy of the slide has dE/dout_o1 x dout_o1/dout_h1 x dout_h1/dw5. Both later factors are wrong: w5 leads from h1 to"
        " o1, so out_h1 does not depend on it, that chain is 0, and what is meant is dE/dout_o1 x dout_o1/dnet_o1 x dnet_o1/dw5. The"
        f" tutorial's error after a step, {printed_error}, and its outputs after 10,000 are not those of its formulas, but of code that"
        " passes the error back to w1 to w4 through weights w5 to w8 that it has updated already.",
    )


def update_in_turn(graph: Graph, stepped: Tensor) -> Tensor:
    """The weights [8] after a step whose gradient by w1 to w4 goes through the weights w5 to w8 of `stepped` [8]."""
    by_net = torch.tensor([_received(graph, net) for net in (NET_O1, NET_O2)], dtype=torch.float64)
    hidden = torch.tensor([_local(graph, h) for h in (H1, H2)], dtype=torch.float64)
    gradient = torch.outer(stepped[4:].view(2, 2).T @ by_net * hidden, INPUTS)
    start = torch.tensor(list(WEIGHTS.values())[:4], dtype=torch.float64)
    return torch.cat([start - RATE * gradient.flatten(), stepped[4:]])


def compare_chains(graph: Graph) -> tuple[tuple[str | float, ...], ...]:
    """The factors of both chains to w5, and their products."""
    out_o1, product = f"sigmoid({NET_O1})", graph[f"w5 * {H1}"]
    by_out, out_by_net = _received(graph, out_o1), _local(graph, out_o1)
    net_by_w5 = _slope(product.local[product.inputs.index("w5")])
    # What the second copy asks for: o1 by h1, and h1 by w5, which is not among the nodes that h1 is computed from.
    out_by_h1 = out_by_net * _slope(product.local[product.inputs.index(H1)])
    h1_by_w5 = trace(f"{H1} + 0 * w5", {name: x for name, x in (WEIGHTS | GIVEN).items() if name in ("w1", "w2", "w5", "i1", "i2", "b1")})
    slide = (by_out, out_by_h1, _received(h1_by_w5, "w5"))
    return (
        ("dE/dout_o1", by_out, slide[0]),
        ("dout_o1/dnet_o1 (copy: dout_o1/dout_h1)", out_by_net, slide[1]),
        ("dnet_o1/dw5 (copy: dout_h1/dw5)", net_by_w5, slide[2]),
        ("product", by_out * out_by_net * net_by_w5, slide[0] * slide[1] * slide[2]),
    )


def _received(graph: Graph, name: str) -> float:
    return float(graph.gradient_of(name))


def _local(graph: Graph, name: str) -> float:
    """The local gradient of a node with a single input."""
    return _slope(graph[name].local[0])


def _slope(x: float | None) -> float:
    assert x is not None
    return x
