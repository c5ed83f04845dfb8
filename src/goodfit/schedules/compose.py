"""Schedules one after the other."""

from __future__ import annotations

import dataclasses

from goodfit.core.contracts import Schedule
from goodfit.core.errors import UsageError
from goodfit.core.parts import ExternalPart, Part, pipe_parts, spell
from goodfit.schedules.span import Shape

ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Composed:
    """The factor over the whole budget: each part from its start on, with its own t running 0..1 over its stretch."""

    starts: tuple[float, ...]
    parts: tuple[Part, ...]

    def __call__(self, t: float) -> float:
        """The factor of the peak learning rate at t in 0..1."""
        place = max(i for i, start in enumerate(self.starts) if start <= t + ROUNDING)
        start, end = self._stretch(place)
        passed = min(1.0, max(0.0, (t - start) / (end - start)))
        return float(self.parts[place](passed))  # type: ignore[operator]  # a Schedule, or the user's function of t

    def _stretch(self, place: int) -> tuple[float, float]:
        return self.starts[place], self.starts[place + 1] if place + 1 < len(self.starts) else 1.0

    def landmarks(self) -> tuple[tuple[float, float], ...]:
        """(t, factor) at the points that define the parts' shapes; where one part ends the next one's holds."""
        found: dict[float, float] = {}
        for place, part in enumerate(self.parts):
            start, end = self._stretch(place)
            for t, factor in part.landmarks() if isinstance(part, Schedule) else ():
                if t < 1 or end == 1.0:
                    found[start + t * (end - start)] = factor
        return tuple(sorted(found.items()))

    def ends(self) -> tuple[float, ...]:
        """The t at which cycles end, where the factor is lowest."""
        found: set[float] = set()
        for place, part in enumerate(self.parts):
            start, end = self._stretch(place)
            found |= {start + t * (end - start) for t in (part.ends() if isinstance(part, Shape) else ())}
        return tuple(sorted(found))


def compose(schedule: Part) -> Composed:
    """One function of t for a schedule or a pipe of them: each part takes its share of the budget, the last what remains.

    Raises:
        UsageError: a part before the last leaves nothing for those after it.
    """
    parts = pipe_parts(schedule)
    if not parts:
        raise UsageError("Expected a schedule such as constant, received none.")
    starts = starts_of(schedule)
    ends = [*starts[1:], 1.0]
    kept = [(start, end, part) for start, end, part in zip(starts, ends, parts, strict=True) if end > start]
    fitted = [part if isinstance(part, ExternalPart) else part.within(end - start) for start, end, part in kept]  # type: ignore[attr-defined]
    return Composed(tuple(start for start, _, _ in kept), tuple(fitted))


def starts_of(pipe: Part) -> list[float]:
    """Where each part of a pipe starts, as a share of the budget: after the lengths of those before it.

    Raises:
        UsageError: a part before the last leaves nothing for those after it.
    """
    starts = [0.0]
    for part in pipe_parts(pipe)[:-1]:
        starts.append(starts[-1] + float(getattr(part, "share", 1.0)))
        if starts[-1] >= 1 - ROUNDING:
            raise UsageError(
                f'"{spell(pipe)}": {spell(part)} ends with the budget, so nothing follows it; give it a length (a share of the budget).'
            )
    return starts
