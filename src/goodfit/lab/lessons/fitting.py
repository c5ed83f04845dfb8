"""Under- and overfitting: boundaries and curves of nets that are too small, right and too large."""

from __future__ import annotations

import torch
from torch import nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Model
from goodfit.inspection.chance import OwnChance
from goodfit.lab.examples import draw_moons
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import accuracy_of, fit_network
from goodfit.lab.pictures import draw_points, draw_regions, extent_of
from goodfit.layers.activation import Tanh
from goodfit.losses.penalty import L2
from goodfit.losses.softmax import Softmax
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Adam
from goodfit.report.charts import Chart

TRAINED, HELD_OUT, NOISE, STEPS, RATE = 60, 1000, 0.25, 400, 0.02
NETS: dict[str, tuple[Model, float]] = {  # with the strength of their penalty
    "linear, too small": (Linear(), 0.0),
    "64 units with L2, right": (Mlp((64,), act=Tanh()), 0.002),
    "64 + 64 units, too large": (Mlp((64, 64), act=Tanh()), 0.0),
}


@torch.no_grad()
def loss_of(net: nn.Module, batch: Batch) -> float:
    """The mean softmax loss of a batch."""
    return float(Softmax()(net(batch.images), batch.targets).mean())


def train(part: Model, strength: float, batch: Batch, others: Batch) -> tuple[nn.Module, list[float], list[float]]:
    """Train a net; returns it with its losses, without the penalty, on the batch and on others after each step."""
    with OwnChance(0).active():
        net = part(2, 2, (1, 1))
    trained: list[float] = []
    held_out: list[float] = []

    def read_losses() -> None:
        trained.append(loss_of(net, batch))
        held_out.append(loss_of(net, others))

    fit_network(net, batch, Softmax(), Adam(RATE), STEPS, (L2(strength),), after_step=read_losses)
    return net, trained, held_out


def teach() -> Lesson:
    """Compute the lesson."""
    points, others = draw_moons(TRAINED, NOISE, seed=0), draw_moons(HELD_OUT, NOISE, seed=1)
    runs = {name: train(part, strength, points, others) for name, (part, strength) in NETS.items()}
    rows = tuple(
        (name, accuracy_of(net, points), accuracy_of(net, others), mine[-1], theirs[-1]) for name, (net, mine, theirs) in runs.items()
    )
    charts = [
        Chart(f"Boundary, {name}", (*draw_regions(net, extent_of(points.images)), *draw_points(points)), x="x1", y="x2", height=380)
        for name, (net, _, _) in runs.items()
    ]
    curves = [
        Chart(f"Losses, {name}", (line("training", mine, 0), line("others", theirs, 1)), x="step", y="loss")
        for name, (_, mine, theirs) in runs.items()
    ]
    large = runs["64 + 64 units, too large"][2]
    return Lesson(
        "Too small a model is wrong on training and new images alike; too large a one learns the training images by heart, and its loss on"
        " new ones falls first and then rises.",
        "CS231n, training and regularization",
        (
            Number("step at which the large net is best on others", min(range(STEPS), key=large.__getitem__) + 1, "", f"of {STEPS}"),
            Number("its loss on others then", min(large)),
            Number("its loss on others in the end", large[-1]),
        ),
        (Table("In the end", ("net", "training accuracy", "accuracy on others", "training loss", "loss on others"), rows),),
        (*charts, *curves),
    )
