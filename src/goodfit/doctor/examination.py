"""An examination of one patient: each test is made when a rule first asks for it, and never twice."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sized
from functools import cached_property

import torch
from torch import nn

from goodfit.doctor.continuation import Continuation
from goodfit.doctor.course import Course, measure
from goodfit.doctor.evaluation import EvaluationSigns, examine_evaluation
from goodfit.doctor.patient import Patient, PatientSource
from goodfit.doctor.replay import NO_CHANGE, Change, Replay
from goodfit.doctor.sample import Sample
from goodfit.doctor.system import ThreadCount
from goodfit.watch.chance import OwnChance
from goodfit.watch.preflight import Preflight, examine_start, measure_loss_shape

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

    def __init__(self, source: PatientSource) -> None:
        self.source = source
        self.patient: Patient = source.make()
        self.classes, self.steps = self.patient.classes, self.patient.steps  # planned steps
        self.sample = Sample(source)
        self.continuation = Continuation(source, self.sample, lambda: self.course)
        self.repetition: tuple[Trial, ThreadCount] | None = None  # see `repeat_steps`
        self.trial_steps = 0
        self.started = time.perf_counter()
        self._trials: dict[tuple[Change, int, int], Trial] = {}
        self._evaluations: dict[int, EvaluationSigns] = {}

    @cached_property
    def course(self) -> Course:
        return Course(self.source, self.sample)

    @cached_property
    def start_model(self) -> nn.Module:
        """A network as the training starts with it."""
        return self.make_model(self.source.seed)

    def make_model(self, seed: int) -> nn.Module:
        """A network with the weights of a seed."""
        with OwnChance(seed).active():
            return self.patient.model()

    @cached_property
    def preflight(self) -> Preflight:
        images, labels = self.sample.train.spread(PREFLIGHT_IMAGES)
        return examine_start(self.start_model, self.patient.loss, images, labels)

    @cached_property
    def loss_shape(self) -> dict[str, float]:
        """What the loss function does with made-up scores: see `measure_loss_shape`."""
        return measure_loss_shape(self.patient.loss, self.classes, self.preflight.output.shape[-1])

    @cached_property
    def random_parameters(self) -> frozenset[str]:
        """Names of the parameters that start otherwise with another seed; the others are pretrained or constant."""
        other = dict(self.make_model(self.source.seed + 1).named_parameters())
        return frozenset(name for name, p in self.start_model.named_parameters() if name in other and not torch.equal(p, other[name]))

    @cached_property
    def is_pretrained(self) -> bool:
        """Whether most weights start the same with every seed, and are not constant: they were learned."""
        weights = {name: p for name, p in self.start_model.named_parameters() if p.ndim >= 2}
        learned = [p.numel() for name, p in weights.items() if name not in self.random_parameters and float(p.detach().std()) > 0]
        return bool(weights) and sum(learned) > 0.5 * sum(p.numel() for p in weights.values())

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
            self._evaluations[taken] = examine_evaluation(self.patient, self.course.replay.model, self.sample.validation)
        return self._evaluations[taken]

    def trial(self, change: Change = NO_CHANGE, steps: int = 30, start: int = 0) -> Trial:
        """Train anew with a change for some steps, from the start or from a state kept by the course; NaN where it fails."""
        key = (change, steps, start)
        if key not in self._trials:
            self._trials[key] = self._run_trial(change, steps, start)
            self.trial_steps += steps
        return self._trials[key]

    def _run_trial(self, change: Change, steps: int, start: int) -> Trial:
        replay = self.course.branch(start, change) if start else Replay(self.source, change)
        try:
            losses = replay.advance(steps)
            train, validation = (measure(replay, *probe) for probe in (self.sample.train_probe, self.sample.validation_probe))
        except (RuntimeError, ValueError, IndexError):
            nan = float("nan")
            return Trial(steps, (), nan, nan, nan, nan)
        return Trial(steps, tuple(losses), *train, *validation)
