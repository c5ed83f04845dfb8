"""Choosing the members of an ensemble: greedy selection on validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from goodfit.core.task import Task

Numbers = NDArray[np.float64]
Scorer = Callable[[Numbers, NDArray[Any]], tuple[float, float]]  # (answers [N, K], truth) -> a score and what decides between equals
MIN_PROBABILITY = float(np.finfo(np.float32).tiny)
MAX_MEMBERS = 50  # of a bag, drawn with replacement


def average_probabilities(probabilities: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> Numbers:
    """Average the probabilities [N, K] of each model, by weights that sum to 1, in float64."""
    mean = np.zeros(probabilities[0].shape)
    for own, weight in zip(probabilities, weights, strict=True):
        if weight:
            mean += weight * own.astype(np.float64)
    return mean


def score(probabilities: Numbers, labels: NDArray[np.int64]) -> tuple[float, float]:
    """(accuracy, -log loss) of probabilities [N, K]: the higher the better, compared in that order."""
    right = np.maximum(probabilities[np.arange(len(labels)), labels], MIN_PROBABILITY)
    return float((probabilities.argmax(1) == labels).mean()), float(np.log(right).mean())


def scorer_of(task: Task) -> Scorer:
    """The function that scores the answers of a task: by its figure, and of equals by the mean loss."""
    if task.name == "classes":
        return score

    def score_answers(answers: Numbers, truth: NDArray[Any]) -> tuple[float, float]:
        values = task.summarize_answers(torch.from_numpy(answers), torch.from_numpy(truth))
        return values[task.figure.key], -values[task.figure.loss_key]

    return score_answers


def greedy_bag(
    probabilities: Sequence[NDArray[np.float32]], labels: NDArray[Any], rounds: int = MAX_MEMBERS, scorer: Scorer = score
) -> list[int]:
    """Count how often each model is in the best bag: the model that helps the mean most is added, again and again, with replacement.

    It begins with the best single model. The best of all bags on the way is taken, the smallest of equals, so on these images its score
    is never below that model's. Of models with equal scores the first is added.
    Source: Caruana et al. 2004 (ensemble selection from libraries of models).
    """
    total, picked = np.zeros(probabilities[0].shape), list[int]()
    best, length = (-math.inf, 0.0), 0
    for size in range(1, rounds + 1):
        scores = [scorer((total + own) / size, labels) for own in probabilities]
        place = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
        total += probabilities[place]
        picked.append(place)
        if scores[place] > best:
            best, length = scores[place], size
    return [picked[:length].count(place) for place in range(len(probabilities))]


def greedy_soup(order: Sequence[int], score_of: Callable[[list[int]], tuple[float, float]]) -> list[int]:
    """Choose the models of a soup: in `order`, the best first, each is added unless the soup then scores worse.

    `score_of` gives the score of the soup of some models. Source: Wortsman et al. 2022 (model soups), recipe 1.
    """
    chosen = [order[0]]
    best = score_of(chosen)
    for place in order[1:]:
        if (score_with := score_of([*chosen, place]))[0] >= best[0]:
            chosen, best = [*chosen, place], score_with
    return chosen
