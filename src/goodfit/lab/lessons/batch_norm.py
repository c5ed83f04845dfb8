"""Batch norm: a unit Gaussian for a tanh layer, which gamma and beta can undo."""

from __future__ import annotations

import torch

from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.layers.activation import Tanh
from goodfit.layers.norm import Batch

BATCH, CHANNELS, LINEAR = 500, 2, 0.5  # below LINEAR, tanh is nearly a line
MEANS, STDS = (3.0, -1.0), (2.0, 0.25)  # of what comes in


def teach() -> Lesson:
    """Compute the lesson."""
    x = torch.randn(BATCH, CHANNELS, generator=torch.Generator().manual_seed(0)) * torch.tensor(STDS) + torch.tensor(MEANS)
    layer = Batch()(CHANNELS).train()
    with torch.no_grad():
        normal = layer(x)
        gamma, beta = layer.get_parameter("weight"), layer.get_parameter("bias")
        gamma.copy_((x.var(0, correction=0) + Batch().eps).sqrt())
        beta.copy_(x.mean(0))
        undone = layer(x)
        gamma.fill_(0.1)
        beta.fill_(0.0)
        squeezed = layer(x)
    act = Tanh()()
    inputs = {"as it comes": x, "normalized": normal, "gamma 0.1, beta 0": squeezed, "gamma and beta undo it": undone}
    rows = tuple(
        (
            name,
            float(y[:, 0].mean()),
            float(y[:, 0].std(correction=0)),
            float((y[:, 0].abs() < LINEAR).float().mean()),
            float((act(y[:, 0]).abs() > 0.95).float().mean()),
        )
        for name, y in inputs.items()
    )
    header = ("input of the tanh, first channel", "mean", "std", f"share within {LINEAR:g}", "share saturated, beyond 0.95")
    return Lesson(
        "Do we necessarily want a unit Gaussian input to a tanh layer? Normalize, then let the network squash the range if it wants to, by"
        " gamma and beta; with gamma the standard deviation and beta the mean it gets back what came in.",
        "CS231n, batch normalization",
        (
            Number("largest mean after normalizing", float(normal.mean(0).abs().max())),
            Number("variance after normalizing, by 1/m", float(normal.var(0, correction=0).mean())),
            Number("largest distance of what gamma and beta give back", float((undone - x).abs().max())),
        ),
        (Table("What a tanh layer gets", header, rows),),
    )
