"""Scores of several labels an image: average precision, F1 at a threshold per label, and how often all labels are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodfit.core.interval import wilson_interval

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.int64]
MAX_DRAWS, MIN_DRAWS, MAX_DRAWN_VALUES = 1000, 100, 60_000_000  # of a bootstrap: fewer draws of many images and labels
MIDDLE = 0.5  # the threshold of a label that nothing speaks for another of


class RankedLabels:
    """The images in the order of their answers [N, K], label by label, from which average precision is computed for any weights.

    Images of equal answers stand together: their precision is that after all of them, as in scikit-learn. It is computed only where an
    image has the label, and label by label, whose numbers stay in the processor's cache.
    """

    def __init__(self, answers: Values, truth: Mask) -> None:
        self.shape = answers.shape
        self.labels = [self._rank(x, has_label) for x, has_label in zip(answers.T, truth.T, strict=True)]

    def average_precisions(self, weights: Values) -> Values:
        """The average precision [K] of each label, images weighed by `weights` [N]; NaN for a label that no weighed image has."""
        values = np.full(self.shape[1], np.nan)
        for k, (order, positives, ends, last) in enumerate(self.labels):
            positive = weights[positives]
            found = positive.cumsum()
            if len(found) and found[-1] > 0:
                total = weights[order].cumsum()[ends]
                values[k] = positive @ (found[last] / np.maximum(total, 1e-300)) / found[-1]
        return values

    @staticmethod
    def _rank(answers: Values, has_label: Mask) -> tuple[Places, Places, Places, Places]:
        """The order [N] of the images of one label and, for the P that have it: which they are, where those of their answer end in the
        order, and which of the P is the last of that answer.
        """
        order = np.argsort(-answers, kind="stable")
        ranked, places = answers[order], np.flatnonzero(has_label[order])
        is_end = np.append(ranked[1:] != ranked[:-1], True)
        ends = np.flatnonzero(is_end)[(np.cumsum(is_end) - is_end)[places]]
        return order, order[places], ends, np.searchsorted(ends, ends, side="right") - 1


def average_precisions(answers: Values, truth: Mask) -> Values:
    """The average precision [K] of answers [N, K]: the mean precision at each image that has the label; NaN where none has it.

    Source: Salton & McGill 1983; as scikit-learn's average_precision_score.
    """
    return RankedLabels(answers, truth).average_precisions(np.ones(len(answers)))


def mean_average_precision(answers: Values, truth: Mask) -> float:
    """The mean of the average precisions of the labels that some image has; 0 where none has any."""
    return mean_of_known(average_precisions(answers, truth))


def fit_thresholds(answers: Values, truth: Mask) -> Values:
    """Find for each label the threshold [K] of the highest F1 on images with answers [N, K]; it lies midway between two answers,
    or 0 and the lowest one.

    Of equals the one nearest to the middle, 0.5, which a label has that no image or every image has.
    Source: Lipton, Elkan & Naryanaswamy 2014 (optimal thresholding of classifiers to maximize F1).
    """
    thresholds = np.full(answers.shape[1], MIDDLE)
    for k in range(answers.shape[1]):
        values = np.unique(answers[:, k])
        if not truth[:, k].any() or truth[:, k].all() or len(values) < 2:
            continue
        cuts = np.concatenate([values[:1], values[1:] + values[:-1]]) / 2  # the first gives the label to all
        chosen = len(answers) - np.searchsorted(np.sort(answers[:, k]), cuts, side="left")
        positives = np.sort(answers[truth[:, k], k])
        right = len(positives) - np.searchsorted(positives, cuts, side="left")
        f1 = 2 * right / (chosen + len(positives))
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        thresholds[k] = cuts[best[np.abs(cuts[best] - MIDDLE).argmin()]]
    return thresholds


def choose_labels(answers: Values, truth: Mask, thresholds: Values | None) -> Mask:
    """The labels [N, K] that are given by thresholds [K]; without any, each half of the images by those fitted to the other half.

    So scores on the images that thresholds are fitted to are not flattered.
    """
    if thresholds is not None or len(answers) < 2:
        chosen: Mask = answers >= (np.full(answers.shape[1], MIDDLE) if thresholds is None else thresholds)
        return chosen
    chosen = np.empty(answers.shape, dtype=bool)
    halves = slice(0, None, 2), slice(1, None, 2)
    for half, other in zip(halves, reversed(halves), strict=True):
        chosen[half] = answers[half] >= fit_thresholds(answers[other], truth[other])
    return chosen


def score_labels(
    answers: Values, truth: Mask, loss: float, names: Sequence[str], thresholds: Sequence[float] | None = None
) -> dict[str, Any]:
    """Score the probabilities [N, K] of labels for those that the images have [N, K].

    Without `thresholds`, they are fitted to these images, which then must be validation images (see `choose_labels`).
    """
    ranked, n = RankedLabels(answers, truth), len(answers)
    values = ranked.average_precisions(np.ones(n))
    fitted = fit_thresholds(answers, truth) if thresholds is None else np.asarray(thresholds)
    chosen = choose_labels(answers, truth, None if thresholds is None else fitted)
    right, named, have = (chosen & truth).sum(0), chosen.sum(0), truth.sum(0)
    exact = int((chosen == truth).all(1).sum())
    f1 = [_ratio(2 * a, b + c) for a, b, c in zip(right, named, have, strict=True)]
    return {
        "task": "labels",
        "mean_average_precision": mean_of_known(values),
        "interval": bootstrap_interval(ranked, n, mean_of_known(values)),
        "exact_match": exact / n,
        "exact_interval": wilson_interval(exact, n),
        "f1": mean_of_known(np.array([x for x, count in zip(f1, have, strict=True) if count], dtype=float)),
        "loss": loss,
        "images": n,
        "labels": [
            {
                "name": name, "images": int(have[k]), "average_precision": float(values[k]) if have[k] else None, "f1": f1[k],
                "precision": _ratio(right[k], named[k]), "recall": _ratio(right[k], have[k]), "threshold": float(fitted[k]),
            }
            for k, name in enumerate(names)
        ],
    }  # fmt: skip


def count_draws(values: int) -> int:
    """How often a bootstrap draws from so many values, images times labels or numbers: less often from many."""
    return min(MAX_DRAWS, max(MIN_DRAWS, MAX_DRAWN_VALUES // values))


def bootstrap_interval(ranked: RankedLabels, images: int, value: float) -> tuple[float, float]:
    """The 95 % interval of the mean average precision, which is `value`, by a bootstrap over the images, always with the same draws.

    An image that is drawn twice stands beside itself, which raises the precision of rare labels: that bias of the draws is taken off.
    Source: Efron & Tibshirani 1993, chapter 10 (estimates of bias).
    """
    rng = np.random.Generator(np.random.PCG64(0))
    draws = count_draws(ranked.shape[0] * ranked.shape[1])
    counts = (rng.multinomial(images, np.full(images, 1 / images)).astype(np.float64) for _ in range(draws))
    values = np.array([mean_of_known(ranked.average_precisions(x)) for x in counts])
    low, high = np.quantile(values, [0.025, 0.975]) - values.mean() + value
    return max(0.0, float(low)), min(1.0, float(high))


def mean_of_known(values: Values) -> float:
    """The mean of the values that are not NaN; 0 where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator else None
