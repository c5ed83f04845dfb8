"""Go on from where a training stands, at other rates or with one thing changed, and compare what comes of it on validation images."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.doctor.course import Course, as_scores, clean_labels
from goodfit.doctor.patient import PatientSource
from goodfit.doctor.probe import compare_right
from goodfit.doctor.replay import NO_CHANGE, Change, Replay
from goodfit.doctor.sample import Sample

MAX_COMPARED_IMAGES = 1024
LAST_LOSSES = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """A network on validation images in evaluation mode: the cross-entropy of each [N], and which ones are right [N]; and the mean of the
    last losses that its steps returned.
    """

    losses: Tensor
    right: Tensor
    step_loss: float

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        return float(self.right.float().mean())


@dataclasses.dataclass(frozen=True)
class Advantage:
    """How much better one network is than another on the same images: share of the loss that is gone, points of accuracy more, and how
    many standard errors the latter is from none (McNemar's test).
    """

    loss: float
    points: float
    z: float


def compare(better: Outcome, worse: Outcome) -> Advantage:
    """The advantage of one outcome over another."""
    if not math.isfinite(better.loss):
        return Advantage(-math.inf, -100.0, -math.inf)
    loss = 1 - better.loss / worse.loss if math.isfinite(worse.loss) and worse.loss > 0 else 1.0
    gain, z = compare_right(better.right, worse.right)
    return Advantage(loss, 100 * gain, z)


class Continuation:
    """What becomes of a training when it goes on from where its course stands; the course stays where it is.

    `count_left` says how many more steps may be taken: where there are too few, a training goes on to where it stands.
    """

    def __init__(self, source: PatientSource, sample: Sample, find_course: Callable[[], Course], count_left: Callable[[], float]) -> None:
        self.source, self.sample, self.find_course, self.count_left = source, sample, find_course, count_left
        self.steps = 0  # taken in all continuations
        self._outcomes: dict[tuple[int, tuple[float, ...], Change], Outcome] = {}

    @property
    def course(self) -> Course:
        return self.find_course()

    @cached_property
    def compared(self) -> tuple[Tensor, Tensor]:
        """The validation images [N, C, H, W] that networks are compared on, with their labels [N]."""
        return self.sample.validation.spread(MAX_COMPARED_IMAGES)

    def standing(self) -> Outcome:
        """The outcome of the course as it stands."""
        return self._remember((), NO_CHANGE)

    def go_on(self, rates: Sequence[float], change: Change = NO_CHANGE) -> Outcome:
        """The outcome after as many more steps as there are rates: the mean learning rates of each, shared out as the optimizer does."""
        return self._remember(tuple(rates) if len(rates) <= self.count_left() else (), change)

    def _remember(self, rates: tuple[float, ...], change: Change) -> Outcome:
        key = (self.course.taken, rates, change)
        if key not in self._outcomes:
            followed = [record.loss for record in self.course.records]
            replay, losses = self._train_on(rates, change) if rates else (self.course.replay, followed)
            step_loss = statistics.fmean(losses[-LAST_LOSSES:]) if losses else math.nan
            self._outcomes[key] = measure_outcome(replay, *self.compared, step_loss)
            self.steps += len(rates)
        return self._outcomes[key]

    def _train_on(self, rates: tuple[float, ...], change: Change) -> tuple[Replay, list[float]]:
        if self.course.taken not in self.course.kept:
            self.course.keep_state()
        replay = self.course.branch(self.course.taken, change)
        fresh = [group["lr"] for group in Replay(self.source).optimizer.param_groups]
        mean = sum(fresh) / len(fresh)
        losses = []
        for rate in rates:
            for group, own in zip(replay.optimizer.param_groups, fresh, strict=True):
                group["lr"] = rate * own / mean if mean > 0 else rate
            losses += replay.advance(1)
        return replay, losses


def measure_outcome(replay: Replay, images: Tensor, labels: Tensor, step_loss: float = math.nan) -> Outcome:
    """The outcome of a training as it stands on images [N, C, H, W] with labels [N]."""
    scores, labels = as_scores(replay.scores(images)), clean_labels(labels, replay.patient.classes)
    return Outcome(F.cross_entropy(scores, labels, reduction="none"), torch.as_tensor(scores.argmax(1) == labels), step_loss)


def fall_to_zero(rate: float, steps: int) -> tuple[float, ...]:
    """Rates that fall from one to zero along a line."""
    return tuple(rate * (1 - i / steps) for i in range(steps))
