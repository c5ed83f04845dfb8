"""Lengths of schedules: a share of the whole budget, or text such as "10 epochs" that becomes a share once the budget is known."""

from __future__ import annotations

import dataclasses
from typing import Self

from goodfit.core.catalog import name_of
from goodfit.core.contracts import Facts, Schedule
from goodfit.core.errors import UsageError
from goodfit.core.progress import Length
from goodfit.core.settings import Share, settings_of

Span = Share | str


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


class Shape(Schedule):
    """A schedule that runs over its `length` (a share of the budget; 1: all there is) and then holds its last factor.

    Settings of type Span are lengths: `bind` turns them into shares, `within` fits them to a stretch of a pipe.
    """

    length: Span

    def __post_init__(self) -> None:
        super().__post_init__()
        for value in self._spans().values():
            Length.read(value, "length")

    def _spans(self) -> dict[str, float | str]:
        return {setting.name: getattr(self, setting.name) for setting in settings_of(type(self)) if setting.hint == Span}

    def bind(self, facts: Facts) -> Self:
        shares = {name: facts.lengths.share(span) for name, span in self._spans().items()}
        for name, share in shares.items():
            if share > 1:
                raise UsageError(f'{name_of(self)}: expected {name} to fit into the budget, received "{getattr(self, name)}".')
        return dataclasses.replace(self, **shares)  # type: ignore[type-var]

    @property
    def share(self) -> float:
        return share_of(self.length)

    def within(self, stretch: float) -> Self:
        fitted = {name: min(1.0, share_of(span) / stretch) for name, span in self._spans().items()}
        return dataclasses.replace(self, **fitted)  # type: ignore[type-var]

    def run(self, t: float) -> float:
        """How much of its length has passed at t, 0..1."""
        return min(1.0, t / self.share) if self.share else 1.0
