"""The scatter of a search as text: scores over each value, stage by stage, so that coarse and fine can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goodfit.study.search.space import Axis
from goodfit.study.search.trials import Row
from goodfit.terminal.sketch import sketch_curve

MOST = 2  # numbers whose scatter is drawn, the most important ones
HEIGHT, WIDTH = 6, 48
FEWEST = 3  # trials worth a drawing


def scatters(rows: Sequence[Row], ranges: Mapping[str, tuple[Axis, ...]], importance: Mapping[str, float]) -> list[str]:
    """A drawing for each of the most important numbers and each stage with trials enough; trials that diverged are left out."""
    drawings = []
    axes = [axis for axis in next(iter(ranges.values()), ()) if axis.law != "one_of"]
    for axis in sorted(axes, key=lambda axis: -importance.get(axis.name, 0.0))[:MOST]:
        for stage, own in ranges.items():
            points = [(float(row.values[axis.name]), 100 * float(row.value or 0.0)) for row in rows if row.stage == stage and not row.why]
            if len(points) >= FEWEST:
                span = next(other for other in own if other.name == axis.name)
                drawings.append(scatter(points, span, f"{stage}: accuracy in % over {axis.name}"))
    return drawings


def scatter(points: Sequence[tuple[float, float]], axis: Axis, title: str) -> str:
    """The points (x, y) as dots over the whole of an axis."""
    gap = float("nan")
    apart = [(axis.low, gap), *(pair for x, y in sorted(points) for pair in ((x, y), (x, gap))), (axis.high, gap)]
    xs, ys = [x for x, _ in apart], [y for _, y in apart]
    return sketch_curve(xs, ys, title, axis.name, WIDTH, HEIGHT, log_x=axis.law == "log")
