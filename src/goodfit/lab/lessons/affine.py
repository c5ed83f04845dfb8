"""The affine layer: the gradients of y = x W are products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.lab.graph import Graph
from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.lab.tracing import trace

INPUTS = torch.tensor([[1.0, 4.0], [-2.0, 0.5], [3.0, -1.0]], dtype=torch.float64)  # X [images, inputs]
WEIGHTS = torch.tensor([[2.0], [3.0]], dtype=torch.float64)  # W [inputs, outputs], a column
ABOVE = torch.tensor([[5.0], [-1.0], [2.0]], dtype=torch.float64)  # dL/dY [images, outputs]


def trace_affine(x: Tensor, w: Tensor, above: Tensor) -> Graph:
    """Trace y = x w [B, K] from x [B, N] and w [N, K], with `above` [B, K] as the gradient of the loss by y."""
    return trace(lambda x, w: ((x @ w) * above).sum(), {"x": x, "w": w})


def teach() -> Lesson:
    """Compute the lesson."""
    graph = trace_affine(INPUTS, WEIGHTS, ABOVE)
    by_x, by_w = graph.gradient_of("x"), graph.gradient_of("w")
    one = trace_affine(INPUTS[:1], WEIGHTS, ABOVE[:1])
    return Lesson(
        "For an affine layer y = x W, x = [x1 x2] and W = [w11; w12], the gradient by x is dL/dy W^T, and that by W is X^T dL/dY.",
        "CS231n, backpropagation",
        (
            Number("y of the first image", float(one["matmul"].value)),
            *(Number(f"dL/dx{k + 1} of the first image", float(x)) for k, x in enumerate(one.gradient_of("x")[0])),
            *(Number(f"dL/dw1{k + 1} of the first image", float(x)) for k, x in enumerate(one.gradient_of("w")[:, 0])),
            Number("largest |dL/dX - dL/dY W^T|", float((by_x - ABOVE @ WEIGHTS.T).abs().max())),
            Number("largest |dL/dW - X^T dL/dY|", float((by_w - INPUTS.T @ ABOVE).abs().max())),
        ),
        (
            Table("dL/dX", ("image", "x1", "x2"), tuple((str(k), *row) for k, row in enumerate(by_x.tolist()))),
            Table("dL/dW", ("weight", "gradient"), tuple((f"w1{k + 1}", *row) for k, row in enumerate(by_w.tolist()))),
        ),
    )
