"""Rules of gradients that die or grow on the way down, and of shortcuts that are not there."""

from __future__ import annotations

import math

from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.gain import measure_gain, measure_movement
from goodfit.doctor.network import HE_GAIN, geometric_mean, median
from goodfit.doctor.replay import Change
from goodfit.doctor.rules.initial import LARGE_GAIN, SMALL_GAIN, is_input_sound

DEEP_CHAIN, DEEP_WITH_NORM, VERY_DEEP = 4, 12, 20  # weights on the shortest way to the scores
DYING, WEAK, DEAD = 1e-2, 3e-3, 1e-5  # gradient of the first hidden weights over that of the last, each times the size of the weights
GROWING = 10.0
LAGGING, LEADING = 0.02, 30.0  # movement of the first hidden weights over that of the last
FAINT = 1e-3  # what of the image enters the head
LOUD_SIGNAL, LOUD_LOSS = 2.0, 1.6  # of what enters the head over the inputs; of the loss over that of equal scores


def find_missing_skip(exam: Examination) -> Finding | None:
    """A deep network with norms has no shortcuts, and is stuck, or learns better with them."""
    network = exam.network
    if network.shortest < DEEP_WITH_NORM or network.is_bounded:
        return None
    evidence = f"Every way to the scores leads through {network.shortest} layers of weights, with no shortcut past any."
    remedy = "Add shortcuts, x + f(x), as a residual network has."
    own = measure_gain(exam)
    if has_deep_chain(exam) and (own.is_stuck or own.is_diverged):
        evidence += f" The first get {network.gradient_ratio:.2g} times the gradient of the last, and {own.steps} steps bring"
        return Finding("missing_skip", 0.95, f"{evidence} {100 * own.own_accuracy:.0f} % of validation images right.", remedy)
    gain = measure_gain(exam, Change(structure="skips"))
    if not gain.is_clear and not (has_deep_chain(exam) and own.is_slow and gain.is_some):
        return None
    return Finding("missing_skip", 0.94, f"{evidence} With each layer's input added to its output: {gain}.", remedy)


def has_deep_chain(exam: Examination) -> bool:
    """Whether every way leads through very many weights, most of them with a norm."""
    return exam.network.shortest >= VERY_DEEP and len(exam.network.norms) > exam.network.depth / 2


def find_vanishing_gradient(exam: Examination) -> Finding | None:
    """The first weights get next to no gradient, and lag behind; or a deep chain is stuck, and ReLU with new weights mends it."""
    network = exam.network
    ratio, gains = network.gradient_ratio, network.gains_without_norm()
    if exam.is_pretrained or not is_input_sound(exam):
        return None
    remedy = "Use ReLU with He's weights, norms, or shortcuts, and look for what scales gradients down."
    evidence = f"The first weights get {ratio:.1g} times the gradient of the last hidden ones, each times the size of the weights"
    if ratio < (DEAD if network.is_bounded else WEAK) and network.signal > FAINT:
        lag, own = measure_lag(exam), measure_gain(exam)
        if lag < LAGGING or own.is_stuck:
            return Finding("vanishing_gradient", 0.95, f"{evidence}, and move {lag:.1g} times as far in {own.steps} steps.", remedy)
        return None
    is_small = bool(gains) and geometric_mean(gains) < SMALL_GAIN
    if network.shortest < DEEP_CHAIN or is_small or not (ratio < DYING or network.signal < FAINT):
        return None
    gain = measure_gain(exam, Change(structure="relu", init="he"))
    if not (gain.is_clear and gain.is_stuck):
        return None
    evidence += f", over {network.depth} layers{' with sigmoids or tanh' if network.is_bounded else ''}; {network.signal:.1g} of the"
    return Finding("vanishing_gradient", 0.95, f"{evidence} image reaches the head. With ReLU and He's weights: {gain}.", remedy)


def find_exploding_gradient(exam: Examination) -> Finding | None:
    """Gradients grow from layer to layer on the way down, or signals on the way up though weights are not large; and training suffers."""
    network, start = exam.network, exam.preflight
    ratio, growth = network.gradient_ratio, network.signal / max(start.input_std, 1e-6)
    largest = max([*network.gains_without_norm(), *(layer.gain for layer in network.layers[-1:])], default=0.0)
    is_growing = ratio > GROWING
    is_loud = growth > LOUD_SIGNAL and start.loss > LOUD_LOSS * exam.loss_shape["undecided"]
    is_loud = is_loud and largest < LARGE_GAIN and not any(o.kind == "dropout" and 0 < o.rate < 1 for o in network.operations)
    if exam.is_pretrained or not is_input_sound(exam) or has_deep_chain(exam) or not (is_growing or is_loud):
        return None
    own = measure_gain(exam)
    if not (own.is_stuck or own.is_diverged or (is_growing and measure_lag(exam) > LEADING)):
        return None
    if is_growing:
        evidence = f"The first weights get {ratio:.2g} times the gradient of the last hidden ones, each times the size of the weights"
    else:
        evidence = f"Signals grow {growth:.1f} times up to the last layer, with weights of at most {largest / HE_GAIN:.1f} times He's"
    evidence += (
        f"; the loss starts at {start.loss:.2f}, and {own.steps} steps bring {100 * own.own_accuracy:.0f} % of validation images right."
    )
    remedy = "Initialize by He's rule, add norms, clip the gradient, and look for what scales signals or gradients up."
    return Finding("exploding_gradient", 0.96, evidence, remedy)


def measure_lag(exam: Examination) -> float:
    """How far the first hidden weights have moved over how far the last have, each relative to their size: medians of some."""
    movement = measure_movement(exam)
    moved = [movement[layer.name] for layer in exam.network.hidden if layer.name in movement and layer.gradient > 0]
    n = max(min(3, len(moved) // 3), 1)
    last = median(moved[-n:])
    return median(moved[:n]) / last if last > 0 else math.nan


RULES = (
    Rule(
        "missing_skip",
        Stage.EARLY,
        find_missing_skip,
        {"vanishing_gradient": "there activations are bounded, or there are no norms", "lr_too_low": "there shortcuts gain nothing"},
    ),
    Rule(
        "vanishing_gradient",
        Stage.EARLY,
        find_vanishing_gradient,
        {"init_too_small": "there weights start smaller than torch's own", "missing_skip": "there norms keep the signal up"},
    ),
    Rule(
        "exploding_gradient",
        Stage.EARLY,
        find_exploding_gradient,
        {
            "init_too_large": "there weights are far larger than He's, and gradients do not grow from layer to layer",
            "lr_too_high": "there signals and gradients start at the size of the inputs",
        },
    ),
)
