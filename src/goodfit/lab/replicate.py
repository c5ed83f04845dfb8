"""What one experiment of a claim leaves: the values of its effects, and what they were computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from goodfit.core.errors import GoodfitError

Curves = dict[tuple[str, str, str], list[tuple[float, float]]]  # lines of charts: (chart, x axis, line) -> points


class NothingToJudge(GoodfitError):
    """An experiment had no outcome from which its effects follow."""


@dataclasses.dataclass(frozen=True)
class Replicate:
    """One experiment with one seed: the value of each effect, in the order of the claim's effects, and what they were computed from.

    `bounds` are the places of the effects that are lower bounds, `numbers` are rows of a table.
    """

    effects: tuple[float, ...]
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    curves: Curves = dataclasses.field(default_factory=dict)
    bounds: tuple[int, ...] = ()


def tabulate(columns: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The rows of a table "what, of which" from the numbers of each arm by what they are."""
    return {f"{what}, {arm}": float(value) for what, column in columns.items() for arm, value in column.items()}
