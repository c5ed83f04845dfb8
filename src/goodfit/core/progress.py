"""Progress: a budget in epochs, steps, examples or minutes becomes t in 0..1, and everything else follows t."""

from __future__ import annotations

import dataclasses
import math
import re
import time

from goodfit.core.errors import UsageError

SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
COUNTS = ("epoch", "step", "example")
NUMBER = r"([0-9._]+(?:[eE][+-]?[0-9]+)?)"
COST = re.compile(rf"\s*{NUMBER}\s*([^\W\d_]+)\s+at\s+{NUMBER}\s*/\s*h(?:our)?\s*")  # 2 EUR at 1.50/h
_TIME_OF_DAY_AT_ZERO = time.time() - time.monotonic()  # of the monotonic clock


def steady_time() -> float:
    """The time of day in seconds since 1970, as it was when this process began and has gone on steadily since.

    Spans are measured by it: it does not jump where the system's clock is set back or ahead meanwhile.
    """
    return _TIME_OF_DAY_AT_ZERO + time.monotonic()


@dataclasses.dataclass(frozen=True)
class Cost:
    """A budget in money: an amount of a currency, on a machine at so much of it an hour."""

    amount: float
    currency: str
    hourly: float

    @staticmethod
    def read(text: str) -> Cost | None:
        """`"2 EUR at 1.50/h"`; None for a budget of another kind, and for amounts that are not finite numbers above 0."""
        if (match := COST.fullmatch(text)) is None:
            return None
        cost = Cost(_read_amount(match[1]), match[2], _read_amount(match[3]))
        return cost if cost.amount > 0 and cost.hourly > 0 else None

    @property
    def seconds(self) -> float:
        """How long the amount lasts."""
        return self.amount / self.hourly * SECONDS["h"]

    def describe(self, seconds: float) -> str:
        """Say what so many seconds cost, and of how much: `0.63 of 2 EUR`."""
        spent = seconds / SECONDS["h"] * self.hourly
        return f"{spent:{'.2f' if spent >= 1 else '.2g'}} of {self.amount:g} {self.currency}"


def _read_amount(text: str) -> float:
    """A finite number; -1 for any other text."""
    try:
        amount = float(text)
    except ValueError:
        return -1.0
    return amount if math.isfinite(amount) else -1.0


@dataclasses.dataclass(frozen=True)
class Length:
    """A length of training: an amount of "epoch", "step", "example", "second" or "share" (of the whole budget)."""

    amount: float
    unit: str

    @staticmethod
    def read(text: str | float, what: str = "budget") -> Length:
        """`"30 epochs"`, `"5000 steps"`, `"2e6 examples"`, `"10 min"`, `"1.5 h"`; a bare number is a share of the budget (and no budget).

        A budget in money (see `Cost`) is the time that it lasts.

        Raises:
            UsageError: the text has no positive amount or no known unit.
        """
        if what == "budget" and (cost := Cost.read(str(text))):
            return Length(cost.seconds, "second")
        match = re.fullmatch(rf"\s*{NUMBER}\s*([a-zA-Z]*)\s*", str(text))
        unit = match.group(2).lower() if match else "?"
        unit = unit if unit in SECONDS or not unit.endswith("s") else unit[:-1]
        amount = _read_amount(match.group(1)) if match else -1.0
        if amount > 0 and unit in SECONDS:
            return Length(amount * SECONDS[unit], "second")
        if amount > 0 and unit in COUNTS:
            return Length(amount, unit)
        if not unit and what != "budget" and 0 <= amount <= 1:
            return Length(amount, "share")
        money = ' or "2 EUR at 1.50/h"' if what == "budget" else ""
        examples = f'"30 epochs", "5000 steps", "2e6 examples"{"," if money else " or"} "10 min"{money}'
        raise UsageError(f'Expected a {what} like {examples}, received "{text}".')


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Converts lengths into steps and shares for one run: `epoch_steps` steps an epoch, `batch` images a step on average, a `budget`."""

    epoch_steps: int
    batch: float
    budget: Length

    @property
    def timed(self) -> bool:
        return self.budget.unit == "second"

    @property
    def total_steps(self) -> int:
        """Steps of the whole budget; only for budgets that are counted."""
        return self.steps(self.budget)

    def steps(self, length: Length) -> int:
        """A counted length in steps, at least one."""
        per = {"epoch": self.epoch_steps, "step": 1, "example": 1 / self.batch}
        if length.unit == "share":
            return max(1, round(length.amount * self.total_steps))
        return max(1, round(length.amount * per[length.unit]))

    def share(self, text: str | float) -> float:
        """A length as a share of the budget.

        Raises:
            UsageError: a counted length under a budget in minutes, or seconds under a counted one.
        """
        length = Length.read(text, "length")
        if length.unit == "share":
            return length.amount
        if self.timed != (length.unit == "second"):
            raise UsageError(f'A length of "{text}" is not known under a budget in {self.budget.unit}s: write it as a share, such as 0.1.')
        return length.amount / self.budget.amount if self.timed else self.steps(length) / self.total_steps

    def t(self, step: int, elapsed: float, reserve: float = 0.0, startup: float = 0.0) -> float:
        """Progress in 0..1 after `step` steps and `elapsed` seconds, the first `startup` of which passed before the first step.

        Of a budget in minutes `reserve` seconds are kept for the final evaluation.
        """
        if self.timed:
            return min(1.0, (elapsed - startup) / max(self.budget.amount - reserve - startup, 1e-9))
        return min(1.0, step / self.total_steps)


@dataclasses.dataclass(frozen=True)
class Period:
    """A length after which something happens again and again, counted in steps or in seconds of training."""

    length: Length
    lengths: Lengths

    def __post_init__(self) -> None:
        if self.length.amount <= 0:
            raise UsageError('Expected how often as a length above 0, such as "1 epoch" or "0.1" of the budget, received 0.')

    def number(self, step: int, elapsed: float, t: float) -> int:
        """How many times it has passed by now."""
        match self.length.unit:
            case "second":
                return int(elapsed / self.length.amount)
            case "share":
                return int(t / self.length.amount + 1e-9)
            case "epoch":
                return int(step / (self.length.amount * self.lengths.epoch_steps) + 1e-9)
        return step // self.lengths.steps(self.length)
