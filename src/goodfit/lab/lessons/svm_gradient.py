"""The gradient of the SVM loss and L2 as a whole, by the weights."""

from __future__ import annotations

import torch
from torch import nn

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


def teach() -> Lesson:
    """Compute the lesson."""
    model = Linear()(3, 1, (2, 2)).double()
    (weight,) = (p for name, p in model.named_parameters() if name.endswith("weight"))
    with torch.no_grad():
        weight.copy_(WEIGHTS)
    batch = Batch(IMAGES.view(3, 1, 2, 2), torch.eye(3, dtype=torch.float64), torch.arange(3))
    data = _gradient_of(model, weight, batch, 0.0)
    loss = float(gradient(model, [batch], 3, Svm(), (L2(STRENGTH),)).loss)
    whole = weight.grad.clone() if weight.grad is not None else torch.zeros_like(WEIGHTS)
    moved = torch.zeros_like(WEIGHTS)
    for place in range(WEIGHTS.numel()):
        losses = []
        for side in (MOVED, -MOVED):
            with torch.no_grad():
                weight.copy_(WEIGHTS).view(-1)[place] += side
            model.zero_grad()
            losses.append(float(gradient(model, [batch], 3, Svm(), (L2(STRENGTH),)).loss))
        moved.view(-1)[place] = (losses[0] - losses[1]) / (2 * MOVED)
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


def _gradient_of(model: nn.Module, weight: nn.Parameter, batch: Batch, strength: float) -> torch.Tensor:
    model.zero_grad()
    gradient(model, [batch], len(batch), Svm(), (L2(strength),))
    assert weight.grad is not None
    found = weight.grad.clone()
    model.zero_grad()
    return found
