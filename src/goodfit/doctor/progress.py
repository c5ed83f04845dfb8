"""How far a training's own steps get, and whether a trial of a change gets further."""

from __future__ import annotations

import dataclasses
import math
import statistics

from goodfit.doctor.course import EARLY
from goodfit.doctor.examination import Examination, Trial
from goodfit.doctor.replay import Change
from goodfit.doctor.system import ThreadCount, count_threads

TRIAL_STEPS = 20
VIOLENT_UPDATE = 0.03  # of the weights' norm in one step, after which a training may be broken
MENDED = 0.9  # share of the loss that is left where a change mends a training
SHRUNK, SHRINKING = 0.85, 0.7  # share of the weights' norm that is left where decay may be too strong, and where it is
DECAY_STEPS = 40
MAX_ZEROED = 0.02  # share of the weights
REPEATED_STEPS = 4
NO_DECAY = Change(step="clean", weight_decay=0.0)


@dataclasses.dataclass(frozen=True)
class OwnLosses:
    """The losses of the patient's own steps, infinite where they are not finite."""

    losses: tuple[float, ...]

    @classmethod
    def of(cls, exam: Examination) -> OwnLosses:
        return cls(tuple(record.loss if math.isfinite(record.loss) else math.inf for record in exam.course.records))

    def mean(self, start: int, end: int) -> float:
        """The mean loss of some steps; infinite where the training had broken before."""
        part = self.losses[start:end]
        return statistics.fmean(part) if len(part) == end - start and part else math.inf

    @property
    def first(self) -> float:
        return self.losses[0] if self.losses else math.inf


def mean_end(trial: Trial, steps: int = 6) -> float:
    """The mean of the last losses of a trial; infinite where it failed."""
    losses = trial.losses[-steps:]
    return statistics.fmean(losses) if losses and all(map(math.isfinite, losses)) else math.inf


def is_mended(exam: Examination, trial: Trial, left: float = MENDED) -> bool:
    """Whether a trial learns where the patient's own steps do not: its training loss is lower than theirs at the same steps and at their
    latest, and it gets more validation images right, or loses less on them.
    """
    own, end = OwnLosses.of(exam), mean_end(trial)
    taken = len(own.losses)
    at_same = own.mean(trial.steps - 6, trial.steps)  # infinite where the course has not come so far
    if not end < left * min(at_same, own.mean(max(taken - 10, 0), taken), 1.02 * own.first) or not math.isfinite(trial.validation_loss):
        return False
    looks = [look for step, look in exam.course.looks.items() if step >= min(trial.steps, 35) and math.isfinite(look.validation_loss)]
    best, accuracy = min((x.validation_loss for x in looks), default=math.inf), max((x.validation_accuracy for x in looks), default=0.0)
    return trial.validation_loss < 0.97 * best or trial.validation_accuracy > accuracy + 0.04


def is_stuck(exam: Examination) -> bool:
    """Whether the first steps have taught nothing: the training broke, or its losses are no lower than they began."""
    if exam.course.is_broken:
        return not exam.course.error
    own = OwnLosses.of(exam)
    taken = len(own.losses)
    return taken >= 20 and own.mean(taken - 10, taken) > 0.96 * min(own.first, 1.5 * math.log(exam.classes))


def is_violent(exam: Examination) -> bool:
    """Whether steps changed the weights by large shares, or the loss shot up."""
    own = OwnLosses.of(exam)
    updates = [s.update_ratio for s in exam.course.dissected.values() if math.isfinite(s.update_ratio)]
    return exam.course.is_broken or max(updates, default=0.0) > VIOLENT_UPDATE or max(own.losses[1:20], default=0.0) > 1.5 * own.first


def is_downhill(exam: Examination) -> bool:
    """Whether the optimizer gets the gradient that is due in the first step, and steps down along it."""
    first = exam.course.dissected.get(0)
    return first is not None and not first.descent < 0.02 and not first.applied_cosine < 0.1


def measure_norm_left(exam: Examination) -> float:
    """The share of the weights' norm at the start that is left at the last look."""
    looks = exam.course.looks
    return looks[max(looks)].weight_norm / looks[0].weight_norm if looks and looks[0].weight_norm > 0 else 1.0


def measure_zeroed(exam: Examination) -> float:
    """The share of the weights that have become exactly zero since the start: decay makes weights small, and never zero."""
    now = dict(exam.course.replay.model.named_parameters())
    pairs = [(p.detach(), now[name].detach()) for name, p in exam.start_model.named_parameters() if p.ndim >= 2 and name in now]
    zeroed = sum(int(((after == 0) & (before != 0)).sum()) for before, after in pairs)
    return zeroed / max(sum(before.numel() for before, _ in pairs), 1)


def is_decay_the_cause(exam: Examination) -> bool:
    """Whether the weights shrink as no healthy training's do, and without weight decay the steps teach more."""
    left = measure_norm_left(exam)
    if left > SHRUNK or (left > SHRINKING and not is_stuck(exam)) or measure_zeroed(exam) > MAX_ZEROED:
        return False
    own, end = OwnLosses.of(exam), mean_end(exam.trial(NO_DECAY, DECAY_STEPS))
    taken = min(len(own.losses), EARLY)
    return end < 0.95 * min(own.mean(DECAY_STEPS - 6, DECAY_STEPS), own.mean(max(taken - 10, 0), taken), own.first)


def repeat_steps(exam: Examination) -> tuple[Trial, ThreadCount]:
    """The first steps once more, and the threads at work in them; they are taken when this is first asked for."""
    if exam.repetition is None:
        with count_threads() as count:
            trial = exam.trial(steps=min(REPEATED_STEPS, exam.steps))
        exam.repetition = trial, count
    return exam.repetition
