"""Running means of answers: what the first 1, 2, 4, ... and all of them come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def running_means(answers: Iterable[Tensor], total: int) -> Iterator[tuple[int, Tensor]]:
    """(n, mean of the first n in float64) for n = 1, 2, 4, ... and the `total` of answers; each is asked for when its turn comes."""
    added = torch.zeros((), dtype=torch.float64)
    for n, answer in enumerate(answers, 1):
        added = added + answer.double()
        if n == total or n & (n - 1) == 0:
            yield n, added / n
