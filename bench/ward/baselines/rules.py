"""The published rules of AutoTrainer, DeepDiagnosis and UMLAUT on passive signals, with their own thresholds.

Each gives the causes of the ward that its findings stand for, in the order in which the tool speaks.
Sources: AutoTrainer (ICSE 2021, monitor.py), DeepDiagnosis (ICSE 2022, callbacks.py), UMLAUT (CHI 2021, its heuristics).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from bench.ward.baselines.signals import Check, Signals

Rules = Callable[[Signals], list[str]]


def _is_bad(value: float) -> bool:
    return math.isnan(value) or math.isinf(value)


# ---- AutoTrainer ------------------------------------------------------------------------------------------------------------------------

ACCURACY_GATE = 0.6  # its other default is 0.7


def apply_autotrainer(signals: Signals) -> list[str]:
    """AutoTrainer: gradients and activations count once the accuracy stays below the gate, is stuck or swings."""
    if any(_is_bad(loss) for loss in signals.losses):
        return ["exploding_gradient"]
    accuracies = [check.accuracy for check in signals.checks]
    changes = [b - a for a, b in pairwise(accuracies)]
    swings = sum(abs(b - a) >= 0.03 and a * b < 0 for a, b in pairwise(changes))
    is_oscillating = bool(changes) and swings >= 0.2 * len(accuracies)
    if signals.best >= ACCURACY_GATE and not is_oscillating:
        return []
    found: list[str] = []
    if signals.best < ACCURACY_GATE:
        found = [cause for check in signals.checks for cause in _autotrainer_layers(check)]
    if is_oscillating:
        found.append("lr_too_high")
    if not found and max((abs(change) for change in changes), default=0.0) < 0.01:
        found.append("lr_too_low")  # slow convergence
    return list(dict.fromkeys(found))


def _autotrainer_layers(check: Check) -> list[str]:
    first, last = check.norms[0], check.norms[-1]
    ratio = first / last if last else 0.0
    found = []
    if ratio < 1e-3 and first < 1e-4:
        found.append("vanishing_gradient")
    if ratio > 70 or any(_is_bad(norm) for norm in check.norms):
        found.append("exploding_gradient")
    if check.zeros >= 0.7:
        found.append("dead_relu")
    if any(size >= 10 for size in check.sizes):
        found.append("inputs_not_scaled")  # abnormal data
    return found


# ---- DeepDiagnosis ----------------------------------------------------------------------------------------------------------------------


def apply_deepdiagnosis(signals: Signals) -> list[str]:
    """DeepDiagnosis: the first rule that fires ends the run, and its decision tree names one fault."""
    for number, check in enumerate(signals.checks):
        found = _deepdiagnosis_check(signals, check, number)
        if found:
            return [found]
    return []


def _deepdiagnosis_check(signals: Signals, check: Check, number: int) -> str:
    is_last = number == len(signals.checks) - 1
    if _is_bad(check.loss) or any(_is_bad(size) for size in check.sizes):
        return _deepdiagnosis_tree(signals, check)
    if not all(check.moved):
        return "frozen_by_mistake"
    if any(share > 0.5 for share in check.extreme):
        return "saturated"
    if is_last and any(share >= 0.7 for share in check.dead):
        return "dead_relu"
    if any(gradient < 1e-7 for gradient in check.gradients):
        return "vanishing_gradient"
    before = signals.checks[number - 1] if number else check
    if number and (check.loss > before.loss or check.accuracy < before.accuracy):
        return _deepdiagnosis_tree(signals, check)
    return ""


def _deepdiagnosis_tree(signals: Signals, check: Check) -> str:
    """What is to blame for a loss that does not fall: the data, the weights, the rate, or else the optimizer."""
    if signals.input_low < -1 or signals.input_high > 1:
        return "inputs_not_scaled"
    if any(variance < 1e-5 for variance in check.variances):
        return "init_too_small"
    if any(variance > 10 for variance in check.variances):
        return "init_too_large"
    if any(update > 1e-1 for update in check.updates):
        return "lr_too_high"
    return "lr_too_low"  # below 1e-5, or "change the optimizer"


# ---- UMLAUT -----------------------------------------------------------------------------------------------------------------------------


def apply_umlaut(signals: Signals) -> list[str]:
    """UMLAUT: all of its checks speak, errors first and warnings then; the first hint is on top."""
    found = []
    if any(_is_bad(loss) for loss in signals.losses):
        found.append("exploding_gradient")
    if not signals.has_activation:
        found.append("missing_nonlinearity")
    if signals.probabilities:
        found.append("softmax_twice")
    if signals.input_low < -1 or signals.input_high > 1:
        found.append("inputs_not_scaled")
    if signals.optimizer.startswith("Adam") and not 1e-5 <= signals.lr <= 1e-2:
        found.append("lr_too_high" if signals.lr > 1e-2 else "lr_too_low")
    last = signals.checks[-1] if signals.checks else None
    if last and last.accuracy - last.validation > 0.1:
        found.append("overfitting")
    if last and (last.validation > 0.95 or last.validation > last.accuracy):
        found.append("leakage_exact")
    if signals.dropout > 0.5:
        found.append("dropout_too_strong")
    return found


RULES: dict[str, Rules] = {"autotrainer": apply_autotrainer, "deepdiagnosis": apply_deepdiagnosis, "umlaut": apply_umlaut}
