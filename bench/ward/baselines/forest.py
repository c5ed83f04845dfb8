"""A random forest on passive signals, which never sees the architecture, or the data set, of the case it judges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from bench.ward.baselines.signals import Signals

HEALTHY = "healthy"
TREES = 300
LIMIT = 1e6  # of a feature


def features_of(signals: Signals) -> np.ndarray:
    """The features of a training, float [F]: curves against chance, layers in their extremes, inputs and labels."""
    chance = math.log(signals.classes)
    losses = np.array(signals.losses or [chance]) / chance
    parts = np.array_split(losses, 8) if len(losses) >= 8 else [losses] * 8
    found = [float(part.mean()) for part in parts] + [float(losses[0]), float(losses[:10].std()), float(losses[-len(losses) // 5 :].std())]
    checks = signals.checks
    for number in (0, len(checks) // 2, -1):
        if not checks:
            found += [0.0] * 17
            continue
        check = checks[number]
        norms = [max(norm, 1e-12) for norm in check.norms]
        found += [check.accuracy, check.validation, check.accuracy - check.validation, check.zeros, float(np.mean(check.moved))]
        found += [math.log10(norms[0] / norms[-1]), math.log10(max(norms)), math.log10(min(norms))]
        found += [*_extremes(check.dead), *_extremes(check.extreme), *_extremes(check.sizes)]
        found += [math.log10(max(check.updates) + 1e-12), math.log10(min(check.updates) + 1e-12), math.log10(max(check.variances) + 1e-12)]
    found += [signals.input_low, signals.input_high, signals.input_std, signals.label_entropy, signals.largest_class]
    found += [
        float(signals.probabilities),
        float(signals.has_activation),
        signals.dropout,
        float(bool(signals.error)),
        math.log10(signals.steps),
    ]
    return np.clip(np.nan_to_num(np.array(found), nan=LIMIT, posinf=LIMIT, neginf=-LIMIT), -LIMIT, LIMIT)


def _extremes(values: list[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 0.0)


def judge_by_forest(features: np.ndarray, causes: list[str], groups: list[str]) -> list[list[tuple[str, float]]]:
    """For each case the causes with their probabilities, most likely first, by a forest trained on the other groups.

    Args:
        features: float [N, F].
        causes: of each case, `HEALTHY` for none.
        groups: the architecture or the data set of each case.
    """
    found: list[list[tuple[str, float]]] = [[] for _ in causes]
    labels, names = np.array(causes), np.array(groups)
    for group in sorted(set(groups)):
        forest: Any = RandomForestClassifier(TREES, class_weight="balanced_subsample", random_state=0, n_jobs=1)
        known = names != group
        forest.fit(features[known], labels[known])
        for row in np.flatnonzero(~known):
            shares = forest.predict_proba(features[row : row + 1])[0]
            order = np.argsort(-shares)[:5]
            found[row] = [(str(forest.classes_[k]), float(shares[k])) for k in order]
    return found
