"""Parameter averaging: workers that each train on a share of the images, and average their weights now and then."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from goodfit.core.batch import Batch
from goodfit.lab.examples import read_digits
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import accuracy_of, fit_network
from goodfit.losses.softmax import Softmax
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd
from goodfit.report.charts import Chart
from goodfit.training.averaging import blend_into

WORKERS, IMAGES, STEPS, RATE = 4, 400, 120, 0.5
PERIODS = (1, 5, 20, 120)  # steps between two averages; the last: once, in the end


def make_net() -> nn.Module:
    """The net that every worker starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Mlp((32,))(10, 1, (8, 8)).double()


def split_images(images: Batch, workers: int) -> list[Batch]:
    """Equal shares of a batch [B, ...], every k-th image to the same worker."""
    shares = [torch.arange(k, len(images), workers) for k in range(workers)]
    return [Batch(images.images[rows], images.targets[rows], images.ids[rows]) for rows in shares]


@torch.no_grad()
def average_workers(nets: Sequence[nn.Module]) -> float:
    """Set the weights of all nets to their mean; returns how far they were from it before, in the mean."""
    center = copy.deepcopy(nets[0])
    for k, net in enumerate(nets[1:], start=1):
        blend_into(center, net, k / (k + 1))
    middle = nn.utils.parameters_to_vector(center.parameters())
    distances = [float((nn.utils.parameters_to_vector(net.parameters()) - middle).norm()) for net in nets]
    for net in nets:
        net.load_state_dict(center.state_dict())
    return sum(distances) / len(distances)


def train_workers(images: Batch, workers: int, every: int) -> tuple[nn.Module, list[float], float]:
    """Train by SGD, each worker on its share, and average every `every` steps.

    Returns the averaged net, its loss on all images after each average, from the start on, and the largest distance between two averages.
    """
    nets, shares = [make_net() for _ in range(workers)], split_images(images, workers)
    losses, apart = [measure_loss(nets[0], images)], 0.0
    for _ in range(STEPS // every):
        for net, share in zip(nets, shares, strict=True):
            fit_network(net, share, Softmax(), Sgd(RATE), every)
        apart = max(apart, average_workers(nets))
        losses.append(measure_loss(nets[0], images))
    return nets[0], losses, apart


@torch.no_grad()
def measure_loss(net: nn.Module, images: Batch) -> float:
    """The mean softmax loss of a net on a batch."""
    return float(Softmax()(net(images.images), images.targets).mean())


def teach() -> Lesson:
    """Compute the lesson."""
    digits = read_digits(IMAGES)
    images = Batch(digits.images.double(), digits.targets.double(), digits.ids)
    alone, whole, _ = train_workers(images, 1, 1)
    runs = {every: train_workers(images, WORKERS, every) for every in PERIODS}
    rows = tuple((f"{every}", STEPS // every, apart, losses[-1], accuracy_of(net, images)) for every, (net, losses, apart) in runs.items())
    curves = [
        line(f"average every {every}", losses, k, range(0, STEPS + 1, every)) for k, (every, (_, losses, _)) in enumerate(runs.items())
    ]
    return Lesson(
        "Workers update alone, each on its own images, and average their parameters every few steps, which takes fewer messages than to"
        " share every gradient.",
        "CS231n, optimization",
        (
            Number("loss of one worker on all images", whole[-1]),
            Number(f"of {WORKERS} workers that average every step", runs[1][1][-1], "", "the same step: the mean of the gradients"),
            Number("largest difference of their weights from those of one", _distance(alone, runs[1][0])),
        ),
        (
            Table(
                f"{WORKERS} workers, {STEPS} steps of SGD, on {IMAGES} digits",
                ("steps between averages", "averages", "farthest apart", "loss in the end", "accuracy"),
                rows,
            ),
        ),
        (Chart("Loss of the average on all images", tuple(curves), x="step", y="loss", log=True),),
        erratum="The slide prints EASCS. EASGD, elastic averaging SGD, pulls the workers to the average without setting them to it.",
    )


@torch.no_grad()
def _distance(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of the weights of two nets."""
    return max(float((a - b).abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))
