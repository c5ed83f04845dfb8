"""Gradient descent: down the slope, by three step sizes."""

from __future__ import annotations

from torch import Tensor

from goodfit.lab.lesson import Lesson, Number, line
from goodfit.lab.optimization import descend
from goodfit.lab.pictures import Extent, draw_contours
from goodfit.optim.first_order import Sgd
from goodfit.report.charts import Chart, Series, run_style

STEPS, RATES = 20, (0.01, 0.3, 0.6)
PRINTED_STEPS = ((5.0, 2.0, "3"), (3.0, 4.0, "-1"), (-1.0, -0.5, "-0.5"))  # w, its change, and the slide's new w
LEVELS = (0.02, 0.1, 0.3, 0.5, 1.0, 2.0)
EXTENT: Extent = ((-0.3, 1.5), (-0.5, 1.6))


def valley(w: Tensor) -> Tensor:
    """A bent valley with its only minimum, 0, at (1, 1) (Murphy 2012, section 8.3.2)."""
    return 0.5 * (w[0] ** 2 - w[1]) ** 2 + 0.5 * (w[0] - 1) ** 2


def slide_step(w: float, change: float) -> float:
    """Where one step of SGD takes w when the learning rate times its gradient is `change`."""
    return float(descend(Sgd(0.5), lambda x: (x * 2 * change).sum(), [w], 1)[1])


def teach() -> Lesson:
    """Compute the lesson."""
    paths = {rate: descend(Sgd(rate), valley, [0.0, 0.0], STEPS) for rate in RATES}
    values = {rate: [float(valley(w)) for w in path] for rate, path in paths.items()}
    tracks = tuple(
        Series(f"rate {rate:g}", [(float(x), float(y)) for x, y in path], run_style(k)) for k, (rate, path) in enumerate(paths.items())
    )
    plane = Chart("The way of each rate", (*draw_contours(valley, EXTENT, LEVELS), *tracks), x="w0", y="w1", height=420)
    return Lesson(
        "A step goes against the gradient, w = w - rate x gradient. From (0, 0) towards the minimum, 0 at (1, 1), twenty small steps get"
        " nowhere near, twenty of 0.3 arrive, and of 0.6 they jump from side to side.",
        "CS231n, optimization",
        (
            *(Number(f"{w:g} - ({change:g})", slide_step(w, change), printed) for w, change, printed in PRINTED_STEPS),
            *(Number(f"loss after {STEPS} steps at rate {rate:g}", values[rate][-1]) for rate in RATES),
            *(Number(f"distance from (1, 1) at rate {rate:g}", float((paths[rate][-1] - 1).norm())) for rate in RATES),
        ),
        charts=(
            plane,
            Chart(
                "Loss over the steps", tuple(line(f"rate {r:g}", values[r], k) for k, r in enumerate(RATES)), x="step", y="loss", log=True
            ),
        ),
    )
