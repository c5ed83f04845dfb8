"""What a watched loop offers to the doctor's rules: an examination of what it has shown, in the place of one that can train anew."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from goodfit.doctor.course import EARLY_LOOKS, Course, Look, StepRecord
from goodfit.doctor.examination import PREFLIGHT_IMAGES, Examination, Trial
from goodfit.doctor.patient import Batches, Patient, PatientSource
from goodfit.doctor.recording import MAX_VALIDATION_IMAGES, NotSeen, Probe, Recording, read_validation
from goodfit.doctor.replay import NO_CHANGE, Change, Replay
from goodfit.doctor.sample import MAX_AGAIN, Pass, Sample
from goodfit.watch.chance import OwnChance, keep_chance
from goodfit.watch.dissection import LossFunction, StepSigns, untouched
from goodfit.watch.preflight import Preflight, examine_start

COUNTING_FACTOR = 3  # how many times as far a training must have gone before its tensors are counted again
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class LoopParts:
    """What the user tells of a loop: the loss, and where known the planned steps, validation batches, how accuracy is measured, and a
    function that makes the network with new weights.
    """

    loss: LossFunction
    steps: int = 0
    validation: Batches | None = None
    evaluate: Callable[[nn.Module, Batches], float] | None = None
    make_model: Callable[[], nn.Module] | None = None

    def make_patient(self, recording: Recording, taken: int) -> Patient:
        """The loop as a patient: what it has shown, and a sentence in the place of everything else."""
        return Patient(
            classes=recording.classes,
            steps=self.steps or taken,
            model=lambda: copy.deepcopy(require(recording.start, "a copy of its network at the start")),
            optimizer=lambda model: refuse("a function that makes its optimizer"),
            schedule=None,
            schedule_every="step",
            loss=copy.deepcopy(self.loss).cpu() if isinstance(self.loss, nn.Module) else self.loss,
            train=lambda epoch: recording.read_epoch().batches() if epoch == 0 else refuse("more than the first epoch"),
            validation=lambda: require(self.validation, "its validation images"),
            step=refuse_step,
            evaluate=self.evaluate or (lambda model, batches: refuse("how it measures accuracy")),
        )


def refuse(what: str) -> NoReturn:
    """Say that the loop does not show something.

    Raises:
        NotSeen: always.
    """
    raise NotSeen(f"A watched loop does not show {what}.")


def refuse_step(*arguments: object) -> NoReturn:
    """Say that a step cannot be repeated.

    Raises:
        NotSeen: always.
    """
    refuse("its step as a function")


def require(thing: T | None, what: str) -> T:
    """The thing, if the loop shows it.

    Raises:
        NotSeen: it does not.
    """
    return refuse(what) if thing is None else thing


class Unseen:
    """Answers with a sentence where a rule asks for an attribute that a watched loop does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse(f"{name} of its {type(self).__name__.removeprefix('Watched').lower()}")


class WatchedReplay(Unseen, Replay):
    """The network and the optimizer of a watched loop, which takes its steps itself."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, patient: Patient) -> None:
        self.model, self.patient, self.change = model, patient, NO_CHANGE
        self.taken, self.epoch, self.wait, self.schedule = 0, 0, 0.0, None
        if optimizer is not None:
            self.optimizer = optimizer

    def next_batch(self) -> tuple[Tensor, Tensor]:
        refuse("batches that are still to come")

    def take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        refuse("its step as a function")

    def scores(self, images: Tensor) -> Tensor:
        """The outputs [N, K] for images [N, C, H, W] in evaluation mode, on the device of the images."""
        if not len(images):
            return torch.empty(0, self.patient.classes, device=images.device)
        with untouched(self.model), keep_chance(), torch.no_grad():
            self.model.eval()
            return torch.cat([self.model(part).float() for part in images.split(256)])  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedSample(Unseen, Sample):
    """What a watched loop gets to see, as far as it has been recorded; the probe images are as the network of the loop takes them."""

    recording: Recording
    parts: LoopParts
    like: Tensor  # on the device and of the type of the images

    @cached_property
    def train(self) -> Pass:
        return self.recording.read_epoch()

    @cached_property
    def next_epoch(self) -> Pass:
        return self.recording.read_next_epoch()

    @cached_property
    def validation(self) -> Pass:
        if self.recording.validation is None:
            self.recording.validation = read_validation(require(self.parts.validation, "its validation images"), MAX_VALIDATION_IMAGES)
        return self.recording.validation

    @cached_property
    def validation_again(self) -> Pass:
        with OwnChance(1).active():
            return read_validation(require(self.parts.validation, "its validation images"), MAX_AGAIN)

    @cached_property
    def train_probe(self) -> Probe:
        return self._as_loop_takes(self.recording.fix_train_probe())

    @cached_property
    def validation_probe(self) -> Probe:
        """As many validation images as there are probe images of the training; none where the loop shows none: their loss is NaN."""
        images, labels = self.recording.fix_train_probe()
        return self._as_loop_takes((images[:0], labels[:0]) if self.parts.validation is None else self.validation.spread(len(labels)))

    def _as_loop_takes(self, probe: Probe) -> Probe:
        images, labels = probe
        return images.to(self.like), labels.to(self.like.device)


class WatchedCourse(Unseen, Course):
    """The course of a watched loop, to which steps and looks are added while it goes on."""

    def __init__(self, replay: WatchedReplay, sample: WatchedSample) -> None:
        self.source, self.sample, self.replay = sample.source, sample, replay
        self.watched_sample = sample
        self.records: list[StepRecord] = []
        self.dissected: dict[int, StepSigns] = {}
        self.looks: dict[int, Look] = {}
        self.is_broken, self.error, self.kept = False, "", {}
        self.look_steps = list(EARLY_LOOKS)
        self._counted_at, self._tensors = 0, 0

    def count_tensors(self) -> int:
        """How many tensors Python held when they were last counted, which takes far longer than all else of a look."""
        if self.taken >= COUNTING_FACTOR * self._counted_at:
            own = self.watched_sample.recording.tensors
            self._counted_at, self._tensors = self.taken, super().count_tensors() - own
        return self._tensors

    def keep_state(self) -> None:
        refuse("the state of its optimizer, to go on from")

    def branch(self, step: int, change: Change) -> Replay:
        refuse("its step as a function")


class ShownCourse(WatchedCourse):
    """The course of a watched loop as it is shown to the rules: followed from the start, though all of it has happened."""

    def __init__(self, replay: WatchedReplay, sample: WatchedSample, live: WatchedCourse) -> None:
        super().__init__(replay, sample)
        self.live = live

    def follow(self, until: int) -> None:
        """Show what had happened up to a step."""
        if 0 not in self.live.looks:
            self._look_at_start()
        shown = self.live.records[:until]
        broken = next((i for i, record in enumerate(shown) if not math.isfinite(record.loss)), None)
        self.is_broken = broken is not None
        self.records = shown if broken is None else shown[: broken + 1]
        self.replay.taken = len(self.records)
        self.dissected = {step: signs for step, signs in self.live.dissected.items() if step < self.taken}
        self.looks = {step: look for step, look in sorted(self.live.looks.items()) if step <= self.taken}
        self.look_steps = sorted(self.looks)

    def _look_at_start(self) -> None:
        """Look at the copy of the network from before the first step."""
        if self.live.looks and (start := self.watched_sample.recording.start) is not None:
            first = self.live.looks[min(self.live.looks)]
            course = WatchedCourse(WatchedReplay(start, None, self.replay.patient), self.watched_sample)
            self.live.looks[0] = dataclasses.replace(course.look(), tensors=first.tensors, memory=first.memory)


class WatchedExamination(Unseen, Examination):
    """The tests of a watched loop. Rules that ask for more than it shows get a `NotSeen`; a trial is one that failed."""

    def __init__(self, live: WatchedCourse) -> None:
        sample = live.sample
        assert isinstance(sample, WatchedSample)
        self.live, self.recording, self.parts = live, sample.recording, sample.parts
        patient = sample.parts.make_patient(self.recording, len(live.records))
        super().__init__(PatientSource("watched loop", 0, lambda: patient), max_trial_steps=0)
        self.sample = WatchedSample(self.source, self.recording, sample.parts, torch.empty(0))

    @cached_property
    def course(self) -> Course:
        model, optimizer = copy.deepcopy((self.live.replay.model, self.live.replay.optimizer))  # the rules touch no part of the loop
        return ShownCourse(WatchedReplay(model.cpu().float(), optimizer, self.patient), self.sample, self.live)  # type: ignore[arg-type]

    @cached_property
    def preflight(self) -> Preflight:
        images, labels = self.recording.all_batches.spread(PREFLIGHT_IMAGES)
        return examine_start(self.start_model, self.patient.loss, images, labels)

    @cached_property
    def random_parameters(self) -> frozenset[str]:
        make, states = require(self.parts.make_model, "networks with other weights"), []
        for seed in (0, 1):
            with OwnChance(seed).active():
                states.append(dict(make().named_parameters()))
        return frozenset(name for name, p in states[0].items() if not torch.equal(p, states[1][name]))

    @cached_property
    def batches_per_epoch(self) -> int:
        return self.recording.epoch_length or refuse("how many batches an epoch has")

    @cached_property
    def planned_rates(self) -> tuple[float, ...]:
        if self.live.taken < self.steps:
            refuse("the learning rates of steps that are still to come")
        return tuple(record.rate for record in self.live.records)

    def trial(self, change: Change = NO_CHANGE, steps: int = 30, start: int = 0) -> Trial:
        """A trial that could not be made: all its numbers are NaN."""
        nan = math.nan
        return Trial(steps, (), nan, nan, nan, nan)
