"""Rules of learning rates and momentum: by what the steps do, and then by what mends them."""

from __future__ import annotations

import math
import statistics

from goodfit.doctor.course import EARLY, FIRST
from goodfit.doctor.examination import Examination, Trial
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.progress import (
    TRIAL_STEPS,
    OwnLosses,
    is_decay_the_cause,
    is_downhill,
    is_mended,
    is_stuck,
    is_violent,
    mean_end,
)
from goodfit.doctor.replay import Change
from goodfit.doctor.rules.schedule import list_rates

WARMUP, WARM_STEPS = 40, 80
LONGER_STEPS = 45
MOMENTUM_STEPS = 35
SMALL_UPDATE = 0.002  # of the weights' norm in a step, below which a rate may be too low
HIGH_MOMENTUM = 0.965
LOWER = (0.1, 0.01, 0.001)


def find_pretrained_destroyed(exam: Examination) -> Finding | None:
    """A transfer whose first steps make the loss several times what it was, while steps at a hundredth of the rate do not."""
    own = OwnLosses.of(exam)
    if not exam.is_pretrained or not is_downhill(exam):
        return None
    last = own.mean(max(len(own.losses) - 3, 0), FIRST) if exam.course.is_broken else own.mean(FIRST - 4, FIRST)
    peak = max(own.losses[1:FIRST], default=0.0)
    if not (last > 1.5 * own.first and last > 1.3 * math.log(exam.classes)) and not (peak > 4 * own.first and last > own.first):
        return None
    trial = exam.trial(Change(rate=0.01), FIRST)
    if not mean_end(trial, 4) < min(1.05 * own.first, 0.7 * last):
        return None
    rate = list_rates(exam)[0]
    return Finding(
        "lr_too_high",
        0.96,
        f"The pretrained weights are destroyed: the loss goes from {own.first:.2f} to {own.losses[1]:.3g} after one step and {last:.3g}"
        f" after {len(own.losses)}; at a hundredth of the rate of {rate:.2g} it is {mean_end(trial, 4):.2f}.",
        f"Fine-tune at a rate of about {0.01 * rate:.1g} or less, and give the new head its own, higher one.",
        rate_factor=0.01,
    )


def find_lr_too_high(exam: Examination) -> Finding | None:
    """The first steps change the weights violently and teach nothing, and a lower rate mends them, while a warm-up does not."""
    if not _is_broken_by_steps(exam) or (found := _find_rate_that_mends(exam)) is None:
        return None
    factor, trial = found
    return _describe_high(exam, factor, trial, 0.6 if _is_mended_by_warmup(exam) else 0.95)


def find_no_warmup(exam: Examination) -> Finding | None:
    """The first steps break the training, and the same rate mends it if it rises over some steps."""
    if not _is_broken_by_steps(exam) or not _is_mended_by_warmup(exam):
        return None
    trial, own = exam.trial(Change(warmup=WARMUP), WARM_STEPS), OwnLosses.of(exam)
    return Finding(
        "no_warmup",
        0.92,
        f"The loss goes from {own.first:.2f} to {max(own.losses[1:20], default=math.inf):.3g} in the first steps and is"
        f" {own.mean(max(len(own.losses) - 10, 0), len(own.losses)):.3g} after {len(own.losses)}; if the same rate rises over"
        f" {WARMUP} steps it is {mean_end(trial):.2f} after {WARM_STEPS}.",
        "Let the learning rate rise from near zero over the first 5 to 10 % of the steps.",
    )


def _is_broken_by_steps(exam: Examination) -> bool:
    """Whether the first steps are violent and teach nothing, and neither momentum nor weight decay explains it."""
    if not is_violent(exam) or not is_stuck(exam) or not is_downhill(exam):
        return False
    return not _is_momentum_the_cause(exam) and not is_decay_the_cause(exam)


def _find_rate_that_mends(exam: Examination) -> tuple[float, Trial] | None:
    """The factor of the rate, below one, at which the first steps learn."""
    for steps in (TRIAL_STEPS, LONGER_STEPS):  # some networks learn nothing in the first twenty steps at any rate
        for factor in LOWER:
            trial = exam.trial(Change(rate=factor), steps)
            if is_mended(exam, trial):
                return factor, trial
    return None


def has_no_warmup(exam: Examination) -> bool:
    """Whether the rate does not rise over the first steps, and there is time for it."""
    rates = list_rates(exam)[:EARLY]
    return rates[0] >= 0.3 * max(rates) and exam.steps >= WARM_STEPS


def _is_mended_by_warmup(exam: Examination) -> bool:
    """Whether the patient's own rate learns nearly as much as a lower one if it rises over the first steps."""
    if not has_no_warmup(exam):
        return False
    trial, own = exam.trial(Change(warmup=WARMUP), WARM_STEPS), OwnLosses.of(exam)
    if not is_mended(exam, trial):
        return False
    start = min(own.mean(max(len(own.losses) - 10, 0), len(own.losses)), own.first)
    lower = _find_rate_that_mends(exam)
    return lower is None or start - mean_end(trial) > 0.8 * (start - mean_end(lower[1]))


def _describe_high(exam: Examination, factor: float, trial: Trial, confidence: float) -> Finding:
    own, rate = OwnLosses.of(exam), max(list_rates(exam)[:EARLY])
    updates = max((s.update_ratio for s in exam.course.dissected.values()), default=math.nan)
    return Finding(
        "lr_too_high",
        confidence,
        f"Single steps change the weights by up to {100 * updates:.3g} %, and the loss, {own.first:.2f} at first, is"
        f" {own.mean(max(len(own.losses) - 6, 0), len(own.losses)):.3g} after {len(own.losses)} steps; at {factor:g} times the rate it is"
        f" {mean_end(trial):.2f} after {trial.steps}.",
        f"Use a learning rate of about {factor * rate:.1g} instead of {rate:.2g}.",
        rate_factor=factor,
    )


def read_momentum(exam: Examination) -> float:
    """The highest momentum, or first beta, of the optimizer's groups."""
    groups = exam.course.replay.optimizer.param_groups
    betas = [group["betas"][0] for group in groups if isinstance(group.get("betas"), tuple | list)]
    plain = [group["momentum"] for group in groups if isinstance(group.get("momentum"), int | float)]
    return float(max([*betas, *plain], default=0.0))


def _is_momentum_the_cause(exam: Examination) -> bool:
    return read_momentum(exam) > HIGH_MOMENTUM and is_mended(exam, exam.trial(Change(momentum=0.9), TRIAL_STEPS))


def find_momentum_too_high(exam: Examination) -> Finding | None:
    """Momentum averages over a large part of the training, and the first steps learn more at 0.9."""
    momentum = read_momentum(exam)
    if momentum <= HIGH_MOMENTUM or not is_downhill(exam):
        return None
    trial, own, look = exam.trial(Change(momentum=0.9), MOMENTUM_STEPS), OwnLosses.of(exam), exam.course.looks.get(MOMENTUM_STEPS)
    at_same = look.validation_loss if look else math.inf
    gain = 1 - trial.validation_loss / at_same if math.isfinite(at_same) else 1.0
    descents = [s.descent for step, s in exam.course.dissected.items() if step >= 16 and math.isfinite(s.descent)]
    memory = 1 / max(1 - momentum, 1e-6)
    is_lag = memory > 0.2 * exam.steps and memory > 60 and min(descents, default=0.0) < 0.12
    if not math.isfinite(trial.validation_loss) or mean_end(trial) > 1.1 * own.mean(MOMENTUM_STEPS - 6, MOMENTUM_STEPS):
        return None
    if gain < 0.05 and not is_lag:
        return None
    return Finding(
        "momentum_too_high",
        0.95 if is_mended(exam, trial) or gain > 0.2 else 0.75,
        f"With a momentum of {momentum:.4g}, steps follow the mean of the last {memory:.0f} gradients (cosine with the present one"
        f" {min(descents, default=math.nan):.2f}); at 0.9 the validation loss after {MOMENTUM_STEPS} steps is {trial.validation_loss:.2f}"
        f" instead of {at_same:.2f}.",
        "Use a momentum (or first beta) of 0.9, or lower the learning rate with it.",
    )


def find_lr_too_low(exam: Examination) -> Finding | None:
    """The whole training does worse than a fraction of its steps at ten or thirty times the rate."""
    if exam.course.is_broken or exam.course.taken < exam.steps:
        return None
    own = OwnLosses.of(exam)
    moving = [s.update_ratio for s in exam.course.dissected.values() if s.update_ratio > 0]
    if not moving or (updates := statistics.median(moving)) > SMALL_UPDATE or not own.losses or not is_downhill(exam):
        return None
    here = exam.continuation.standing()
    if here.accuracy > 0.97:
        return None
    least_gain, least_points = (0.2, 10) if exam.is_pretrained else (0.1, 4)
    steps = min(max(round(0.15 * exam.steps), TRIAL_STEPS), 60)
    for factor in (10.0, 40.0, 200.0):
        trial = exam.trial(Change(rate=factor), steps)
        gain, points = 1 - trial.validation_loss / here.loss, 100 * (trial.validation_accuracy - here.accuracy)
        if gain < -0.05:
            return None  # so many steps at a rate so much higher are as good as all at a rate that is too low
        if gain > least_gain and points > least_points:
            return _describe_low(exam, updates, trial, factor, 0.95 if gain > 0.15 and points > 8 else 0.8)
    return None


def _describe_low(exam: Examination, updates: float, trial: Trial, factor: float, confidence: float) -> Finding:
    here, rate = exam.continuation.standing(), max(list_rates(exam))
    return Finding(
        "lr_too_low",
        confidence,
        f"A step changes the weights by {100 * updates:.2g} %; {trial.steps} steps at {factor:g} times the rate bring the validation loss"
        f" to {trial.validation_loss:.2f} ({100 * trial.validation_accuracy:.0f} %), all {exam.steps} steps at the own rate to"
        f" {here.loss:.2f} ({100 * here.accuracy:.0f} %).",
        f"Use a learning rate of about {factor * rate:.1g} instead of {rate:.2g}.",
        rate_factor=factor,
    )


RULES = (
    Rule(
        "lr_too_high",
        Stage.FIRST,
        find_pretrained_destroyed,
        {"wrong_sign": "there the step goes up the gradient", "inputs_not_scaled": "there the loss is high before the first step"},
    ),
    Rule(
        "momentum_too_high",
        Stage.EARLY,
        find_momentum_too_high,
        {"lr_too_high": "there momentum is usual, and 0.9 changes nothing"},
    ),
    Rule(
        "no_warmup",
        Stage.EARLY,
        find_no_warmup,
        {"lr_too_high": "there the rate breaks the training after a warm-up, too"},
    ),
    Rule(
        "lr_too_high",
        Stage.EARLY,
        find_lr_too_high,
        {
            "no_warmup": "there the same rate learns if it rises over some steps",
            "momentum_too_high": "there a momentum of 0.9 mends it",
            "weight_decay_too_strong": "there the weights shrink, and no decay mends it",
            "init_too_large": "there the loss is high before the first step",
            "wrong_sign": "there the step goes up the gradient",
        },
    ),
    Rule(
        "lr_too_low",
        Stage.END,
        find_lr_too_low,
        {
            "clip_too_tight": "there the gradient is cut before it is applied",
            "decay_too_early": "there the rate is higher at first",
            "init_too_small": "there a higher rate does not help",
            "vanishing_gradient": "there a higher rate does not help",
        },
    ),
)
