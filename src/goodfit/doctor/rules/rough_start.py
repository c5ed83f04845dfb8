"""Rules of trainings that recover from violent first steps, and end badly all the same: of the rate, or of no warm-up."""

from __future__ import annotations

import dataclasses

from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.progress import SHRUNK, OwnLosses, is_downhill, measure_norm_left
from goodfit.doctor.replay import Change
from goodfit.doctor.rules.rates import HIGH_MOMENTUM, WARMUP, has_no_warmup, read_momentum
from goodfit.doctor.rules.schedule import list_rates

MIN_RISE, MIN_UPDATE = 1.15, 0.05  # of the loss over its first, and of the weights' norm in a step, in the first steps
MAX_REACHED = 0.65  # of the training images, that a training which ended badly gets right
MIN_GAIN, MIN_POINTS = 0.1, 0.05  # share of the validation loss, and accuracy, that a change gains
LOWER = 0.3  # times the rate


def find_lr_too_high_at_end(exam: Examination) -> Finding | None:
    """The first steps were violent, the training ended badly, and a third of its rate gets further in half of the steps."""
    if not _was_rough(exam) or (lower := _compare_at_half(exam, Change(rate=LOWER))) is None:
        return None
    warmed = _compare_at_half(exam, Change(warmup=WARMUP)) if has_no_warmup(exam) else None
    rate = max(list_rates(exam))
    return Finding(
        "lr_too_high",
        0.8 if warmed is None or warmed.gain < lower.gain else 0.6,
        f"{_describe_start(exam)}; {lower}, at {LOWER:g} times the rate.",
        f"Use a learning rate of about {LOWER * rate:.1g}, or let it rise over the first 10 % of the steps.",
        rate_factor=LOWER,
    )


def find_no_warmup_at_end(exam: Examination) -> Finding | None:
    """The first steps were violent, the training ended badly, and the same rate gets further in half of the steps if it rises at first."""
    if not has_no_warmup(exam) or not _was_rough(exam) or (warmed := _compare_at_half(exam, Change(warmup=WARMUP))) is None:
        return None
    lower = _compare_at_half(exam, Change(rate=LOWER))
    return Finding(
        "no_warmup",
        0.8 if lower is None or lower.gain <= warmed.gain else 0.5,
        f"{_describe_start(exam)}; {warmed}, if the same rate rises over {WARMUP} steps.",
        "Let the learning rate rise from near zero over the first 5 to 10 % of the steps.",
    )


@dataclasses.dataclass(frozen=True)
class AtHalf:
    """A training after half of its steps, and a trial of a change after as many: validation loss and accuracy of both."""

    steps: int
    own_loss: float
    own_accuracy: float
    loss: float
    accuracy: float

    @property
    def gain(self) -> float:
        """The share of the validation loss that the change takes off."""
        return 1 - self.loss / self.own_loss

    def __str__(self) -> str:
        own, other = f"{self.own_loss:.2f} ({100 * self.own_accuracy:.0f} %)", f"{self.loss:.2f} ({100 * self.accuracy:.0f} %)"
        return f"after {self.steps} steps the validation loss was {own}, and is {other}"


def _compare_at_half(exam: Examination, change: Change) -> AtHalf | None:
    """What a change does in half of the steps; None where it does not clearly gain."""
    half = round(exam.steps / 2)
    look = exam.course.looks.get(half)
    if look is None:
        return None
    trial = exam.trial(change, half)
    found = AtHalf(half, look.validation_loss, look.validation_accuracy, trial.validation_loss, trial.validation_accuracy)
    return found if found.gain >= MIN_GAIN and found.accuracy - found.own_accuracy >= MIN_POINTS else None


def _was_rough(exam: Examination) -> bool:
    """Whether the first steps of a training that ended badly raised its loss by large changes of the weights."""
    if exam.course.is_broken or exam.course.taken < exam.steps or not is_downhill(exam) or read_momentum(exam) > HIGH_MOMENTUM:
        return False
    own, end = OwnLosses.of(exam), exam.course.looks.get(exam.steps)
    updates = [s.update_ratio for step, s in exam.course.dissected.items() if step <= 8]
    is_rough = max(own.losses[1:10], default=0.0) > MIN_RISE * own.first and max(updates, default=0.0) > MIN_UPDATE
    return end is not None and is_rough and end.train_accuracy <= MAX_REACHED and measure_norm_left(exam) >= SHRUNK


def _describe_start(exam: Examination) -> str:
    own = OwnLosses.of(exam)
    return f"In the first steps the loss rose from {own.first:.2f} to {max(own.losses[1:10]):.2f}"


RULES = (
    Rule(
        "no_warmup",
        Stage.END,
        find_no_warmup_at_end,
        {"lr_too_high": "there a lower rate gets further than the same one after a warm-up"},
    ),
    Rule(
        "lr_too_high",
        Stage.END,
        find_lr_too_high_at_end,
        {"capacity_too_small": "there the loss does not rise in the first steps", "no_decay": "there the first steps learn"},
    ),
)
