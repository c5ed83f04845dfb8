"""Rules of how long, and at which rates over time, a training goes on."""

from __future__ import annotations

import itertools
import math

from goodfit.doctor.continuation import Advantage, compare, fall_to_zero
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.replay import Change

SPENT = 0.9  # share of the area under the rate by which it counts as spent
EARLY_END, LATE_END = 0.2, 0.3  # share of the steps in which no sensible schedule spends that much: certain, and likely
FEW_EPOCHS = 3.0
MIN_STANDSTILL = 30  # steps in which no weight moves
STANDSTILL_STEPS = 30  # to go on for where none moves
SOLVED = 0.985  # accuracy from which on there is little to gain


def list_rates(exam: Examination) -> tuple[float, ...]:
    """The mean learning rate of every step: as it was as far as the training has been followed, then as it is planned."""
    followed = exam.planned_rates[:1] + tuple(record.rate for record in exam.course.records[:-1])
    return followed + exam.planned_rates[len(followed) :]


def measure_spent(rates: tuple[float, ...]) -> float:
    """The share of the steps in which nearly all of the area under the rates is spent."""
    areas = list(itertools.accumulate(rates))
    return next(i for i, area in enumerate(areas, 1) if area >= SPENT * areas[-1]) / len(areas) if areas and areas[-1] > 0 else 1.0


def count_more(exam: Examination, share: float = 0.12) -> int:
    """How many steps to go on for: a share of the planned ones."""
    return min(max(round(share * exam.steps), 16), 120)


def describe_gain(gain: Advantage) -> str:
    """What a continuation gains, in words."""
    return f"{100 * gain.loss:.0f} % off the validation loss and {gain.points:+.1f} points"


def is_followed(exam: Examination) -> bool:
    """Whether the training has come to where a rule looks at it, and still stands."""
    return not exam.course.is_broken and len(exam.course.records) > 0


def find_decay_too_early(exam: Examination) -> Finding | None:
    """The area under the learning rate is spent in the first part of the steps, and going on at a higher rate still gains."""
    if not is_followed(exam):
        return None
    rates, taken = list_rates(exam), exam.course.taken
    spent, peak = measure_spent(rates), max(rates)
    is_over = max(rates[taken:], default=0.0) < 0.05 * peak
    if spent > LATE_END or spent * exam.steps > taken or not is_over or _find_standstill(exam, rates):
        return None
    here = exam.continuation.standing()
    if here.accuracy > SOLVED:
        return None
    steps = count_more(exam)
    gain = compare(exam.continuation.go_on(fall_to_zero(0.5 * peak, steps)), here)
    is_sure = spent <= EARLY_END
    if gain.loss < (0.03 if is_sure else 0.06) or gain.points < -1:
        return None
    return Finding(
        "decay_too_early",
        (0.95 if is_sure else 0.8) if gain.loss > 0.05 or gain.points > 2 else 0.75,
        f"{100 * SPENT:.0f} % of the area under the learning rate is spent after {100 * spent:.0f} % of the {exam.steps} steps; {steps}"
        f" steps more from half the peak of {peak:.2g} take {describe_gain(gain)}.",
        "Let the rate fall over the whole training: step the schedule once per epoch if it counts epochs, and give it all steps.",
    )


def _find_standstill(exam: Examination, rates: tuple[float, ...]) -> int:
    """The step from which on no weight has moved although the plan wants it to; 0 where there is none, or where none has ever moved."""
    looks = sorted(exam.course.looks.items())
    last = looks[-1][1].weight_norm
    if not math.isfinite(last):
        return 0  # a log has no norms of the weights
    same = list(itertools.takewhile(lambda pair: pair[1].weight_norm == last, reversed(looks)))
    start = same[-1][0]
    planned = exam.planned_rates
    is_planned = sum(planned[start : exam.course.taken]) > 0.03 * sum(planned)
    is_still = len(same) > 1 and exam.course.taken - start >= MIN_STANDSTILL and len(same) < len(looks)
    return start if is_still and is_planned and start > 0 else 0


def find_stopped_too_early(exam: Examination) -> Finding | None:
    """No weight moves any more, although the plan goes on and going on gains."""
    if not is_followed(exam) or len(exam.course.looks) < 3:
        return None
    start = _find_standstill(exam, list_rates(exam))
    if not start or any(s.fresh_norm == 0 for step, s in exam.course.dissected.items() if step > start):
        return None
    here, planned = exam.continuation.standing(), exam.planned_rates[start:]
    for steps in (min(STANDSTILL_STEPS, len(planned)), min(2 * STANDSTILL_STEPS, len(planned))):
        later = exam.continuation.go_on(planned[:steps], Change(step="clean"))
        gain = compare(later, here)
        is_learning = here.step_loss > 0.4 * math.log(exam.classes) and later.step_loss < 0.85 * here.step_loss
        if gain.loss > 0.03 or gain.points >= 2 or is_learning:
            is_plain = gain.loss > 0.1 or (gain.points >= 2 and gain.z > 1.5) or is_learning
            return Finding(
                "stopped_too_early",
                0.96 if is_plain else 0.85,
                f"No weight has moved since about step {start} of {exam.steps}, for {exam.course.taken - start} steps; {steps} more as"
                f" planned bring the training loss from {here.step_loss:.2f} to {later.step_loss:.2f}, and take {describe_gain(gain)}.",
                "Let the training go on: give early stopping more patience, count it in epochs, and watch a smoothed validation loss.",
            )
    return None


def find_trained_too_short(exam: Examination) -> Finding | None:
    """The training has seen its images a few times only, or its validation loss still falls fast, and some more steps gain much."""
    if not is_followed(exam) or exam.course.taken < exam.steps or _find_standstill(exam, list_rates(exam)):
        return None
    rates, epochs = list_rates(exam), exam.steps / max(exam.batches_per_epoch, 1)
    is_few, is_high = epochs <= FEW_EPOCHS, rates[-1] > 0.5 * max(rates)
    if measure_spent(rates) <= LATE_END or not (is_few or (epochs < 4 * FEW_EPOCHS and is_high and _is_falling(exam))):
        return None
    here = exam.continuation.standing()
    if here.accuracy > SOLVED:
        return None
    steps = min(max(count_more(exam, 0.15), 48), 96) if is_few else count_more(exam, 0.15)
    gain = compare(exam.continuation.go_on(fall_to_zero(max(rates), steps) if is_few else (rates[-1],) * steps), here)
    if is_few and gain.loss < 0.08 and (gain.points < 4 or gain.z < 2):
        return None
    if not is_few and (gain.loss < 0.15 or gain.points < 3 or gain.z < 2):
        return None
    return Finding(
        "trained_too_short",
        (0.93 if gain.loss > 0.1 or gain.points > 5 else 0.75) if is_few else 0.55,
        f"After {exam.steps} steps, {epochs:.1f} epochs, there is still much to learn: {steps} steps more take {describe_gain(gain)}.",
        f"Train several times as long, with a schedule that ends with it: {max(round(10 * exam.batches_per_epoch), 4 * exam.steps)} steps.",
    )


def _is_falling(exam: Examination) -> bool:
    """Whether the validation loss fell fast over the last third of the looks, and ended near its minimum."""
    losses = [look.validation_loss for _, look in sorted(exam.course.looks.items())]
    third = max(len(losses) // 3, 1)
    return len(losses) > 2 and losses[-1] < 0.85 * losses[-1 - third] and losses[-1] < 1.05 * min(losses)


def find_no_decay(exam: Examination) -> Finding | None:
    """The learning rate stays high to the end, and some steps at a falling rate gain what as many at the same rate do not."""
    if not is_followed(exam) or exam.course.taken < exam.steps or _find_standstill(exam, list_rates(exam)):
        return None
    rates = list_rates(exam)
    tail = rates[-max(len(rates) // 5, 1) :]
    epochs = exam.steps / max(exam.batches_per_epoch, 1)
    here = exam.continuation.standing()
    if min(tail) < 0.5 * max(rates) or epochs < FEW_EPOCHS or here.accuracy > SOLVED:
        return None
    steps = count_more(exam, 0.08)
    falling = exam.continuation.go_on(fall_to_zero(0.3 * rates[-1], steps))
    gain = compare(falling, here)
    if gain.loss < 0.1 or gain.points < 2 or gain.z < 2:
        return None
    over_same = compare(falling, exam.continuation.go_on((rates[-1],) * steps))
    if over_same.loss < 0.06 or over_same.points < 1:
        return None
    points = min(gain.points, over_same.points + 1)
    return Finding(
        "no_decay",
        0.93 if points >= 4 else 0.8 if points >= 3 else 0.55,
        f"The learning rate is {rates[-1]:.2g} to the end; {steps} steps at a rate that falls from {0.3 * rates[-1]:.2g} to zero take"
        f" {describe_gain(gain)} ({describe_gain(over_same)} against as many at the same rate).",
        "Let the learning rate fall to zero over the training, for instance along a cosine.",
    )


RULES = (
    Rule(
        "decay_too_early",
        Stage.EARLY,
        find_decay_too_early,
        {"lr_too_low": "there the rate is as low in the first steps", "stopped_too_early": "there the plan has the rate stay up"},
    ),
    Rule(
        "stopped_too_early",
        Stage.EARLY,
        find_stopped_too_early,
        {
            "decay_too_early": "there the schedule itself ends the rate",
            "frozen_by_mistake": "there the weights never move",
            "low_precision": "there most weights of a step are unmoved, not all of all steps",
        },
    ),
    Rule("decay_too_early", Stage.END, find_decay_too_early, {"trained_too_short": "there the rate falls when the steps end"}),
    Rule("stopped_too_early", Stage.END, find_stopped_too_early, {"decay_too_early": "there the schedule itself ends the rate"}),
    Rule(
        "trained_too_short",
        Stage.END,
        find_trained_too_short,
        {
            "lr_too_low": "there the weights move far less with each step, and a higher rate gains more in as many steps",
            "no_decay": "there the loss has stopped falling at its rate",
            "capacity_too_small": "there more steps gain nothing",
        },
    ),
    Rule(
        "no_decay",
        Stage.END,
        find_no_decay,
        {
            "trained_too_short": "there as many steps at the same rate gain as much",
            "lr_too_high": "there the training is no better from its start on; both are mended by a lower rate",
        },
    ),
)
