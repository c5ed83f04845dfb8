"""An examination of one patient: each test is made when a rule first asks for it, and never twice."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sized
from functools import cached_property

import torch
from torch import Tensor, nn

from goodfit.doctor.comparison import Comparison
from goodfit.doctor.continuation import Continuation
from goodfit.doctor.copies import Copies
from goodfit.doctor.counterparts import Counterparts
from goodfit.doctor.course import Course, measure
from goodfit.doctor.evaluation import EvaluationSigns, examine_evaluation
from goodfit.doctor.network import Network
from goodfit.doctor.patient import Patient, PatientSource
from goodfit.doctor.replay import NO_CHANGE, Change, Replay
from goodfit.doctor.sample import Sample
from goodfit.doctor.system import ThreadCount
from goodfit.inspection.chance import OwnChance
from goodfit.inspection.preflight import Preflight, examine_start, measure_loss_shape
from goodfit.inspection.randomness import is_pretrained

PREFLIGHT_IMAGES = 64


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training with a change after some steps: the losses that its steps returned, and cross-entropy and accuracy on the probe images of
    both splits in evaluation mode.
    """

    steps: int
    losses: tuple[float, ...]
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


class Examination:
    """The tests of one patient. The patient's training goes on in `course`, which the doctor moves forward; trials never touch it."""

    def __init__(self, source: PatientSource, max_trial_steps: float = math.inf, sample: Sample | None = None) -> None:
        self.source, self.max_trial_steps = source, max_trial_steps
        self.trial_source = source
        self.patient: Patient = source.make()
        self.classes, self.steps = self.patient.classes, self.patient.steps
        self.sample = sample or Sample(source)
        self.comparison = Comparison(self.patient, self.sample)
        self.counterparts = Counterparts(self.comparison)
        self.copies = Copies(self.patient, self.sample)
        self.continuation = Continuation(source, self.sample, lambda: self.course, self._count_left)
        self.repetition: tuple[Trial, ThreadCount] | None = None  # see `progress.repeat_steps`
        self.trial_steps = 0
        self._trials: dict[tuple[Change, int, int], Trial] = {}
        self._evaluations: dict[int, EvaluationSigns] = {}

    @cached_property
    def course(self) -> Course:
        return Course(self.source, self.sample)

    @cached_property
    def start_model(self) -> nn.Module:
        """A network as the training starts with it."""
        return self._make_model(self.source.seed)

    def _make_model(self, seed: int) -> nn.Module:
        """A network with the weights of a seed."""
        with OwnChance(seed).active():
            return self.patient.model()

    @cached_property
    def preflight(self) -> Preflight:
        images, labels = self.sample.train.spread(PREFLIGHT_IMAGES)
        return examine_start(self.start_model, self.patient.loss, images, labels)

    @cached_property
    def network(self) -> Network:
        """The network as its operations show it at the start."""
        return Network.of(self.preflight)

    @cached_property
    def loss_shape(self) -> dict[str, float]:
        """What the loss function does with made-up scores: see `measure_loss_shape`; `undecided`: of outputs that say, as the network's
        do, be it as scores, probabilities or their logarithms, that all classes are as likely.
        """
        output, width = self.preflight.output, self.preflight.output.shape[-1]
        even = -math.log(width) if output.are_log_probabilities else 1 / width if output.are_probabilities else 0.0
        with torch.no_grad():
            undecided = float(self.patient.loss(torch.full((self.classes, width), even), torch.arange(self.classes)))
        return measure_loss_shape(self.patient.loss, self.classes, width) | {"undecided": undecided}

    @cached_property
    def random_parameters(self) -> frozenset[str]:
        """Names of the parameters that start otherwise with another seed; the others are pretrained or constant."""
        other = dict(self._make_model(self.source.seed + 1).named_parameters())
        return frozenset(name for name, p in self.start_model.named_parameters() if name in other and not torch.equal(p, other[name]))

    @cached_property
    def is_pretrained(self) -> bool:
        """Whether a good part of the weights of the start was learned."""
        return is_pretrained(self.start_model, self.is_random)

    def is_random(self, name: str, weight: Tensor) -> bool:
        """Whether a weight of the start is drawn at random: it is another one with another seed."""
        return name in self.random_parameters

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch; where the sample of an epoch was cut short, no fewer than it has."""
        if self.sample.train.is_whole:
            return len(self.sample.train.lengths)
        batches = self.source.make().train(0)
        return len(batches) if isinstance(batches, Sized) else len(self.sample.train.lengths)

    @cached_property
    def planned_rates(self) -> tuple[float, ...]:
        """The mean learning rate of every step as the schedule gives it, found without training."""
        patient = self.source.make()
        with OwnChance(self.source.seed).active(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the schedule steps before the optimizer does
            optimizer = patient.optimizer(patient.model())
            schedule = patient.schedule(optimizer) if patient.schedule else None
            rates = []
            for step in range(patient.steps):
                own = [group["lr"] for group in optimizer.param_groups if "lr" in group]
                rates.append(sum(own) / max(len(own), 1))
                if schedule and (patient.schedule_every == "step" or (step + 1) % self.batches_per_epoch == 0):
                    schedule.step()
        return tuple(rates)

    def evaluation(self) -> EvaluationSigns:
        """The patient's own evaluation of the network as it stands in the course."""
        taken = self.course.taken
        if taken not in self._evaluations:
            replay = self.course.replay
            self._evaluations[taken] = examine_evaluation(replay.patient, replay.model, self.sample.validation)
        return self._evaluations[taken]

    def _count_left(self) -> float:
        """How many more steps trials and continuations may take."""
        return self.max_trial_steps - self.trial_steps - self.continuation.steps

    def trial(self, change: Change = NO_CHANGE, steps: int = 30, start: int = 0) -> Trial:
        """Train anew with a change for some steps, from the start or from a state kept by the course.

        Its numbers are NaN where it fails, or where it is one more than may be made.
        """
        key = (change, steps, start)
        if key not in self._trials and steps > self._count_left():
            return Trial(steps, (), math.nan, math.nan, math.nan, math.nan)
        if key not in self._trials:
            self._trials[key] = self._run_trial(change, steps, start)
            self.trial_steps += steps
        return self._trials[key]

    def _run_trial(self, change: Change, steps: int, start: int) -> Trial:
        replay = self.course.branch(start, change) if start else Replay(self.trial_source, change)
        try:
            losses = replay.advance(steps)
            train, validation = (measure(replay, *probe) for probe in (self.sample.train_probe, self.sample.validation_probe))
        except (RuntimeError, ValueError, IndexError):
            return Trial(steps, (), math.nan, math.nan, math.nan, math.nan)
        return Trial(steps, tuple(losses), *train, *validation)
