"""Pictures of the plane as series of a chart: the regions in which a classifier decides alike, and the contours of a function."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.report.charts import Points, Series, run_style

GRID = 40  # places along each side of a picture
REGION_RADIUS, POINT_RADIUS = 1.6, 4.0  # pixels
Extent = tuple[tuple[float, float], tuple[float, float]]  # (left, right), (bottom, top)


def extent_of(points: Tensor, margin: float = 0.3) -> Extent:
    """The box around points [N, 2, 1, 1], with a margin."""
    (left, bottom), (right, top) = (points.flatten(1).amin(0) - margin).tolist(), (points.flatten(1).amax(0) + margin).tolist()
    return (left, right), (bottom, top)


@torch.no_grad()
def draw_regions(net: nn.Module, extent: Extent) -> list[Series]:
    """The places of a grid that a network, points [N, 2, 1, 1] -> scores [N, K], puts into each class."""
    places = torch.stack(torch.meshgrid(*_axes(extent), indexing="ij"), dim=-1).reshape(-1, 2)
    return _dots("region of class", places, net(places[:, :, None, None]).argmax(1), REGION_RADIUS)


def draw_points(batch: Batch) -> list[Series]:
    """The points [N, 2, 1, 1] of each class of a batch."""
    return _dots("class", batch.images.flatten(1), batch.targets.argmax(1), POINT_RADIUS)


def _dots(name: str, places: Tensor, labels: Tensor, radius: float) -> list[Series]:
    """Dots at places [N, 2], a series for each label that some of them have."""
    series = []
    for label in sorted(set(labels.tolist())):
        dots: Points = [(x, y) for x, y in places[labels == label].tolist()]
        series.append(Series(f"{name} {label}", dots, run_style(label), radii=(radius,) * len(dots)))
    return series


def draw_contours(function: Callable[[Tensor], Tensor], extent: Extent, levels: Sequence[float]) -> list[Series]:
    """The contours of a function, of a point [2], at some levels; each is made of pieces, one through every square that it crosses."""
    xs, ys = _axes(extent)
    heights = [[float(function(torch.stack([x, y]))) for y in ys] for x in xs]
    return [Series(f"height {level:g}", list(_contour(xs.tolist(), ys.tolist(), heights, level)), "whisker") for level in levels]


def _axes(extent: Extent) -> tuple[Tensor, Tensor]:
    (left, right), (bottom, top) = extent
    return torch.linspace(left, right, GRID), torch.linspace(bottom, top, GRID)


def _contour(xs: list[float], ys: list[float], heights: list[list[float]], level: float) -> Iterator[tuple[float, float | None]]:
    """The pieces of a contour, with a gap after each: in every square the line between the edges where the function passes the level."""
    for i, j in itertools.product(range(len(xs) - 1), range(len(ys) - 1)):
        corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
        crossings: list[tuple[float, float]] = []
        for (a, b), (c, d) in zip(corners, [*corners[1:], corners[0]], strict=True):
            start, end = heights[a][b] - level, heights[c][d] - level
            if (start < 0) != (end < 0):
                share = start / (start - end)
                crossings.append((xs[a] + share * (xs[c] - xs[a]), ys[b] + share * (ys[d] - ys[b])))
        for first, second in zip(crossings[::2], crossings[1::2], strict=True):
            yield first
            yield second
            yield second[0], None
