"""Rules of how weights are updated: with which gradient, in which direction, with what memory and precision."""

from __future__ import annotations

import itertools
import math

from goodfit.doctor.course import DISSECTED
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.network import median

DOWNHILL = -0.05  # cosine between the change of all weights and the way down, below which they go up
SOME_UPHILL = 0.2  # of the gradient's norms, on parameters that go up along it
CONSECUTIVE = [b for a, b in itertools.pairwise(DISSECTED) if b == a + 1]  # the step before was taken apart, too
LEFT_OVER = 0.1  # of what the batch's own gradient does not explain, that the gradients before may leave open
GROWTH = 4.0  # of the gradient that the optimizer gets over the batch's own, since the first steps
LOST_UPDATES, COARSE, UNDERFLOW = 0.2, 0.9, 0.3


def find_wrong_sign_of_loss(exam: Examination) -> Finding | None:
    """The loss is lower the more wrong the scores are."""
    shape = exam.loss_shape
    if not (shape["alignment"] < -0.9 and shape["wrong"] < shape["right"]):
        return None
    evidence = f"The loss is {shape['right']:.2f} where all scores are right and {shape['wrong']:.2f} where all are wrong; its gradient is"
    evidence += f" cross-entropy's turned around (cosine {shape['alignment']:.2f})."
    return Finding("wrong_sign", 0.97, evidence, "Turn the sign of the loss around.")


def find_wrong_sign(exam: Examination) -> Finding | None:
    """The first steps go up the gradient of the loss of their own batch, with all weights or some, and the loss rises."""
    steps = [s for s in exam.course.dissected.values() if s.update_ratio > 0 and not math.isnan(s.descent)][:4]
    if not steps:
        return None
    slopes, uphill = [s.descent for s in steps], median([s.uphill for s in steps[:2]])
    is_backward = slopes[0] < DOWNHILL and median(slopes) < DOWNHILL
    losses = [look.train_loss for look in exam.course.looks.values()]
    is_rising = exam.course.is_broken or (len(losses) > 1 and losses[-1] > losses[0])
    if not is_rising or not (is_backward or uphill > SOME_UPHILL):
        return None
    evidence = f"The first steps change weights with {100 * uphill:.0f} % of the gradient against the way down (cosine over all"
    evidence += f" {slopes[0]:.2f}), and the loss on training images goes from {losses[0]:.2f} to {losses[-1]:.2f}."
    return Finding("wrong_sign", 0.97, evidence, "Look for a minus before the loss or a gradient, maximize=True, or a negative rate.")


def find_gradients_not_zeroed(exam: Examination) -> Finding | None:
    """What the optimizer gets is the batch's gradient plus what it got at the step before."""
    dissected = exam.course.dissected
    seen = [s for i, s in dissected.items() if i in CONSECUTIVE and not math.isnan(s.accumulated_cosine + s.applied_cosine)]
    sums = [s for s in seen if 1 - s.accumulated_cosine < LEFT_OVER * (1 - s.applied_cosine) and 1 - s.applied_cosine > 1e-3]
    ratios = [s.applied_norm / s.fresh_norm for s in dissected.values() if s.fresh_norm > 0 and not math.isnan(s.applied_norm)]
    if len(sums) >= max(2, 0.6 * len(seen)):
        evidence = f"In {len(sums)} of {len(seen)} steps the optimizer got the batch's gradient plus that of the steps before (cosine"
        evidence += (
            f" {sums[-1].accumulated_cosine:.4f}; {sums[-1].applied_cosine:.2f} with the batch's alone), up to {max(ratios):.0f} times"
        )
        evidence += " as large."
    elif len(ratios) > 6 and min(ratios[-2:]) > GROWTH * max(ratios[:2]) and dissected[max(dissected)].applied_cosine < 0.7:
        evidence = (
            f"What the optimizer gets grows from {ratios[0]:.1f} to {ratios[-1]:.1f} times the gradient of the batch, and points elsewhere"
        )
        evidence += f" (cosine {dissected[max(dissected)].applied_cosine:.2f})."
    else:
        return None
    return Finding("gradients_not_zeroed", 0.97, evidence, "Call optimizer.zero_grad() before every backward().")


def find_low_precision(exam: Examination) -> Finding | None:
    """Updates are lost because weights are held in half precision, or gradients because they are computed in it."""
    steps = [s for s in exam.course.dissected.values() if s.update_ratio > 0 or not s.is_finite]
    if not steps:
        return None
    half, coarse, lost = (sum(getattr(s, name) for s in steps) / len(steps) for name in ("half", "coarse", "lost"))
    underflow = median([s.underflow for s in steps if not math.isnan(s.underflow)])
    halves = ", ".join(sorted({name for s in steps for name in s.halves}))
    if (half > 0.5 or coarse > COARSE) and lost > LOST_UPDATES:
        confidence = 0.95
        evidence = f"{100 * max(half, coarse):.0f} % of the weights have only half precision, in which {100 * lost:.0f} % of their updates"
        evidence += " round to nothing."
    elif underflow > UNDERFLOW:
        confidence = 0.93
        evidence = f"{100 * underflow:.0f} % of the numbers of the gradient are zero when the optimizer gets them, and not when computed in"
        evidence += f" full precision{f' ({halves} is at work)' if halves else ''}."
    elif exam.course.is_broken and "float16" in halves and math.isfinite(exam.preflight.loss):
        confidence = 0.9
        evidence = f"The training breaks at step {exam.course.taken} with float16 at work; in full precision its loss starts at"
        evidence += f" {exam.preflight.loss:.2f}."
    else:
        return None
    remedy = "Keep weights in float32; use autocast for the forward pass alone, and a gradient scaler with float16."
    return Finding("low_precision", confidence, evidence, remedy)


def find_optimizer_state_lost(exam: Examination) -> Finding | None:
    """Momentum or the like that an update left behind is gone at the next."""
    records = exam.course.records
    losses = [record.step for record in records if record.state_losses]
    if not losses:
        return None
    often = f"at {len(losses)} of {len(records)} steps, first at step {losses[0]}"
    remedy = "Make the optimizer once, before the loop; when resuming, load its state with that of the network."
    evidence = f"The optimizer's state (momentum, running means) of the step before is gone {often}."
    return Finding("optimizer_state_lost", 0.96, evidence, remedy)


RULES = (
    Rule(
        "wrong_sign",
        Stage.START,
        find_wrong_sign_of_loss,
        {"wrong_loss": "there the gradient of the loss is not that of cross-entropy turned around"},
    ),
    Rule("wrong_sign", Stage.EARLY, find_wrong_sign, {"lr_too_high": "there the first step goes down the gradient, only too far"}),
    Rule(
        "gradients_not_zeroed",
        Stage.EARLY,
        find_gradients_not_zeroed,
        {
            "momentum_too_high": "there the optimizer gets the batch's gradient alone",
            "gradient accumulation": "there the optimizer gets the sum of batches since its last step, and starts again from zero",
        },
    ),
    Rule(
        "low_precision",
        Stage.EARLY,
        find_low_precision,
        {"lr_too_low": "there updates are small but not lost, and weights have full precision"},
    ),
    Rule("optimizer_state_lost", Stage.EARLY, find_optimizer_state_lost, {"lr_too_high": "there the state is kept while the loss rises"}),
    Rule("optimizer_state_lost", Stage.END, find_optimizer_state_lost, {"a restart of the rate": "there the state is kept"}),
)
