"""Memory: what VGG-16 holds forward, and what the backward pass adds."""

from __future__ import annotations

import torch

from goodfit.core.contracts import Optimizer
from goodfit.lab.lesson import Lesson, Number, Rows, Table
from goodfit.models.anatomy.account import BYTES_PER_FLOAT32, account_for
from goodfit.models.anatomy.lecture import LECTURE_ERRATA
from goodfit.models.anatomy.memory import measure_training_step
from goodfit.models.vgg import Vgg
from goodfit.optim.first_order import Adam, Sgd

SIDE, CHANNELS, BATCH, MEGA = 224, 3, 64, 1e6
OPTIMIZERS: dict[str, Optimizer] = {"sgd": Sgd(), "sgd, momentum": Sgd(momentum=0.9), "adam": Adam()}


def teach() -> Lesson:
    """Compute the lesson."""
    with torch.device("meta"):
        net = Vgg(16)(1000, CHANNELS, (SIDE, SIDE))
    totals = account_for(net, CHANNELS, (SIDE, SIDE)).totals
    steps = {name: measure_training_step(net, CHANNELS, (SIDE, SIDE), BATCH, part) for name, part in OPTIMIZERS.items()}
    one, many = measure_training_step(net, CHANNELS, (SIDE, SIDE), 1, Sgd()), steps["sgd"]
    forward = BYTES_PER_FLOAT32 * totals["in_place"]  # what the slide's rows add up to: each map once
    held = (many.activations + many.workspace) / many.activations
    header = ("optimizer", "weights", "gradients", "state", "activations", "workspace", "all")
    rows: Rows = tuple(
        (name, *(x / MEGA for x in (s.weights, s.gradients, s.state, s.activations, s.workspace, s.peak))) for name, s in steps.items()
    )
    return Lesson(
        "The activations of VGG-16 take about 93 MB an image, forward only, and about twice as much with the backward pass, which needs"
        " them and a gradient of each.",
        "CS231n, convolutional networks",
        (
            Number("million parameters", totals["parameters"] / MEGA, "138"),
            Number("million activations, each map once", totals["in_place"] / MEGA, "24"),
            Number("million with relus that keep their own output", (totals["activations"] + CHANNELS * SIDE**2) / MEGA),
            Number("MB forward, each map once", forward / MEGA, "93"),
            Number("MB with a gradient of each activation", 2 * forward / MEGA, "", "twice as much"),
            Number("MB kept for the backward pass of one image", one.activations / MEGA),
            Number("activations and their gradients, over activations", held, "2", f"{BATCH} images, at the peak of a step"),
        ),
        (Table(f"MB at the peak of a training step, {BATCH} images", header, rows),),
        erratum=LECTURE_ERRATA["vgg(16)"],
    )  # fmt: skip
