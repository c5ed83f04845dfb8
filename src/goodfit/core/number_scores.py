"""Scores of numbers: mean absolute error, root mean squared error and R2, with bootstrap intervals, and how wide an interval must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
DRAWS, DRAWS_AT_ONCE = 2000, 100
MAX_POINTS = 400  # of predicted against true that are kept for each number
LEVEL = 0.9  # share of the true values that the interval around a predicted one is to cover


def score_numbers(answers: Values, truth: Values, loss: float, names: Sequence[str]) -> dict[str, Any]:
    """Score predicted numbers [N, K] for the true ones [N, K], each with the 95 % interval of a bootstrap over the images.

    "r2", "rmse" and "mae" of all are the means of those of the numbers. "points" of a number are pairs of its true and predicted value, at
    most MAX_POINTS, evenly spread.
    """
    whole = summarize_errors(answers, truth, np.ones((1, len(truth))))
    draws = bootstrap_errors(answers, truth)
    shown = np.linspace(0, len(truth) - 1, min(MAX_POINTS, len(truth))).astype(int)
    rows = []
    for k, name in enumerate(names):
        row: dict[str, Any] = {"name": name, "mean": float(truth[:, k].mean()), "deviation": float(truth[:, k].std())}
        for key, values in whole.items():
            row |= {key: float(values[0, k]), f"{key}_interval": interval(draws[key][:, k])}
        rows.append({**row, "points": [[float(truth[i, k]), float(answers[i, k])] for i in shown]})
    return {
        "task": "numbers",
        "r2": float(whole["r2"].mean()),
        "interval": interval(draws["r2"].mean(1)),
        "rmse": float(whole["rmse"].mean()),
        "mae": float(whole["mae"].mean()),
        "loss": loss,
        "images": len(truth),
        "numbers": rows,
    }


def summarize_errors(answers: Values, truth: Values, weights: Values) -> dict[str, Values]:
    """R2, RMSE and MAE, each [D, K], of numbers [N, K] whose images have the weights [D, N].

    Where all true values are equal, R2 is 1 if they are met, else 0, as in scikit-learn.
    """
    center = truth.mean(0)  # large numbers would lose digits in the difference of squares
    error, shifted, total = answers - truth, truth - center, weights.sum(1, keepdims=True)
    squared, absolute = weights @ np.square(error) / total, weights @ np.abs(error) / total
    spread = np.maximum(weights @ np.square(shifted) / total - np.square(weights @ shifted / total), 0.0)
    is_constant = spread <= 1e-24 * np.maximum(np.square(shifted).mean(0), 1e-300)
    r2 = np.where(is_constant, np.where(squared == 0, 1.0, 0.0), 1 - squared / np.where(is_constant, 1.0, spread))
    return {"r2": r2, "rmse": np.sqrt(squared), "mae": absolute}


def bootstrap_errors(answers: Values, truth: Values) -> dict[str, Values]:
    """R2, RMSE and MAE, each [DRAWS, K], on images drawn anew, always the same draws."""
    rng, n = np.random.Generator(np.random.PCG64(0)), len(truth)
    parts = []
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS_AT_ONCE).astype(np.float64)
        parts.append(summarize_errors(answers, truth, counts))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def interval(values: Values) -> tuple[float, float]:
    """The 95 % interval of bootstrapped values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


# ---- intervals around a predicted number -----------------------------------------------------------------------------------------


def fit_half_widths(answers: Values, truth: Values, level: float = LEVEL) -> list[float]:
    """How far from a predicted number the true one lies at most in a share `level` of the images, for each of K numbers.

    It is the quantile of the absolute errors that split conformal prediction takes, so that a new image is covered as often.
    Source: Lei et al. 2018 (distribution-free predictive inference for regression).
    """
    errors, n = np.sort(np.abs(answers - truth), axis=0), len(truth)
    place = min(n, math.ceil((n + 1) * level)) - 1
    return [float(x) for x in errors[place]]


def measure_coverage(answers: Values, truth: Values, half_widths: Sequence[float] | None = None) -> dict[str, Any]:
    """Measure which share of the true numbers lies within the half widths [K] of the predicted ones.

    With half widths of length 0, of a model that has none, nothing is measured. Where they are None, they are fitted to these images,
    which must then be validation images; so that the "coverage" of each number is not flattered, each half of the images is measured by
    those of the other half.
    """
    if half_widths is not None and not len(half_widths):
        return {"level": LEVEL, "half_widths": [], "coverage": []}
    parts = [(slice(None), half_widths or fit_half_widths(answers, truth))]
    if half_widths is None and len(truth) > 1:
        halves = slice(0, None, 2), slice(1, None, 2)
        parts = [(halves[i], fit_half_widths(answers[halves[1 - i]], truth[halves[1 - i]])) for i in (0, 1)]
    covered = np.empty(truth.shape, dtype=bool)
    for half, widths in parts:
        covered[half] = np.abs(answers[half] - truth[half]) <= np.asarray(widths)
    return {"level": LEVEL, "half_widths": list(half_widths or fit_half_widths(answers, truth)), "coverage": covered.mean(0).tolist()}
