"""Which models an ensemble is of: greedy selection on validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
TINY = float(np.finfo(np.float32).tiny)
ROUNDS = 50  # members of a bag at most, drawn with replacement


def average(probabilities: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> Numbers:
    """The mean [N, K] float64 of the probabilities [N, K] of each model, by weights that sum to 1."""
    mean = np.zeros(probabilities[0].shape)
    for own, weight in zip(probabilities, weights, strict=True):
        if weight:
            mean += weight * own.astype(np.float64)
    return mean


def score(probabilities: Numbers, labels: NDArray[np.int64]) -> tuple[float, float]:
    """(accuracy, -log loss) of probabilities [N, K]: the higher the better, compared in that order."""
    right = np.maximum(probabilities[np.arange(len(labels)), labels], TINY)
    return float((probabilities.argmax(1) == labels).mean()), float(np.log(right).mean())


def greedy(probabilities: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], rounds: int = ROUNDS) -> list[int]:
    """How often each model is in the best bag: one model at a time is added, with replacement, the one with which the mean scores best.

    It begins with the best single model. Of all bags on the way the best is taken, the smallest of equals, so on these images its score
    is never below that model's. Models of equal score count in their order.
    Source: Caruana et al. 2004 (ensemble selection from libraries of models).
    """
    total, picked = np.zeros(probabilities[0].shape), list[int]()
    best, length = (-1.0, 0.0), 0
    for size in range(1, rounds + 1):
        scores = [score((total + own) / size, labels) for own in probabilities]
        place = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
        total += probabilities[place]
        picked.append(place)
        if scores[place] > best:
            best, length = scores[place], size
    return [picked[:length].count(place) for place in range(len(probabilities))]


def greedy_soup(order: Sequence[int], score_of: Callable[[list[int]], tuple[float, float]]) -> list[int]:
    """Which models a soup is of: in `order`, the best first, each is stirred in unless the soup then scores worse.

    `score_of` gives the score of the soup of some models. Source: Wortsman et al. 2022 (model soups), recipe 1.
    """
    chosen = [order[0]]
    best = score_of(chosen)
    for place in order[1:]:
        if (found := score_of([*chosen, place]))[0] >= best[0]:
            chosen, best = [*chosen, place], found
    return chosen
