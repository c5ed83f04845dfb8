"""Schedules in sequence."""

from __future__ import annotations

import dataclasses

from goodfit.core.contracts import Schedule
from goodfit.core.errors import UsageError
from goodfit.core.parts import ExternalPart, Part, pipe_parts, spell
from goodfit.schedules.span import T_TOLERANCE, Landmarks, SpannedSchedule


@dataclasses.dataclass(frozen=True)
class ComposedSchedule:
    """The factor over the whole budget: each part from its start on, with its own t from 0 to 1 over its stretch."""

    starts: tuple[float, ...]
    parts: tuple[Part, ...]

    def __call__(self, t: float) -> float:
        """The factor of the peak learning rate at t in 0..1."""
        place = max(i for i, start in enumerate(self.starts) if start <= t + T_TOLERANCE)
        start, end = self._stretch(place)
        elapsed = min(1.0, max(0.0, (t - start) / (end - start)))
        return float(self.parts[place](elapsed))  # type: ignore[operator]  # a Schedule, or the user's function of t

    def _stretch(self, place: int) -> tuple[float, float]:
        return self.starts[place], self.starts[place + 1] if place + 1 < len(self.starts) else 1.0

    def landmarks(self) -> Landmarks:
        """(t, factor) at the points that define the parts' shapes; where one part ends, the factor is that of the next."""
        factors: dict[float, float] = {}
        for place, part in enumerate(self.parts):
            start, end = self._stretch(place)
            for t, factor in part.landmarks() if isinstance(part, Schedule) else ():
                if t < 1 or end == 1.0:
                    factors[start + t * (end - start)] = factor
        return tuple(sorted(factors.items()))

    def cycle_ends(self) -> tuple[float, ...]:
        """The t at which cycles end, where the factor is lowest."""
        ends: set[float] = set()
        for place, part in enumerate(self.parts):
            start, end = self._stretch(place)
            ends |= {start + t * (end - start) for t in (part.cycle_ends() if isinstance(part, SpannedSchedule) else ())}
        return tuple(sorted(ends))


def compose(schedule: Part) -> ComposedSchedule:
    """Make one function of t of a schedule or a pipe of them: each part takes its share of the budget, the last one what remains.

    Raises:
        UsageError: a part before the last leaves nothing for those after it.
    """
    parts = pipe_parts(schedule)
    if not parts:
        raise UsageError("Expected a schedule such as constant, received none.")
    starts = part_starts(schedule)
    ends = [*starts[1:], 1.0]
    stretches = [(start, end, part) for start, end, part in zip(starts, ends, parts, strict=True) if end > start]
    fitted = [part if isinstance(part, ExternalPart) else part.within(end - start) for start, end, part in stretches]  # type: ignore[attr-defined]
    return ComposedSchedule(tuple(start for start, _, _ in stretches), tuple(fitted))


def part_starts(pipe: Part) -> list[float]:
    """The share of the budget at which each part of a pipe starts: the sum of the lengths before it.

    Raises:
        UsageError: a part before the last leaves nothing for those after it.
    """
    starts = [0.0]
    for part in pipe_parts(pipe)[:-1]:
        starts.append(starts[-1] + float(getattr(part, "share", 1.0)))
        if starts[-1] >= 1 - T_TOLERANCE:
            raise UsageError(
                f'"{spell(pipe)}": {spell(part)} takes the whole budget, so nothing can follow it; give it a length, a share of the budget.'
            )
    return starts
