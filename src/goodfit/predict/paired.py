"""Comparing two classifiers on the same images: how much better one is, and whether that could be luck."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodfit.core.label_scores import MIDDLE, RankedLabels, count_draws, mean_of_known
from goodfit.core.number_scores import summarize_errors
from goodfit.core.predictions import Predictions

Right = NDArray[np.bool_]  # [copies, images]: whether each copy of a classifier is right about each image
BOOTSTRAP_DRAWS = 10_000
DRAWS_AT_ONCE = 1000  # with several copies a side there may be as many patterns as images
FIGURES_AT_ONCE = 100  # draws for each of which the figure is computed anew
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """The accuracy of `one` less that of the `other` on `images` that both judged, its 95 % `interval` (low, high) and the p-value.

    `only_one` and `only_other` are the images that one alone is right about, `p` is McNemar's; None where a side has several copies.
    """

    images: int
    difference: float
    interval: tuple[float, float]
    only_one: int | None
    only_other: int | None
    p: float | None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "interval": list(self.interval)}


def mcnemar(only_one: int, only_other: int) -> float:
    """The exact two-sided p-value of McNemar's test: each image that one alone is right about is a toss of a fair coin.

    Source: McNemar 1947, with the binomial distribution in place of its approximation; computed in whole numbers.
    """
    tosses, least = only_one + only_other, min(only_one, only_other)
    ways = total = 1
    for k in range(least):
        ways = ways * (tosses - k) // (k + 1)
        total += ways
    return float(min(2**tosses, 2 * total) / 2**tosses)


def compare_paired(one: Right, other: Right, seed: int = 0) -> PairedDifference:
    """Compare classifiers on the same images in the same order; where a side has several copies (seeds), their means are compared.

    The interval is a paired bootstrap: images are drawn anew, the same for both sides, and the copies of a side that has several.
    Images on which all copies agree alike are drawn together, so a draw costs as many numbers as there are patterns of agreement.
    """
    n = one.shape[1]
    rng = np.random.Generator(np.random.PCG64(seed))
    patterns, counts = np.unique(np.concatenate([one, other]), axis=1, return_counts=True)
    signs = np.concatenate([patterns[: len(one)] / len(one), -patterns[len(one) :].astype(np.float64) / len(other)])
    differences = []
    for start in range(0, BOOTSTRAP_DRAWS, DRAWS_AT_ONCE):
        draws = min(DRAWS_AT_ONCE, BOOTSTRAP_DRAWS - start)
        shares = rng.multinomial(n, counts / n, size=draws) @ signs.T / n  # [draws, copies]
        weights = [rng.multinomial(m, np.full(m, 1 / m), size=draws) if m > 1 else np.ones((draws, 1)) for m in (len(one), len(other))]
        differences.append((shares * np.concatenate(weights, axis=1)).sum(1))
    low, high = np.quantile(np.concatenate(differences), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    difference = float(one.mean() - other.mean())
    if len(one) > 1 or len(other) > 1:
        return PairedDifference(n, difference, (float(low), float(high)), None, None, None)
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    return PairedDifference(n, difference, (float(low), float(high)), only_one, only_other, mcnemar(only_one, only_other))


def compare_predictions(one: Sequence[Predictions], other: Sequence[Predictions], seed: int = 0) -> PairedDifference:
    """Compare the predictions of models for the same images in the same order by the figure of their task; the means of several copies.

    Of labels and numbers the figure is no mean over images, so it is computed anew for each draw of a paired bootstrap; the draws are
    fewer where images and labels are many.
    """
    if one[0].task == "classes":
        return compare_paired(np.array([copy.correct for copy in one]), np.array([copy.correct for copy in other]), seed)
    n, rng = len(one[0].names), np.random.Generator(np.random.PCG64(seed))
    sides, differences = [[figure_of_weights(copy) for copy in side] for side in (one, other)], []
    draws = count_draws(one[0].probabilities.size)
    for start in range(0, draws, FIGURES_AT_ONCE):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(FIGURES_AT_ONCE, draws - start)).astype(np.float64)
        first, second = (np.mean([figures(counts) for figures in side], axis=0) for side in sides)
        differences.append(first - second)
    low, high = np.quantile(np.concatenate(differences), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    difference = float(np.mean([measure_figure(copy) for copy in one]) - np.mean([measure_figure(copy) for copy in other]))
    return PairedDifference(n, difference, (float(low), float(high)), None, None, None)


def measure_figure(predictions: Predictions) -> float:
    """The figure of predictions: their accuracy, mean average precision or R2."""
    if predictions.task == "classes":
        return float(predictions.correct.mean())
    return float(figure_of_weights(predictions)(np.ones((1, len(predictions.names))))[0])


def figure_of_weights(predictions: Predictions) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The function that computes the figure [D] of predictions of labels or numbers for weights [D, N] of their images."""
    answers, truth = predictions.probabilities.astype(np.float64), predictions.labels.astype(np.float64)
    if predictions.task == "numbers":
        return lambda weights: summarize_errors(answers, truth, weights)["r2"].mean(1)
    ranked = RankedLabels(answers, truth > MIDDLE)
    return lambda weights: np.array([mean_of_known(ranked.average_precisions(row)) for row in weights])


def align_on_shared_images(sides: Sequence[Sequence[Predictions]]) -> list[list[Predictions]] | str:
    """For each side, the predictions of each copy for the images that all copies of all sides judged; or why they cannot be compared.

    Images and classes are matched by name, in whatever order each copy has them.
    """
    copies = [copy for side in sides for copy in side]
    classes = copies[0].classes
    if any((set(copy.classes), copy.task) != (set(classes), copies[0].task) for copy in copies):
        return "their classes differ"
    names = sorted(set.intersection(*(set(copy.names.tolist()) for copy in copies)))
    if not names:
        return "they have no validation images in common"
    aligned = [select_images(copy, names, classes) for copy in copies]
    if any(not np.array_equal(copy.labels, aligned[0].labels) for copy in aligned):
        return "they label some images differently"
    remaining = iter(aligned)
    return [[next(remaining) for _ in side] for side in sides]


def select_images(predictions: Predictions, names: Sequence[str], classes: tuple[str, ...]) -> Predictions:
    """The predictions for the images of these names, in their order, with the classes in the order of `classes`."""
    row_of = {name: row for row, name in enumerate(predictions.names.tolist())}
    rows = np.array([row_of[name] for name in names], dtype=np.int64)
    order = np.array([predictions.classes.index(name) for name in classes], dtype=np.int64)
    labels = predictions.labels[rows]
    labels = np.argsort(order)[labels] if predictions.task == "classes" else labels[:, order]
    return Predictions(np.array(names, dtype=np.str_), labels, predictions.probabilities[rows][:, order], classes, predictions.task)
