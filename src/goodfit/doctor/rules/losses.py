"""Rules of the loss: whether it is least where the scores are right, and leads there as well as cross-entropy does."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from goodfit.doctor.course import EARLY
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.gain import MIN_ACCURACY, Gain, measure_gain
from goodfit.doctor.replay import Change
from goodfit.doctor.rules.structure import are_shares

REMEDY = "Use cross-entropy of raw scores, averaged over the batch."
HEIGHTS = (0.3, 1.0, 3.0, 10.0)  # of the score of the right class above the others
SATURATED = 1.2  # growth of a loss between scores that are 20 and 40 higher for a wrong class; cross-entropy doubles
ODD_ALIGNMENT, FLAT_SLOPE, STEEP_SLOPE = 0.9, 0.35, 4.0  # of the gradient at equal scores, against cross-entropy's
TRIAL_SHARE = 0.15  # of the planned steps


def find_loss_that_misleads(exam: Examination) -> Finding | None:
    """The loss is not least where the scores are right, has no least value, or does not mind a wrong answer that is sure of itself."""
    shape, output = exam.loss_shape, exam.preflight.output
    even, right, wrong = shape["even"], shape["right"], shape["wrong"]
    if shape["alignment"] < -0.9:
        return None
    if are_shares(exam):
        return find_lenient_loss_of_shares(exam)
    if output.are_log_probabilities or not all(map(math.isfinite, (even, right, wrong))):
        return None
    if right < 0 and abs(shape["shifted"]) > 1e-3:
        evidence = f"The loss of scores that are 20 higher for the right class is {right:.2f}, and falls without end: it expects"
        return Finding("wrong_loss", 0.95, f"{evidence} log-probabilities, and the outputs are none.", REMEDY)
    if right >= even and min(measure_loss(exam, height, 0) for height in HEIGHTS) >= even - 1e-3 * abs(even):
        evidence = f"The loss is {right:.3g} where all scores are right, {even:.3g} where they are equal, {wrong:.3g} where they are wrong:"
        return Finding("wrong_loss", 0.95, f"{evidence} it does not lead to the right class.", REMEDY)
    far = measure_loss(exam, 40.0, 1)
    if wrong > 0 and far < SATURATED * wrong and right < 0.1 * even:
        evidence = f"The loss of a wrong answer that is sure of itself levels off ({wrong:.3g} at scores 20 too high, {far:.3g} at 40): its"
        evidence += f" gradient vanishes there, and at equal scores is {shape['slope']:.2g} times cross-entropy's."
        return Finding("wrong_loss", 0.92, evidence, REMEDY)
    return None


def find_lenient_loss_of_shares(exam: Examination) -> Finding | None:
    """Outputs are probabilities, and the loss of wrong ones is hardly more than that of even ones."""
    labels = torch.arange(exam.classes)
    width = exam.preflight.output.shape[-1]
    hot, other = (F.one_hot((labels + shift) % exam.classes, width).float() for shift in (0, 1))
    right, wrong = (float(exam.patient.loss(x, labels)) for x in (hot, other))
    even = float(exam.patient.loss(torch.full_like(hot, 1 / width), labels))
    if not all(map(math.isfinite, (right, wrong, even))) or wrong - right > 5 * (even - right) or right > even:
        return None
    evidence = (
        f"The outputs are probabilities, of which the loss is {right:.3g} where all are right, {even:.3g} where they are even, and just"
    )
    return Finding(
        "wrong_loss", 0.92, f"{evidence} {wrong:.3g} where all are wrong: it hardly minds, and its gradient vanishes there.", REMEDY
    )


def measure_loss(exam: Examination, height: float, shift: int) -> float:
    """The loss of scores that are higher for a class than for the others: the right one, or one that is `shift` off."""
    labels = torch.arange(exam.classes)
    hot = F.one_hot((labels + shift) % exam.classes, exam.preflight.output.shape[-1]).float()
    return float(exam.patient.loss(height * hot, labels))


def find_shape_doubts(exam: Examination) -> list[str]:
    """In what the loss is another than cross-entropy; smoothing, class weights and focal terms are none of it."""
    shape = exam.loss_shape
    doubts = {
        f"its gradient at equal scores has a cosine of {shape['alignment']:.2f} with cross-entropy's": shape["alignment"] < ODD_ALIGNMENT,
        f"its gradient at equal scores is {shape['slope']:.3g} times cross-entropy's": not FLAT_SLOPE < shape["slope"] < STEEP_SLOPE,
        "it grows with the size of the batch": shape["batch"] > 1.5,
    }
    return [doubt for doubt, is_so in doubts.items() if is_so]


def find_doubts(exam: Examination) -> list[str]:
    """In what the loss, or what the steps make of it, is another than cross-entropy."""
    first = exam.course.dissected.get(0)
    is_unfollowed = first is not None and first.applied_cosine < ODD_ALIGNMENT
    return [*find_shape_doubts(exam), *(["steps do not follow the gradient of the loss that they are given"] if is_unfollowed else [])]


def find_wrong_loss(exam: Examination) -> Finding | None:
    """The loss is of another shape than cross-entropy, the network is stuck or diverges, and with cross-entropy it learns.

    Steps that do not follow it may mix images, which slows the first of them and is right: they are judged by their end.
    """
    first = exam.course.dissected.get(0)
    if exam.preflight.output.are_log_probabilities or (first is not None and first.descent < 0):
        return None
    own = measure_gain(exam)
    doubts = find_shape_doubts(exam)
    if not doubts or not (own.is_stuck or own.is_diverged):
        return None
    gain = measure_gain(exam, Change(loss="cross_entropy"))
    if not gain.is_clear or gain.accuracy < 1.5 * gain.own_accuracy:
        return None
    return Finding("wrong_loss", 0.93, f"The loss is not cross-entropy's: {' and '.join(doubts)}. With cross-entropy: {gain}.", REMEDY)


def find_worse_loss(exam: Examination) -> Finding | None:
    """The loss is of another shape than cross-entropy, which gets further in a part of the steps than the loss in all of them."""
    steps = min(max(EARLY, round(TRIAL_SHARE * exam.steps)), exam.steps)
    look = exam.course.looks.get(exam.course.taken)
    doubts = find_doubts(exam)
    if not doubts or look is None or exam.preflight.output.are_log_probabilities:
        return None
    trial = exam.trial(Change(loss="cross_entropy"), steps)
    gain = Gain(steps, exam.classes, look.validation_accuracy, look.validation_loss, trial.validation_accuracy, trial.validation_loss)
    if gain.accuracy - gain.own_accuracy < MIN_ACCURACY / 2:
        return None
    evidence = f"The loss is not cross-entropy's: {' and '.join(doubts)}. With cross-entropy, {steps} steps get"
    evidence += (
        f" {100 * gain.accuracy:.0f} % of validation images right; without it, all {exam.course.taken} get {100 * gain.own_accuracy:.0f} %."
    )
    return Finding("wrong_loss", 0.9, evidence, REMEDY)


RULES = (
    Rule(
        "wrong_loss",
        Stage.START,
        find_loss_that_misleads,
        {
            "wrong_sign": "there the gradient is cross-entropy's turned around",
            "softmax_twice": "there the loss does not vanish where the scores are right",
            "label smoothing": "there the loss is least where the right class is a little ahead",
        },
    ),
    Rule(
        "wrong_loss",
        Stage.EARLY,
        find_wrong_loss,
        {
            "lr_too_low": "there the loss is shaped as cross-entropy is",
            "hinge, focal or smoothed losses": "there cross-entropy gains nothing",
        },
    ),
    Rule("wrong_loss", Stage.END, find_worse_loss, {"one loss for each class, hinge": "there cross-entropy gains nothing"}),
)
