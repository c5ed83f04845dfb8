"""What a lesson is: what a slide says, numbers beside those it prints, tables, pictures as data, and where the slide errs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from goodfit.report.charts import Chart, Series, run_style

Rows = tuple[tuple[str | float, ...], ...]  # of a table


@dataclasses.dataclass(frozen=True)
class Number:
    """A number that a lesson computes; `printed` is what the slide prints in its place, `note` what it is or shows."""

    name: str
    value: float
    printed: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a lesson; the first cell of each row names it."""

    title: str
    header: tuple[str, ...]
    rows: Rows


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A worked example of the slides, computed now.

    `slide` is what the slide says, in a sentence or two, `source` the lecture's topic, `erratum` where it errs and what is right (empty
    where it does not). `name` and `title` are those of the lesson's file.
    """

    slide: str
    source: str
    numbers: tuple[Number, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    erratum: str = ""
    name: str = ""
    title: str = ""

    def __getitem__(self, name: str) -> float:
        """The number of a name."""
        (found,) = [number.value for number in self.numbers if number.name == name]
        return found

    def table(self, title: str) -> dict[str, tuple[str | float, ...]]:
        """The rows of a table, without their first cell, by that cell."""
        (found,) = [table for table in self.tables if table.title == title]
        return {str(first): tuple(rest) for first, *rest in found.rows}

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: numbers that are not finite become None."""
        plain: dict[str, Any] = replace_nonfinite(dataclasses.asdict(self))
        return plain


def replace_nonfinite(content: Any) -> Any:
    """Replace every number that is not finite, which JSON does not have, by None, in lists and dictionaries of any depth."""
    if isinstance(content, dict):
        return {key: replace_nonfinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [replace_nonfinite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def line(label: str, ys: Sequence[float], place: int, xs: Sequence[float] = ()) -> Series:
    """A line of a chart through (xs, ys), or (0, ys[0]), (1, ys[1]), ...; `place` is its place among the chart's lines, for its color."""
    xs = xs or range(len(ys))
    return Series(label, [(float(x), float(y) if math.isfinite(y) else None) for x, y in zip(xs, ys, strict=True)], run_style(place))
