"""Confidence intervals of a share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Z_95 = 1.959963984540054  # two-sided 95 %


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Compute the 95 % confidence interval of the share `successes / n` (Wilson 1927); it holds near 0 and 1 and for small n too."""
    p, z2 = successes / n, Z_95 * Z_95 / n
    center, half = (p + z2 / 2) / (1 + z2), Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return max(0.0, center - half), min(1.0, center + half)


def is_clearly_below(share: float, best: float, n: int) -> bool:
    """Whether a share of `n` lies below the 95 % confidence interval of the `best` such share, so that noise does not explain it."""
    return share < wilson_interval(round(best * n), n)[0]


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
