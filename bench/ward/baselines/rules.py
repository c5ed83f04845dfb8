"""The published rules of AutoTrainer, DeepDiagnosis and UMLAUT on passive signals, with their own thresholds.

Each gives the causes of the ward that its findings stand for, in the order in which the tool speaks.
Sources: AutoTrainer (ICSE 2021, monitor.py), DeepDiagnosis (ICSE 2022, callbacks.py), UMLAUT (CHI 2021, its heuristics). Left out are
AutoTrainer's and DeepDiagnosis' rules on the activation of the last layer, since scores without one are right in PyTorch.
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
    """AutoTrainer: gradients and activations count once an accuracy stays below the gate or is stuck; else swings of the accuracy do."""
    if any(_is_bad(loss) for loss in signals.losses) or any(_is_bad(norm) for check in signals.checks for norm in check.norms):
        return ["exploding_gradient"]
    training, validation = [check.accuracy for check in signals.checks], [check.validation for check in signals.checks]
    is_stuck = max(_largest_gain(training), _largest_gain(validation)) < 0.01
    if min(max(training), max(validation)) >= ACCURACY_GATE and not is_stuck:
        return ["lr_too_high"] if _swings(training) else []
    for is_found, cause in (
        (any(check.zeros >= 0.7 for check in signals.checks), "dead_relu"),
        (any(_ratio(check) > 70 for check in signals.checks), "exploding_gradient"),
        (any(_ratio(check) < 1e-3 and check.norms[0] < 1e-4 for check in signals.checks), "vanishing_gradient"),
        (any(size >= 10 for check in signals.checks for size in check.sizes), "inputs_not_scaled"),  # abnormal data, of the later version
        (is_stuck, "lr_too_low"),  # slow convergence
    ):
        if is_found:
            return [cause]
    return []


def _ratio(check: Check) -> float:
    return check.norms[0] / check.norms[-1] if check.norms[-1] else 0.0


def _largest_gain(accuracies: list[float]) -> float:
    return max((b - a for a, b in pairwise(accuracies)), default=0.0)


def _swings(accuracies: list[float]) -> bool:
    """Whether a fifth of the epochs have a peak at least 0.03 above the valley of the same number."""
    triples = list(zip(accuracies, accuracies[1:], accuracies[2:], strict=False))
    peaks = [b for a, b, c in triples if b >= a and b >= c]
    valleys = [b for a, b, c in triples if b <= a and b <= c]
    return sum(peak - valley >= 0.03 for peak, valley in zip(peaks, valleys, strict=False)) >= 0.2 * len(accuracies)


# ---- DeepDiagnosis ----------------------------------------------------------------------------------------------------------------------

WINDOW = 5  # epochs over which a value that stays the same is a finding


def apply_deepdiagnosis(signals: Signals) -> list[str]:
    """DeepDiagnosis: the first symptom ends the run, and its decision tree names one fault."""
    for number, check in enumerate(signals.checks, 1):
        found = _deepdiagnosis_check(signals, check, number)
        if found:
            return [found]
    return []


def _deepdiagnosis_check(signals: Signals, check: Check, number: int) -> str:
    if any(_is_bad(size) or size == 0 for size in check.sizes):  # numerical problem forward
        return _blame(signals, check, "weights data rate", "dead_relu")
    if number == len(signals.checks) and any(share >= 0.7 for share in check.dead):  # dead node
        return _blame(signals, check, "data weights rate", "dead_relu")
    if number % WINDOW == 0 and any(share > 0.5 for share in check.extreme):  # saturated activation
        return _blame(signals, check, "data weights rate", "saturated")
    if _is_bad(check.loss) or check.accuracy == 0:  # invalid loss or accuracy
        return _blame(signals, check, "rate", CHANGE_OPTIMIZER)
    window = signals.checks[number - WINDOW : number] if number % WINDOW == 0 else []
    if window and len({past.loss for past in window}) == 1:  # loss not decreasing
        return _blame(signals, check, "weights data rate", CHANGE_OPTIMIZER)
    if any(_is_bad(gradient) or gradient == 0 for gradient in check.gradients):  # numerical error in the gradient
        return "wrong_loss"  # "change the loss function or the activation"
    if any(gradient < 1e-7 for gradient in check.gradients):  # vanishing gradient
        return _blame(signals, check, "rate", "vanishing_gradient")
    if window and not all(check.moved):  # unchanged weights
        return _blame(signals, check, "weights rate", CHANGE_OPTIMIZER)
    return ""


CHANGE_OPTIMIZER = "frozen_by_mistake"  # "change the optimizer": the cause of the ward that is nearest


def _blame(signals: Signals, check: Check, order: str, otherwise: str) -> str:
    """Its questions in an order: poor weights, data to normalize, a learning rate out of range; or else what the symptom says."""
    for question in order.split():
        if question == "weights" and any(not 1e-5 <= variance <= 10 for variance in check.variances):
            return "init_too_small" if min(check.variances) < 1e-5 else "init_too_large"
        if question == "data" and (signals.input_low < -1 or signals.input_high > 1):
            return "inputs_not_scaled"
        if question == "rate" and any(not 1e-5 <= update <= 1e-1 for update in check.updates):
            return "lr_too_high" if max(check.updates) > 1e-1 else "lr_too_low"
    return otherwise


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
