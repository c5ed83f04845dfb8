"""Lengths of schedules: a share of the whole budget, or text such as "10 epochs" that becomes a share once the budget is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self, cast

from goodfit.core.contracts import Facts, Schedule
from goodfit.core.errors import UsageError
from goodfit.core.parts import Part, part_name
from goodfit.core.progress import Length
from goodfit.core.settings import Share, settings_of

Span = Share | str
ROUNDING = 1e-9  # of t: where a share of a share ends, the next one begins


def share_of(span: float | str) -> float:
    """A span as a share of the budget.

    Raises:
        UsageError: the span is counted in epochs, steps or minutes, and was not bound to a budget.
    """
    if isinstance(span, float):
        return span
    length = Length.read(span, "length")
    if length.unit != "share":
        raise UsageError(
            f'A length of "{span}" has no meaning before the budget is known: bind the schedule, or write a share such as 0.1.'
        )
    return length.amount


class Spanned:
    """What a part is, beside its kind, whose settings of type Span are lengths: `bind` turns them into shares of the budget."""

    length: Span

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the part's kind, which comes after this class
        for value in self.spans().values():
            for span in value if isinstance(value, tuple) else (value,):
                Length.read(span, "length")

    def spans(self) -> dict[str, Any]:
        """The settings that are lengths, or tuples of them, by name."""
        found = [s.name for s in settings_of(cast(Any, type(self))) if s.hint in (Span, tuple[Span, ...])]
        return {name: getattr(self, name) for name in found}

    def bind(self, facts: Facts) -> Self:
        shares = {name: each(facts.lengths.share, value) for name, value in self.spans().items()}
        for name, share in shares.items():
            if max(share, default=0.0) > 1 if isinstance(share, tuple) else share > 1:
                raise UsageError(
                    f'{part_name(cast(Part, self))}: expected {name} to fit into the budget, received "{getattr(self, name)}".'
                )
        return dataclasses.replace(self, **shares)  # type: ignore[type-var]

    @property
    def share(self) -> float:
        """The share of the budget it takes."""
        return share_of(self.length)


class Shape(Spanned, Schedule):
    """A schedule that runs over its `length` (a share of the budget; 1: all there is) and then holds its last factor."""

    @property
    def share(self) -> float:
        return share_of(self.length)

    def within(self, stretch: float) -> Self:
        fitted = {name: each(lambda span: min(1.0, share_of(span) / stretch), value) for name, value in self.spans().items()}
        return dataclasses.replace(self, **fitted)  # type: ignore[type-var]

    def ends(self) -> tuple[float, ...]:
        """The t at which its cycles end, where its factor is lowest; none for schedules without cycles."""
        return ()

    def run(self, t: float) -> float:
        """How much of its length has passed at t, 0..1."""
        return min(1.0, t / self.share) if self.share else 1.0


def each(read: Callable[[float | str], float], value: Any) -> Any:
    """A length, or each of several, as `read` has it."""
    return tuple(read(span) for span in value) if isinstance(value, tuple) else read(value)
