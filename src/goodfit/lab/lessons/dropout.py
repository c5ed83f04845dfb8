"""Dropout: how many masks there are, and what their mean is."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from goodfit.inspection.chance import OwnChance
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.layers.noise import Dropout
from goodfit.models.anatomy.account import account_for
from goodfit.models.mlp import Mlp
from goodfit.report.charts import Chart

WEIGHTS, INPUTS = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 4.0])  # of the slide's neuron a, with w1, w2, x and y
UNITS, ATOMS = 4096, 82  # of a layer; the power of ten of the atoms in the universe
PASSES = 20_000
RATES = (0.2, 0.5, 0.8)


def count_masks() -> float:
    """The power of ten of the number of masks that dropout has for a net's hidden layer of UNITS units."""
    with torch.device("meta"):
        net = Mlp((UNITS,), drop=Dropout())(10, 1, (8, 8))
    (units,) = (row.output[0] for row in account_for(net, 1, (8, 8)).rows if row.name == "layer1.linear")
    return units * math.log10(2)


def draw_outputs(part: Dropout, passes: int) -> Tensor:
    """What the slide's neuron puts out in training, mask by mask [passes]."""
    with OwnChance(0).active():
        dropped = part().train()(INPUTS.expand(passes, 2))
    outputs: Tensor = dropped @ WEIGHTS
    return outputs


def output_at_test(part: Dropout) -> float:
    return float(part().eval()(INPUTS) @ WEIGHTS)


def teach() -> Lesson:
    """Compute the lesson."""
    masks = [torch.tensor(mask) for mask in itertools.product([1.0, 0.0], repeat=2)]
    outputs = [float((mask * INPUTS) @ WEIGHTS) for mask in masks]
    rows = []
    for p in RATES:
        vanilla, inverted = Dropout(p, inverted=False), Dropout(p)
        rows.append(
            (
                f"{p:g}",
                float(draw_outputs(vanilla, PASSES).mean()),
                output_at_test(vanilla),
                p * float(INPUTS @ WEIGHTS),
                float(draw_outputs(inverted, PASSES).mean()),
                output_at_test(inverted),
            )
        )
    running = (draw_outputs(Dropout(0.5, inverted=False), PASSES).cumsum(0) / torch.arange(1, PASSES + 1)).tolist()
    header = ("p dropped", "mean in training", "at test", "by the slide's words", "inverted, mean in training", "inverted, at test")
    return Lesson(
        "Each mask is a thinned net that shares its weights with all others; at test time all units are active, scaled so that the output"
        " is the expected one of training.",
        "CS231n, dropout",
        (
            Number("log10 of the masks of 4096 units", count_masks(), "1233", f"log10 of the atoms in the universe: {ATOMS}"),
            Number("mean over the four masks of a neuron", sum(outputs) / len(outputs), "", "(w1 x + w2 y) / 2"),
            Number("its output at test, p = 0.5", output_at_test(Dropout(0.5, inverted=False))),
        ),
        (
            Table(
                "The four masks",
                ("x, y kept", "output"),
                tuple((f"{int(m[0])}, {int(m[1])}", x) for m, x in zip(masks, outputs, strict=True)),
            ),
            Table(f"Means over {PASSES:,} masks", header, tuple(rows)),
        ),
        (Chart("Mean over the masks so far", (line("mean", running, 0, range(1, PASSES + 1)),), x="masks", y="output", log_x=True),),
        erratum="The slide says to multiply by the dropout probability at test. It is the probability of keeping, which is what p is in its"
        " code; the two agree at 0.5 only.",
    )
