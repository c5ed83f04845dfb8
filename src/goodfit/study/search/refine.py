"""Where to look: independent draws, a grid, and from coarse to fine: the hull of the best, widened, and extended where one is at an end."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from goodfit.study.search.space import Axis, Value

Values = dict[str, Value]

WIDEN = 0.1  # the hull grows by this share of its width at either side
LEAST = 0.04  # and is at least so wide, as a share of the axis
EDGE = 0.05  # a best value within this share of the axis of an end lies at its edge,
EXTEND = 0.25  # and the axis is then extended by this share
TOP = 0.25  # the share of the trials whose hull is taken,
FEWEST = 3  # but at least so many


def drawn(axes: Sequence[Axis], seed: int, stage: str, place: int) -> Values:
    """The values of one random trial, by nothing but the seed and the trial's place."""
    return {axis.name: axis.drawn(seed, stage, place) for axis in axes}


def grid(axes: Sequence[Axis], most: int) -> list[Values]:
    """The points of the largest grid of at most `most`: all choices, and equally many values of each number, in the middle of their share
    of the axis. The number axes take turns at one value more while that fits.
    """
    levels = [len(axis.choices) if axis.law == "one_of" else 1 for axis in axes]
    numbers = [i for i, axis in enumerate(axes) if axis.law != "one_of"]
    growing = True
    while growing:
        growing = False
        for i in numbers:
            room = axes[i].high - axes[i].low + 1 if axes[i].law == "integers" else math.inf
            if levels[i] < room and math.prod(levels) // levels[i] * (levels[i] + 1) <= most:
                levels[i] += 1
                growing = True
    columns = [[axis.at((j + 0.5) / n) for j in range(n)] for axis, n in zip(axes, levels, strict=True)]
    return [dict(zip((axis.name for axis in axes), row, strict=True)) for row in itertools.product(*columns)]


def best_of(scored: Sequence[tuple[Values, float]]) -> list[Values]:
    """The best trials, whose hull is looked at more finely: a quarter, at least three."""
    ranked = sorted(scored, key=lambda pair: -pair[1])  # sorted is stable: of equals the earlier
    return [values for values, _ in ranked[: max(FEWEST, math.ceil(TOP * len(ranked)))]]


def refined(axes: Sequence[Axis], best: Sequence[Values], reaches: Callable[[Axis, Value], bool]) -> tuple[tuple[Axis, ...], list[str]]:
    """The axes narrowed to the widened hull of `best`, best first, and warnings of those extended.

    An axis at whose edge the best lies is extended, when `reaches` says that a recipe takes its new end.
    """
    made, warnings = [], []
    for axis in axes:
        values = [one[axis.name] for one in best]
        if axis.law == "one_of":
            made.append(dataclasses.replace(axis, choices=tuple(c for c in axis.choices if c in values)))
            continue
        places = [axis.place(value) for value in values]
        pad = max(WIDEN * (max(places) - min(places)), LEAST / 2)
        low, high = max(0.0, min(places) - pad), min(1.0, max(places) + pad)
        ends = [float(axis.at(low)), float(axis.at(high))]
        if end := edge(axis, values[0]):
            beyond = axis.at(-EXTEND if end == "lower" else 1 + EXTEND)
            can = reaches(axis, beyond)
            if can:
                ends[0 if end == "lower" else 1] = float(beyond)
            what = f"the range is extended to {beyond:.3g}" if can else "no recipe takes values beyond"
            warnings.append(f"The best {axis.name} of {values[0]:.3g} lies at the {end} edge of {axis}: {what}.")
        made.append(dataclasses.replace(axis, low=min(ends), high=max(ends)))
    return tuple(made), warnings


def edge(axis: Axis, value: Value) -> str:
    """ "lower" or "upper" when a value lies at that edge of an axis, else ""."""
    if axis.law == "one_of":
        return ""
    if axis.law == "integers":
        return "lower" if value == axis.low else "upper" if value == axis.high else ""
    place = axis.place(value)
    return "lower" if place <= EDGE else "upper" if place >= 1 - EDGE else ""
