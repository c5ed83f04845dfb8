"""The values of trials: random draws, a grid, and axes refined to the hull of the best trials, or extended where the best is at an edge."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from goodfit.study.search.space import Axis, Value

Values = dict[str, Value]

BEST_SHARE = 0.25  # of the trials; the fine stage draws within the hull of their values
MIN_BEST_TRIALS = 3
HULL_MARGIN = 0.1  # at either side, as a share of the hull's width
MIN_HULL_WIDTH = 0.04  # as a share of the axis
EDGE_SHARE = 0.05  # of the axis, from each end: a best value there may have better ones beyond
EXTENSION = 0.25  # of such an axis, as a share of it


def draw_values(axes: Sequence[Axis], seed: int, stage: str, place: int) -> Values:
    """Draw the values of one random trial; they depend on the seed, the stage and the trial's place alone."""
    return {axis.name: axis.draw(seed, stage, place) for axis in axes}


def grid_values(axes: Sequence[Axis], max_points: int) -> list[Values]:
    """The points of the largest grid of at most `max_points`: all choices, and equally many values of each number, in the middle of their
    share of the axis. The number axes take turns at one value more while that fits.
    """
    levels = [len(axis.choices) if axis.law == "one_of" else 1 for axis in axes]
    numbers = [i for i, axis in enumerate(axes) if axis.law != "one_of"]
    growing = True
    while growing:
        growing = False
        for i in numbers:
            max_levels = axes[i].high - axes[i].low + 1 if axes[i].law == "integers" else math.inf
            if levels[i] < max_levels and math.prod(levels) // levels[i] * (levels[i] + 1) <= max_points:
                levels[i] += 1
                growing = True
    columns = [[axis.value_at((j + 0.5) / n) for j in range(n)] for axis, n in zip(axes, levels, strict=True)]
    return [dict(zip((axis.name for axis in axes), point, strict=True)) for point in itertools.product(*columns)]


def select_best(scored: Sequence[tuple[Values, float]]) -> list[Values]:
    """The values of the best trials, the best first: a quarter of them, at least three."""
    ranked = sorted(scored, key=lambda pair: -pair[1])  # sorted is stable: of equals the earlier
    return [values for values, _ in ranked[: max(MIN_BEST_TRIALS, math.ceil(BEST_SHARE * len(ranked)))]]


def refine_axes(
    axes: Sequence[Axis], best: Sequence[Values], is_valid: Callable[[Axis, Value], bool]
) -> tuple[tuple[Axis, ...], list[str]]:
    """Narrow the axes to the widened hull of `best`, best first; returns them, and a warning for each axis at whose edge the best lies.

    Such an axis is extended if `is_valid` says that a recipe takes its new end.
    """
    refined, warnings = [], []
    for axis in axes:
        values = [trial[axis.name] for trial in best]
        if axis.law == "one_of":
            refined.append(dataclasses.replace(axis, choices=tuple(c for c in axis.choices if c in values)))
            continue
        positions = [axis.position_of(value) for value in values]
        margin = max(HULL_MARGIN * (max(positions) - min(positions)), MIN_HULL_WIDTH / 2)
        low, high = max(0.0, min(positions) - margin), min(1.0, max(positions) + margin)
        ends = [float(axis.value_at(low)), float(axis.value_at(high))]
        if edge := find_edge(axis, values[0]):
            beyond = axis.value_at(-EXTENSION if edge == "lower" else 1 + EXTENSION)
            extends = is_valid(axis, beyond)
            if extends:
                ends[0 if edge == "lower" else 1] = float(beyond)
            what = f"the range is extended to {beyond:.3g}" if extends else "no recipe takes values beyond"
            warnings.append(f"{describe_edge(axis, values[0], edge)}: {what}.")
        refined.append(dataclasses.replace(axis, low=min(ends), high=max(ends)))
    return tuple(refined), warnings


def find_edge(axis: Axis, value: Value) -> str:
    """ "lower" or "upper" when a value lies at that edge of an axis, else ""."""
    if axis.law == "one_of":
        return ""
    if axis.law == "integers":
        return "lower" if value == axis.low else "upper" if value == axis.high else ""
    position = axis.position_of(value)
    return "lower" if position <= EDGE_SHARE else "upper" if position >= 1 - EDGE_SHARE else ""


def describe_edge(axis: Axis, value: Value, edge: str) -> str:
    """Say, without a full stop, at which edge of an axis the best value lies."""
    return f"The best {axis.name} of {value:.3g} lies at the {edge} edge of {axis}"
