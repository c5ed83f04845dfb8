"""What a watched loop offers to the doctor's rules: an examination of what it has shown, in the place of one that can train anew."""

from __future__ import annotations

import copy
import dataclasses
import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.doctor.course import EARLY_LOOKS, Course, Look, StepRecord
from goodfit.doctor.examination import PREFLIGHT_IMAGES, Examination
from goodfit.doctor.loop_patient import LoopParts, LoopPatient, refuse, require
from goodfit.doctor.patient import Patient, PatientSource
from goodfit.doctor.recording import MAX_VALIDATION_IMAGES, Probe, Recording, read_validation
from goodfit.doctor.replay import NO_CHANGE, Replay
from goodfit.doctor.sample import MAX_AGAIN, Pass, Sample
from goodfit.inspection.chance import OwnChance, keep_chance
from goodfit.inspection.dissection import StepSigns, untouched
from goodfit.inspection.preflight import Preflight, examine_start
from goodfit.inspection.randomness import looks_drawn

NAME = "watched loop"
COUNTING_FACTOR = 3  # how many times as far a training must have gone before its tensors are counted again


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

    def keep_state(self) -> None:
        """Keep the state to try changes from: it is known of the end alone."""
        if self.taken < len(self.live.records):
            refuse(f"its weights after {self.taken} steps")
        super().keep_state()

    def _look_at_start(self) -> None:
        """Look at the copy of the network from before the first step."""
        if self.live.looks and (start := self.watched_sample.recording.start) is not None:
            first = self.live.looks[min(self.live.looks)]
            course = WatchedCourse(WatchedReplay(start, None, self.replay.patient), self.watched_sample)
            self.live.looks[0] = dataclasses.replace(course.look(), tensors=first.tensors, memory=first.memory)


class WatchedExamination(Unseen, Examination):
    """The tests of a watched loop. Rules that ask for more than it shows get a `NotSeen`."""

    def __init__(self, live: WatchedCourse, max_trial_steps: float) -> None:
        sample = live.sample
        assert isinstance(sample, WatchedSample)
        self.live, self.recording, self.parts = live, sample.recording, sample.parts
        rates = [record.rate for record in live.records]
        strict, lenient = (LoopPatient(self.parts, self.recording, rates, live.dissected, repeats) for repeats in (False, True))
        repeated = PatientSource(NAME, 0, lenient.make)
        shown = WatchedSample(repeated, self.recording, self.parts, torch.empty(0))
        super().__init__(PatientSource(NAME, 0, strict.make), max_trial_steps, shown)
        self.trial_source = repeated

    @cached_property
    def course(self) -> Course:
        model, optimizer = copy.deepcopy((self.live.replay.model, self.live.replay.optimizer))  # the rules touch no part of the loop
        assert isinstance(self.sample, WatchedSample)
        return ShownCourse(WatchedReplay(model.cpu().float(), optimizer, self.patient), self.sample, self.live)

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

    def is_random(self, name: str, weight: Tensor) -> bool:
        """Whether a weight of the start is drawn at random; where no other network can be made, whether it looks so."""
        return looks_drawn(weight.cpu()) if self.parts.make_model is None else super().is_random(name, weight)

    @cached_property
    def batches_per_epoch(self) -> int:
        return self.recording.epoch_length or refuse("how many batches an epoch has")

    @cached_property
    def planned_rates(self) -> tuple[float, ...]:
        if self.live.taken < self.steps:
            refuse("the learning rates of steps that are still to come")
        return tuple(record.rate for record in self.live.records)
