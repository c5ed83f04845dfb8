"""Whether a weight looks drawn at random, or learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_NUMBERS = 256  # of a weight: fewer always look drawn
MAX_DISTANCE = 2.2  # of Kolmogorov and Smirnov, times the root of n; of 100,000 drawn weights one exceeds it
MAX_NORM = 1.08  # largest singular value in units of that of drawn weights


def looks_drawn(weight: Tensor) -> bool:
    """Whether the numbers of a weight [n, ...] could be independent draws from a uniform or normal distribution around zero.

    Training leaves heavy tails and a few directions in which a weight is longer than chance makes it (Martin & Mahoney 2021). Unusual
    initializations look learned.
    """
    if weight.numel() < MIN_NUMBERS:
        return True
    x = weight.double().flatten(1)
    rms = float(x.square().mean().sqrt())
    if rms == 0:
        return False
    rows, columns = x.shape
    largest = float(torch.linalg.matrix_norm(x, 2)) / (rms * (math.sqrt(rows) + math.sqrt(columns)))
    ordered = x.flatten().sort().values
    bound = float(x.abs().max()) * (1 + 1 / x.numel())
    uniform = (ordered / bound + 1) / 2
    normal = (1 + torch.erf(ordered / (rms * math.sqrt(2)))) / 2
    return largest <= MAX_NORM and min(_measure_distance(uniform), _measure_distance(normal)) <= MAX_DISTANCE


def _measure_distance(expected: Tensor) -> float:
    """How far sorted numbers, as shares of the distribution that they are expected to have, are from it; times the root of n."""
    n = len(expected)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum((expected - steps[:-1]).abs(), (steps[1:] - expected).abs()).max()) * math.sqrt(n)
