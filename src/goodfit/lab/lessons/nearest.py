"""Nearest neighbors: the regions of the plane that each class gets, by the number of neighbors that vote."""

from __future__ import annotations

from torch import nn

from goodfit.core.batch import Batch
from goodfit.core.words import count_of
from goodfit.lab.examples import draw_clusters
from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.lab.optimization import accuracy_of
from goodfit.lab.pictures import draw_points, draw_regions, extent_of
from goodfit.models.nearest import Nearest, Neighbors
from goodfit.report.charts import Chart

VOTES, NOISE = (1, 5, 15), 0.55
TRAINED, HELD_OUT = 60, 600


def make_classifier(k: int, batch: Batch) -> nn.Module:
    """The k nearest neighbors among the points of a batch."""
    net = Nearest(k)(3, 2, (1, 1)).eval()
    for module in net.modules():
        if isinstance(module, Neighbors):
            module.memorize(batch.images, batch.targets.argmax(1))
    return net


def teach() -> Lesson:
    """Compute the lesson."""
    points, others = draw_clusters(TRAINED, NOISE, seed=0), draw_clusters(HELD_OUT, NOISE, seed=1)
    rows: list[tuple[str | float, ...]] = []
    charts = []
    for k in VOTES:
        net = make_classifier(k, points)
        right = accuracy_of(net, points)
        rows.append((f"{k}", right, accuracy_of(net, others), round(TRAINED * (1 - right))))
        regions = draw_regions(net, extent_of(points.images))
        charts.append(Chart(f"Regions by {count_of(k, 'nearest neighbor')}", (*regions, *draw_points(points)), x="x1", y="x2", height=400))
    return Lesson(
        "An image gets the label of the most similar training image, or that of most of its k nearest. The nearest one alone makes islands"
        " around stray points; more neighbors make smooth regions.",
        "CS231n, image classification",
        (
            Number("training accuracy of the nearest neighbor", float(rows[0][1]), "", "each image is its own nearest"),
            Number("its accuracy on others", float(rows[0][2])),
            Number(f"accuracy on others of {VOTES[-1]} neighbors", float(rows[-1][2])),
        ),
        (Table("Accuracy by the number of neighbors", ("k", "training", "others", "training points in others' regions"), tuple(rows)),),
        tuple(charts),
    )
