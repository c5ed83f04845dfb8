"""Whether the weights of a network were drawn at random, or learned."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

MIN_NUMBERS = 256  # of a weight: fewer always look drawn
MIN_LEARNED = 0.3  # of the numbers in weights, for a network to be pretrained: some that have learned still look drawn
MAX_DISTANCE = 2.2  # of Kolmogorov and Smirnov, times the root of n; of 100,000 drawn weights one exceeds it
MAX_NORM = 1.08  # largest singular value in units of that of drawn weights


def is_pretrained(model: nn.Module, is_random: Callable[[str, Tensor], bool]) -> bool:
    """Whether a good part of the weights of a network was learned: they are not random, by name and value, and not constant.

    A random last weight does not count: pretrained networks get a new head.
    """
    weights = {name: p.detach() for name, p in model.named_parameters() if p.ndim >= 2}
    learned = [name for name, w in weights.items() if float(w.std()) > 0 and not is_random(name, w)]
    counted = list(weights)[: None if list(weights)[-1:] == learned[-1:] else -1]
    return sum(weights[name].numel() for name in learned) > MIN_LEARNED * sum(weights[name].numel() for name in counted)


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
