"""Rules of how the weights start: equal, too small, too large, or such that units are dead or saturated."""

from __future__ import annotations

import math

from torch import Tensor

from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.gain import measure_gain
from goodfit.doctor.network import DEFAULT_GAIN, HE_GAIN, geometric_mean
from goodfit.doctor.replay import Change

MIN_UNITS = 8  # of a layer whose dead units count
MANY_DEAD, MANY_ZEROS, ALL_DEAD = 0.6, 0.9, 0.98  # shares: of units that are zero for every image, and of single numbers
MANY_FLAT, NEARLY_ALL_FLAT = 0.5, 0.65
RANK_ONE = 0.02  # of a weight's norm that is left without its first direction
WEAK_SIGNAL, NO_SIGNAL = 0.1, 1e-4  # of what enters the head, between images: root mean square
SMALL_GAIN, TINY_GAIN = 0.5 * DEFAULT_GAIN, 0.15 * DEFAULT_GAIN
LARGE_GAIN, HUGE_GAIN = 2 * HE_GAIN, 4 * HE_GAIN
STRONG_SCORES = 3.0  # standard deviation of the scores of a start
LOUD, DEAFENING = 2.0, 10.0  # loss of a start over that of equal scores
MAX_INPUT_STD, MAX_INPUT_SHIFT = 4.0, 4.0  # beyond, it is the inputs that drive signals up or units dead
INITIALIZE = "Initialize weights by He's or Glorot's rule, and biases at zero."


def is_input_sound(exam: Examination) -> bool:
    """Whether inputs are neither large nor far from zero, so that what goes wrong behind them is the network's own doing."""
    start = exam.preflight
    return start.input_std < MAX_INPUT_STD and abs(start.input_mean) < MAX_INPUT_SHIFT * max(start.input_std, 1e-6)


def find_constant_init(exam: Examination) -> Finding | None:
    """The units of a hidden layer start equal, or all weights of one at zero, so that nothing sets its units apart."""
    network = exam.network
    parameters = dict(exam.start_model.named_parameters())
    equal, zero = [], []
    for layer, weight in zip(network.hidden, network.weights, strict=False):
        w = parameters[layer.name].detach().float()
        if not w.any():
            zero.append(layer.name)
        elif w.shape[0] >= 4 and not _is_grouped(w, weight.entering.units if weight.entering else 1) and measure_rest(w) < RANK_ONE:
            equal.append(layer.name)
    if equal:
        evidence = (
            f"In {len(equal)} of {len(network.hidden)} hidden layers all units start with the same weights, or multiples of them: they"
        )
        evidence += " see the same, get the same gradient, and stay alike."
    elif zero and network.signal < NO_SIGNAL:
        evidence = f"{len(zero)} of {len(network.hidden)} hidden layers start at zero: nothing of the image reaches the last layer, and no"
        evidence += " gradient reaches them."
    else:
        return None
    return Finding("constant_init", 0.97, evidence, "Draw the weights at random, by He's rule.")


def _is_grouped(w: Tensor, units: int) -> bool:
    """Whether a weight [O, I, ...] is a convolution's whose outputs see different inputs."""
    return w.ndim > 2 and w.shape[1] < units


def measure_rest(w: Tensor) -> float:
    """What is left of a weight [O, ...] in the norm, relative to all of it, without the direction of its longest row."""
    rows = w.flatten(1)
    direction = rows[rows.norm(dim=1).argmax()]
    direction = direction / direction.norm()
    return float((rows - (rows @ direction)[:, None] * direction).norm() / rows.norm())


def find_dead_network(exam: Examination) -> Finding | None:
    """A layer is zero for every image at the start, and nothing else leads to the scores."""
    dead = max((o.leaving.dead for o in exam.network.activations if o.leaving), default=0.0)
    if dead < ALL_DEAD or exam.network.signal != 0 or not is_input_sound(exam) or find_constant_init(exam):
        return None
    evidence = f"{100 * dead:.0f} % of the units of a layer are zero for every image at the start: the last layer gets the same for all of"
    return Finding("dead_relu", 0.97, f"{evidence} them, and no gradient reaches the layers before.", INITIALIZE)


def find_dead_relu(exam: Examination) -> Finding | None:
    """Many units of a layer are zero for every image at the start, or for nearly every, and do better where they are not."""
    signals = [o.leaving for o in exam.network.activations if o.leaving and o.leaving.units >= MIN_UNITS]
    dead, zeros = (max((getattr(signal, name) for signal in signals), default=0.0) for name in ("dead", "zeros"))
    if not is_input_sound(exam) or (dead < MANY_DEAD and zeros < MANY_ZEROS):
        return None
    gain = measure_gain(exam, Change(structure="centered"))
    if not gain.is_clear:
        return None
    evidence = (
        f"At the start, {100 * dead:.0f} % of the units of a layer are zero for every image, and {100 * zeros:.0f} % of all their outputs."
    )
    return Finding("dead_relu", 0.95, f"{evidence} With inputs of the activations centered: {gain}.", INITIALIZE)


def find_saturated(exam: Examination) -> Finding | None:
    """Most outputs of sigmoids or hyperbolic tangents are at the flat ends at the start, and new weights mend it."""
    flats = [o.flat for o in exam.network.activations if o.leaving and o.leaving.units >= MIN_UNITS and o.is_bounded]
    flat = max(flats, default=0.0)
    if flat < MANY_FLAT or not is_input_sound(exam) or exam.is_pretrained:
        return None
    evidence = f"{100 * flat:.0f} % of the outputs of a bounded activation are at its flat ends at the start"
    if sum(flats) / len(flats) > NEARLY_ALL_FLAT:
        return Finding("saturated", 0.95, f"{evidence}, where it has nearly no slope, and as many in the other layers.", INITIALIZE)
    gain = measure_gain(exam, Change(init="he"))
    if not gain.is_clear:
        return None
    return Finding("saturated", 0.95, f"{evidence}. With He's weights: {gain}.", INITIALIZE)


def find_init_too_small(exam: Examination) -> Finding | None:
    """Weights start small, hardly anything of the image reaches the head, and the network is stuck or new weights mend it."""
    network = exam.network
    weak = WEAK_SIGNAL * min(exam.preflight.input_std, 1.0)
    if len(network.weights) < 2 or exam.is_pretrained or not network.signal < weak:
        return None
    gains = [gain for gain in network.gains_without_norm() if gain > 0]
    norms = [o.leaving.rms for o in network.norms if o.leaving and o.leaving.rms > 0]
    small = min((geometric_mean(x) for x in (gains, norms) if x), default=math.inf)
    if not small < SMALL_GAIN:
        return None
    evidence = (
        f"Weights start {small / HE_GAIN:.3f} times as large as He's: what enters the last layer differs by {network.signal:.1g} between"
    )
    evidence += " images."
    own = measure_gain(exam)
    if small < TINY_GAIN and network.signal < NO_SIGNAL and (own.is_stuck or own.is_diverged):
        return Finding("init_too_small", 0.95, f"{evidence} After {own.steps} steps nothing is learned.", INITIALIZE)
    gain = measure_gain(exam, Change(init="he"))
    if not gain.is_clear and not (small < TINY_GAIN and gain.accuracy > gain.own_accuracy):
        return None
    return Finding("init_too_small", 0.95, f"{evidence} With He's weights: {gain}.", INITIALIZE)


def find_init_too_large(exam: Examination) -> Finding | None:
    """Weights start large, scores and loss with them, and new weights mend it."""
    network, start = exam.network, exam.preflight
    if not network.weights or exam.is_pretrained or not is_input_sound(exam):
        return None
    largest = max([*network.gains_without_norm(), network.layers[-1].gain])
    even = exam.loss_shape["undecided"]
    is_loud = not start.output.std < STRONG_SCORES or not start.loss < LOUD * even
    if largest < LARGE_GAIN or not is_loud:
        return None
    evidence = (
        f"Weights start up to {largest / HE_GAIN:.1f} times as large as He's: scores have a standard deviation of {start.output.std:.3g},"
    )
    evidence += f" and the loss is {start.loss:.3g}; {even:.2f} for equal scores."
    if largest > HUGE_GAIN and not start.loss < DEAFENING * even:
        return Finding("init_too_large", 0.95, evidence, INITIALIZE)
    gain = measure_gain(exam, Change(init="he"))
    if not gain.is_clear:
        return None
    return Finding("init_too_large", 0.95, f"{evidence} With He's weights: {gain}.", INITIALIZE)


RULES = (
    Rule(
        "constant_init",
        Stage.START,
        find_constant_init,
        {
            "dead_relu": "there weights differ, and biases or inputs keep units at zero",
            "a head at zero": "it sets itself apart by its labels",
        },
    ),
    Rule("dead_relu", Stage.START, find_dead_network, {"constant_init": "there the weights are all zero, or equal"}),
    Rule(
        "dead_relu",
        Stage.EARLY,
        find_dead_relu,
        {"lr_too_high": "there units die after a spike of the loss", "inputs_not_scaled": "there inputs are large or far from zero"},
    ),
    Rule(
        "saturated",
        Stage.EARLY,
        find_saturated,
        {"vanishing_gradient": "there units are not at the flat ends", "inputs_not_scaled": "there inputs are large"},
    ),
    Rule(
        "init_too_small",
        Stage.EARLY,
        find_init_too_small,
        {"lr_too_low": "there signals reach the head", "vanishing_gradient": "there weights start no smaller than torch's own"},
    ),
    Rule(
        "init_too_large",
        Stage.EARLY,
        find_init_too_large,
        {"inputs_not_scaled": "there inputs are large", "lr_too_high": "there the loss starts near that of equal scores"},
    ),
)
