"""The gradient of the SVM loss and L2 as a whole, by the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.core.batch import Batch
from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.losses.penalty import L2
from goodfit.losses.svm import Svm
from goodfit.models.linear import Linear
from goodfit.training.gradient import gradient

WEIGHTS = torch.tensor([[0.5, -1.0, 0.25, 1.0], [1.5, 0.0, -0.5, 0.5], [-0.25, 0.75, 1.0, -1.5]], dtype=torch.float64)  # [classes, pixels]
IMAGES = torch.tensor([[1.0, 2.0, -1.0, 0.7], [0.6, -1.5, 2.0, 1.0], [-2.0, 1.0, 0.5, 1.5]], dtype=torch.float64)  # [images, pixels]
STRENGTH = 0.1  # of the L2 penalty
MOVED = 1e-5  # how far a weight is moved for a central difference


def differentiate(weights: Tensor, strength: float) -> tuple[float, Tensor]:
    """The loss of the linear classifier with weights [K, N], penalty included, and its gradient [K, N]."""
    model = Linear()(3, 1, (2, 2)).double()
    weight = model.get_parameter("head.weight")
    with torch.no_grad():
        weight.copy_(weights)
    batch = Batch(IMAGES.view(3, 1, 2, 2), torch.eye(3, dtype=torch.float64), torch.arange(3))
    loss = gradient(model, [batch], len(batch), Svm(), (L2(strength),)).loss
    assert weight.grad is not None
    return float(loss), weight.grad


def teach() -> Lesson:
    """Compute the lesson."""
    (loss, whole), (_, data) = differentiate(WEIGHTS, STRENGTH), differentiate(WEIGHTS, 0.0)
    moved = torch.zeros_like(WEIGHTS)
    for place in range(WEIGHTS.numel()):
        step = MOVED * torch.eye(WEIGHTS.numel(), dtype=torch.float64)[place].view_as(WEIGHTS)
        higher, lower = (differentiate(WEIGHTS + side * step, STRENGTH)[0] for side in (1, -1))
        moved.view(-1)[place] = (higher - lower) / (2 * MOVED)
    rows = tuple((f"class {k}", *row) for k, row in enumerate(whole.tolist()))
    return Lesson(
        "The whole loss is the mean SVM loss plus the sum of the squared weights; what training wants is its gradient by W.",
        "CS231n, optimization",
        (
            Number("loss with the penalty", loss),
            Number("largest distance from central differences", float((whole - moved).abs().max())),
            Number(
                "largest part of the penalty, 2 lambda W", float((whole - data).abs().max()), "", f"2 x {STRENGTH} x {WEIGHTS.abs().max()}"
            ),
        ),
        (Table("Gradient by W", ("", *(f"pixel {k}" for k in range(4))), rows),),
        erratum="The slide adds the sum of the squared weights without the lambda that its other slides have.",
    )
