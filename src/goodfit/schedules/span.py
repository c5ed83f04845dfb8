"""Spans of schedules: a share of the budget, or text such as "10 epochs" that becomes a share once the budget is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self, cast

from goodfit.core.contracts import Schedule
from goodfit.core.errors import UsageError
from goodfit.core.facts import Facts
from goodfit.core.parts import Part, part_name
from goodfit.core.progress import Length
from goodfit.core.settings import Share, settings_of

Span = Share | str
T_TOLERANCE = 1e-9  # differences in t up to this come from rounding
Landmarks = tuple[tuple[float, float], ...]  # (t, factor)


def to_share(span: float | str) -> float:
    """Convert a span to a share of the budget.

    Raises:
        UsageError: the span is in epochs, steps or minutes, and was not bound to a budget.
    """
    if isinstance(span, float):
        return span
    length = Length.read(span, "length")
    if length.unit != "share":
        raise UsageError(
            f'A length of "{span}" has no meaning before the budget is known: bind the schedule, or write a share such as 0.1.'
        )
    return length.amount


class SpanSettings:
    """A mixin for parts with settings of type Span: `bind` converts them to shares of the budget. It comes before the part's kind."""

    length: Span

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # that of the part's kind
        for value in self.spans().values():
            for span in value if isinstance(value, tuple) else (value,):
                Length.read(span, "length")

    def spans(self) -> dict[str, Any]:
        """The settings that are spans, or tuples of them, by name."""
        names = [s.name for s in settings_of(cast(Any, type(self))) if s.hint in (Span, tuple[Span, ...])]
        return {name: getattr(self, name) for name in names}

    def bind(self, facts: Facts) -> Self:
        shares = {name: map_spans(facts.lengths.share, value) for name, value in self.spans().items()}
        for name, share in shares.items():
            if max(share, default=0.0) > 1 if isinstance(share, tuple) else share > 1:
                raise UsageError(
                    f'{part_name(cast(Part, self))}: expected {name} to fit into the budget, received "{getattr(self, name)}".'
                )
        return dataclasses.replace(self, **shares)  # type: ignore[type-var]

    @property
    def share(self) -> float:
        """The share of the budget it takes."""
        return to_share(self.length)


class SpannedSchedule(SpanSettings, Schedule):
    """A schedule that runs over its `length` (a share of the budget; 1 is all of it) and then holds its last factor."""

    @property
    def share(self) -> float:
        return to_share(self.length)

    def within(self, stretch: float) -> Self:
        fitted = {name: map_spans(lambda span: min(1.0, to_share(span) / stretch), value) for name, value in self.spans().items()}
        return dataclasses.replace(self, **fitted)  # type: ignore[type-var]

    def cycle_ends(self) -> tuple[float, ...]:
        """The t at which its cycles end, where its factor is lowest; empty for schedules without cycles."""
        return ()

    def elapsed(self, t: float) -> float:
        """The elapsed share of its length at t, 0..1."""
        return min(1.0, t / self.share) if self.share else 1.0


def map_spans(convert: Callable[[float | str], float], value: Any) -> Any:
    """Apply `convert` to a span, or to each of a tuple of spans."""
    return tuple(convert(span) for span in value) if isinstance(value, tuple) else convert(value)
