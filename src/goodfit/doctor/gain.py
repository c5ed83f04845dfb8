"""What a change gains: a trial against the training as its owner runs it, after as many steps on the same batches."""

from __future__ import annotations

import dataclasses
import math

from goodfit.doctor.course import EARLY
from goodfit.doctor.examination import Examination
from goodfit.doctor.replay import NO_CHANGE, Change

MIN_ACCURACY, MIN_LOSS = 0.1, 0.1  # gain in accuracy, and in nats over ln K, on the validation probe that is beyond chance
LITTLE_ACCURACY, MUCH_LOSS = 0.04, 0.12  # so much of the loss is beyond chance already with so little accuracy


@dataclasses.dataclass(frozen=True)
class Gain:
    """A training after `steps` steps, on the probe images of validation: its own accuracy and cross-entropy, and those with a change."""

    steps: int
    classes: int
    own_accuracy: float
    own_loss: float
    accuracy: float
    loss: float

    @property
    def is_clear(self) -> bool:
        """Whether the change makes the training better by more than chance would."""
        accuracy, loss = self.accuracy - self.own_accuracy, (self.own_loss - self.loss) / math.log(self.classes)
        if self.is_diverged and self.loss < 0.97 * math.log(self.classes):
            return accuracy > -LITTLE_ACCURACY
        return (accuracy >= MIN_ACCURACY and loss >= MIN_LOSS) or (accuracy >= LITTLE_ACCURACY and loss >= MUCH_LOSS)

    @property
    def is_some(self) -> bool:
        """Whether the change makes the training better at all."""
        return self.accuracy > self.own_accuracy + LITTLE_ACCURACY / 2 or self.own_loss - self.loss > MIN_LOSS / 3 * math.log(self.classes)

    @property
    def is_slow(self) -> bool:
        """Whether the training as it is has learned little so far."""
        return not self.own_loss < 0.85 * math.log(self.classes)

    @property
    def is_stuck(self) -> bool:
        """Whether the training as it is has learned nothing that shows."""
        return not self.own_loss < 0.97 * math.log(self.classes) or self.own_accuracy < 1.6 / self.classes

    @property
    def is_diverged(self) -> bool:
        """Whether the training as it is does far worse than equal scores would."""
        return not self.own_loss < 1.3 * math.log(self.classes)

    def __str__(self) -> str:
        return f"validation accuracy after {self.steps} steps {100 * self.own_accuracy:.0f} % -> {100 * self.accuracy:.0f} %"


def measure_gain(exam: Examination, change: Change = NO_CHANGE) -> Gain:
    """Try a change for as many steps as the training has been followed at first; without one, tell how the training itself does."""
    exam.course.follow(EARLY)
    steps = min(EARLY, exam.steps)
    look = exam.course.looks.get(steps)
    own = (1 / exam.classes, math.inf) if look is None else (look.validation_accuracy, look.validation_loss)
    if change == NO_CHANGE:
        return Gain(steps, exam.classes, *own, *own)
    trial = exam.trial(change, steps)
    return Gain(steps, exam.classes, *own, trial.validation_accuracy, trial.validation_loss)


def measure_movement(exam: Examination) -> dict[str, float]:
    """How far each weight has moved since the start, relative to its norm there, but for growth or decay as a whole."""
    exam.course.follow(EARLY)
    now = dict(exam.course.replay.model.named_parameters())
    moved = {}
    for name, p in exam.start_model.named_parameters():
        if p.ndim >= 2 and name in now and now[name].shape == p.shape:
            start, change = p.detach().double().flatten(), (now[name].detach().double() - p.detach().double()).flatten()
            size = max(float(start.norm()), 1e-12)
            moved[name] = float((change - (change @ start) / size**2 * start).norm()) / size
    return moved
