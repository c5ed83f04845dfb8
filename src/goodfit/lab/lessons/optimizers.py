"""Optimizers racing: SGD, momentum, AdaGrad, RMSProp and Adam down the same surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from goodfit.core.contracts import Optimizer
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import descend, steps_until
from goodfit.lab.pictures import Extent, draw_contours
from goodfit.optim.first_order import Adagrad, Adam, Rmsprop, Sgd
from goodfit.report.charts import Chart, Series, run_style

STEPS, TOLERANCE = 250, 1e-2  # of the loss above its minimum
RACE_STEPS = 100
RACERS: dict[str, Callable[[float], Optimizer]] = {
    "sgd": Sgd,
    "momentum": lambda lr: Sgd(lr, momentum=0.9),
    "adagrad": Adagrad,
    "rmsprop": lambda lr: Rmsprop(lr, alpha=0.9),
    "adam": Adam,
}
RATES = (0.01, 0.03, 0.08, 0.25, 0.8)  # of which each takes its best


def ravine(w: Tensor) -> Tensor:
    """Twenty times as steep in one direction as in the other."""
    return 0.5 * (w[0] ** 2 + 20 * w[1] ** 2)


def banana(w: Tensor) -> Tensor:
    """A bent ravine with a flat ground, Rosenbrock's function with a factor of 10."""
    return (1 - w[0]) ** 2 + 10 * (w[1] - w[0] ** 2) ** 2


def saddle(w: Tensor) -> Tensor:
    """Down to the sides from a saddle at (0, 0), and up again further out: two minima, 0 at (0, 1) and (0, -1)."""
    return 0.5 * w[0] ** 2 + 0.25 * (w[1] ** 2 - 1) ** 2


SURFACES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float], Extent, tuple[float, ...]]] = {
    "ravine": (ravine, (-4.0, 1.0), ((-5.0, 1.5), (-1.6, 1.6)), (0.5, 2.0, 5.0, 10.0, 20.0)),
    "banana": (banana, (-1.0, 1.5), ((-1.6, 1.6), (-0.6, 2.0)), (0.1, 0.5, 2.0, 5.0, 15.0)),
    "saddle": (saddle, (1.5, 0.01), ((-1.8, 1.8), (-1.6, 1.6)), (0.05, 0.2, 0.5, 1.0, 1.5)),
}


def race(surface: Callable[[Tensor], Tensor], start: tuple[float, float], racer: str) -> tuple[float, Tensor, list[float]]:
    """The best rate of an optimizer on a surface, by the steps to the tolerance, then the last loss; its way [steps + 1, 2]; its losses."""
    best: tuple[tuple[float, ...], float, Tensor, list[float]] | None = None
    for rate in RATES:
        path = descend(RACERS[racer](rate), surface, start, STEPS)
        losses = [float(x) for x in surface(path.T)]
        steps = steps_until(losses, TOLERANCE)
        rank = tuple(math.inf if math.isnan(x) else x for x in (steps, losses[-1]))
        if best is None or rank < best[0]:
            best = rank, rate, path, losses
    assert best is not None
    return best[1:]


def draw_race(name: str) -> Chart:
    """The ways of all optimizers down a surface at one rate, which the reader chooses; each ends where it leaves the picture."""
    surface, start, extent, levels = SURFACES[name]
    tracks = []
    for rate in RATES:
        for k, (racer, part) in enumerate(RACERS.items()):
            points: list[tuple[float, float | None]] = []
            for x, y in descend(part(rate), surface, start, RACE_STEPS).tolist():
                if not all(low <= w <= high for w, (low, high) in zip((x, y), extent, strict=True)):
                    break
                points.append((x, y))
            tracks.append(Series(racer, points, run_style(k), choice=f"{rate:g}"))
    contours = draw_contours(surface, extent, levels)
    rates = tuple(f"{rate:g}" for rate in RATES)
    return Chart(
        f"The race on the {name}, at a rate of your choice", (*contours, *tracks), x="w0", y="w1", height=420, slider="learning rate",
        choices=rates,
    )  # fmt: skip


def teach() -> Lesson:
    """Compute the lesson."""
    rows: list[tuple[str | float, ...]] = []
    charts = []
    for name, (surface, start, extent, levels) in SURFACES.items():
        runs = {racer: race(surface, start, racer) for racer in RACERS}
        rows += [(f"{name}, {racer}", rate, steps_until(losses, TOLERANCE), losses[-1]) for racer, (rate, _, losses) in runs.items()]
        tracks = [
            Series(f"{racer}, rate {rate:g}", [(float(x), float(y)) for x, y in path[:200]], run_style(k))
            for k, (racer, (rate, path, _)) in enumerate(runs.items())
        ]
        curves = [line(racer, [max(x, 1e-12) for x in losses[:150]], k) for k, (racer, (_, _, losses)) in enumerate(runs.items())]
        charts += [
            Chart(f"The ways down the {name}", (*draw_contours(surface, extent, levels), *tracks), x="w0", y="w1", height=420),
            Chart(f"Loss on the {name}", tuple(curves), x="step", y="loss", log=True),
            draw_race(name),
        ]
    still = descend(Sgd(0.1), saddle, (1.5, 0.0), STEPS)[-1]
    return Lesson(
        "SGD jitters across a ravine and stops at saddle points; momentum carries on, AdaGrad and RMSProp give each direction a rate of its"
        " own, Adam does both.",
        "CS231n, optimization",
        (
            Number("distance of sgd from the saddle point, begun on its ridge", float(still.norm()), "", "its gradient there is zero"),
            Number("loss there", float(saddle(still)), "", "the minimum is 0"),
        ),
        (
            Table(
                f"Steps to a loss of {TOLERANCE:g}, at the best of {len(RATES)} rates",
                ("surface, optimizer", "rate", "steps", "loss in the end"),
                tuple(rows),
            ),
        ),
        tuple(charts),
    )
