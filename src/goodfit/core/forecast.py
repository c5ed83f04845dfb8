"""What a training was planned to reach, and how right that was."""

from __future__ import annotations

import dataclasses

from goodfit.core.words import format_percent


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The accuracy that a training is expected to end with, from `low` to `high` nineteen times in twenty, on data like `data`."""

    accuracy: float
    low: float
    high: float
    data: str

    def __str__(self) -> str:
        low, high = (format_percent(x) for x in (self.low, self.high))
        return f"{format_percent(self.accuracy)} ({low} to {high}) on data like {self.data}"

    def compare(self, accuracy: float) -> str:
        """Say in a sentence how right it was, once `accuracy` is measured."""
        points = 100 * abs(accuracy - self.accuracy)
        side = "above" if accuracy > self.accuracy else "below"
        within = "within" if self.low <= accuracy <= self.high else "outside"
        return f"The plan expected {self}; this is {points:.1f} points {side} it, {within} its range."
