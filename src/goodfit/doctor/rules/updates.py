"""Rules of how weights are updated: which of them, with which gradient, in which direction, with what memory and precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from goodfit.doctor.course import DISSECTED
from goodfit.doctor.examination import PREFLIGHT_IMAGES, Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.network import median
from goodfit.watch.chance import keep_chance
from goodfit.watch.dissection import StepSigns, untouched

UPHILL = -0.05  # cosine between the change of the weights and the way down, at the first step that moves them
CONSECUTIVE = [b for a, b in zip(DISSECTED, DISSECTED[1:], strict=False) if b == a + 1]  # the step before was taken apart, too
SOME_UPHILL = 0.2  # of the gradient's norms, on parameters that go up along it
FROZEN_SHARE = 0.3  # of the numbers of random weights, or of their layers
LOST_UPDATES, COARSE, UNDERFLOW = 0.2, 0.9, 0.3


def find_wrong_sign_of_loss(exam: Examination) -> Finding | None:
    """The loss is lower the more wrong the scores are."""
    shape = exam.loss_shape
    if not (shape["alignment"] < -0.9 and shape["wrong"] < shape["right"]):
        return None
    evidence = f"The loss is {shape['right']:.2f} where all scores are right and {shape['wrong']:.2f} where all are wrong; its gradient points against"
    return Finding(
        "wrong_sign", 0.97, f"{evidence} that of cross-entropy (cosine {shape['alignment']:.2f}).", "Turn the sign of the loss around."
    )


def find_wrong_sign(exam: Examination) -> Finding | None:
    """The first steps go up the gradient of the loss of their own batch, all weights or some, and the loss rises."""
    steps = [s for i, s in exam.course.dissected.items() if i < 4 and s.update_ratio > 0 and not math.isnan(s.descent)]
    if not steps:
        return None
    slopes, uphill = [s.descent for s in steps], median([s.uphill for s in steps[:2]])
    is_backward = slopes[0] < UPHILL and median(slopes) < UPHILL
    if not is_backward and uphill < SOME_UPHILL:
        return None
    losses = [look.train_loss for look in exam.course.looks.values()]
    if not exam.course.is_broken and (len(losses) < 2 or losses[-1] < losses[0]):
        return None
    evidence = f"The first steps change weights with {100 * uphill:.0f} % of the gradient against the way down (cosine {slopes[0]:.2f} over all), and"
    evidence += f" the loss on training images goes from {losses[0]:.2f} to {losses[-1]:.2f}."
    return Finding("wrong_sign", 0.97, evidence, "Look for a minus before the loss or a gradient, a maximize=True, or a negative rate.")


def find_gradients_not_zeroed(exam: Examination) -> Finding | None:
    """What the optimizer gets is the fresh gradient plus what it got at the step before."""
    steps = [exam.course.dissected[i] for i in CONSECUTIVE if i in exam.course.dissected]
    seen = [s for s in steps if not math.isnan(s.carried_cosine + s.applied_cosine)]
    if not seen:
        return None
    carried = [s for s in seen if 1 - s.carried_cosine < 0.1 * (1 - s.applied_cosine) and 1 - s.applied_cosine > 1e-3]
    if len(carried) < max(2, 0.6 * len(seen)):
        return None
    growth = max(
        (s.applied_norm / s.fresh_norm for s in exam.course.dissected.values() if s.applied_norm and s.fresh_norm), default=math.nan
    )
    return Finding(
        "gradients_not_zeroed",
        0.97,
        f"In {len(carried)} of {len(seen)} steps the optimizer got the batch's gradient plus that of the steps before (cosine"
        f" {carried[-1].carried_cosine:.4f}; {carried[-1].applied_cosine:.2f} with the batch's alone), up to {growth:.0f} times as large.",
        "Call optimizer.zero_grad() before every backward().",
    )


def find_low_precision(exam: Examination) -> Finding | None:
    """Updates are lost because weights are held in half precision, or gradients because they are computed in it."""
    steps = [s for s in exam.course.dissected.values() if s.update_ratio > 0 or not s.is_finite]
    if not steps:
        return None
    half, coarse, lost = (mean([getattr(s, name) for s in steps]) for name in ("half", "coarse", "lost"))
    underflow = mean([s.underflow for s in steps if not math.isnan(s.underflow)])
    halves = sorted({name for s in steps for name in s.halves})
    remedy = "Keep weights in float32; use autocast for the forward pass alone, and a gradient scaler with float16."
    if (half > 0.5 or coarse > COARSE) and lost > LOST_UPDATES:
        evidence = f"{100 * max(half, coarse):.0f} % of the weights have only half precision, in which {100 * lost:.0f} % of their updates round to nothing."
        return Finding("low_precision", 0.95, evidence, remedy)
    if underflow > UNDERFLOW:
        evidence = f"{100 * underflow:.0f} % of the numbers of the gradient are zero when the optimizer gets them, and are not when computed in full"
        return Finding("low_precision", 0.93, f"{evidence} precision{' (' + ', '.join(halves) + ' is at work)' if halves else ''}.", remedy)
    if exam.course.is_broken and "float16" in halves and math.isfinite(exam.preflight.loss):
        evidence = f"The training breaks at step {exam.course.taken} with float16 at work, though the loss starts at {exam.preflight.loss:.2f} in its own"
        return Finding("low_precision", 0.9, f"{evidence} precision.", remedy)
    return None


def find_optimizer_state_lost(exam: Examination) -> Finding | None:
    """Momentum or the like that an update left behind is gone at the next."""
    records = exam.course.records
    losses = [record.step for record in records if record.state_losses]
    if not losses:
        return None
    often = (
        "at every step"
        if len(losses) > 0.9 * (len(records) - 1)
        else f"at {len(losses)} of {len(records)} steps, first at step {losses[0]}"
    )
    return Finding(
        "optimizer_state_lost",
        0.96,
        f"The optimizer's state (momentum, running means) of the step before is gone {often}.",
        "Make the optimizer once, before the loop; when resuming, load its state with that of the network.",
    )


def find_frozen_by_mistake(exam: Examination) -> Finding | None:
    """Weights that are random, and on which the scores depend, do not move in any step."""
    steps = [s for s in exam.course.dissected.values() if s.is_finite]
    if len(steps) < 2:
        return None
    still = frozenset.intersection(*(frozenset(s.unmoved) for s in steps))
    parameters = dict(exam.course.replay.model.named_parameters())
    names = [layer.name for layer in exam.network.layers if layer.name in exam.random_parameters and layer.name in parameters]
    frozen = [name for name in names if name in still and needs_learning(exam, parameters[name])]
    numbers = sum(parameters[name].numel() for name in frozen) / max(sum(parameters[name].numel() for name in names), 1)
    if not frozen or max(numbers, len(frozen) / len(names)) < FROZEN_SHARE:
        return None
    reasons = [why for why, is_so in reasons_to_rest(exam, steps, {name: parameters[name] for name in frozen}).items() if is_so]
    if not reasons:
        return None
    return Finding(
        "frozen_by_mistake",
        0.95,
        f"{len(frozen)} of {len(names)} layers of random weights, {100 * numbers:.0f} % of their numbers, do not move in the first"
        f" {exam.course.taken} steps: {' and '.join(reasons)}.",
        "Give the optimizer all parameters, with requires_grad on and no detach before them.",
    )


def needs_learning(exam: Examination, weight: Tensor) -> bool:
    """Whether the scores depend on a weight, so that it does not rest because of dead units behind it."""
    model, images = exam.course.replay.model, exam.sample.train.spread(PREFLIGHT_IMAGES)[0]
    with untouched(model), keep_chance(), torch.no_grad():
        model.train()
        torch.manual_seed(0)
        before, kept = model(images).float(), weight.detach().clone()
        weight.mul_(1 + 0.1 * torch.randn(weight.shape))
        torch.manual_seed(0)
        after = model(images).float()
        weight.copy_(kept)
    return float((after - before).abs().max()) > 0


def reasons_to_rest(exam: Examination, steps: Sequence[StepSigns], weights: Mapping[str, Tensor]) -> dict[str, bool]:
    """Why some weights may not move: which of the usual reasons hold for most of them. A gradient too small to count is none."""
    groups = exam.course.replay.optimizer.param_groups
    given = {id(p): group.get("lr", 1.0) for group in groups for p in group["params"]}
    n = len(weights) / 2
    return {
        "requires_grad is off": sum(not w.requires_grad for w in weights.values()) > n,
        "the optimizer does not have them": sum(id(w) not in given for w in weights.values()) > n,
        "their rate is 0": any(given.values()) and sum(given.get(id(w)) == 0 for w in weights.values()) > n,
        "no gradient reaches them": len(find_detached(exam, weights)) > n,
        "no update is made": all(s.updates == 0 and s.update_ratio == 0 for s in steps),
        "their gradient is zero when the update is made": all(s.applied_norm == 0 < s.fresh_norm for s in steps),
    }


def find_detached(exam: Examination, weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that require a gradient and that the loss knows nothing of, though the scores depend on them."""
    model, (images, labels) = exam.course.replay.model, exam.sample.train.spread(PREFLIGHT_IMAGES)
    asked = {name: w for name, w in weights.items() if w.requires_grad}
    with untouched(model), keep_chance(), torch.enable_grad():
        model.train()
        loss = exam.patient.loss(model(images), labels)
        if not asked or not loss.requires_grad:
            return list(asked)
        gradients = torch.autograd.grad(loss, list(asked.values()), allow_unused=True)
    return [name for name, gradient in zip(asked, gradients, strict=True) if gradient is None]


def mean(numbers: list[float]) -> float:
    """The mean of some numbers, 0 of none."""
    return sum(numbers) / len(numbers) if numbers else 0.0


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
    Rule(
        "frozen_by_mistake",
        Stage.EARLY,
        find_frozen_by_mistake,
        {
            "dead_relu": "there the scores do not depend on the weights that rest",
            "a frozen pretrained trunk": "there the weights are not random",
        },
    ),
)
