"""Follow a training: numbers of each step, the first steps taken apart, and a look at images of both splits now and then."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.doctor.patient import PatientSource
from goodfit.doctor.replay import Change, Replay
from goodfit.doctor.sample import Sample
from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import StepDissector, StepSigns, norm, untouched
from goodfit.inspection.memory import measure_memory
from goodfit.inspection.operations import BOUNDED, trace
from goodfit.inspection.updates import StateWatch

FIRST, EARLY = 10, 50  # steps after which a training that breaks at once is to be named, and after which most causes are
DISSECTED = (0, 1, 2, 3, 4, 8, 16, 32, 49)
EARLY_LOOKS = (0, 5, 10, 20, 35, 50)
LATER_LOOKS = 12  # over the whole training
TRACED_IMAGES = 64


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """A step in numbers: its loss as it returned it, the mean learning rate, the images, how mixed their labels are (entropy over that of
    as many labels drawn evenly from all classes), seconds of waiting for the batch and of the processor in it, of the step and of the
    processor in it, optimizer tensors in use (momentum and the like), the MB in use after it (NaN where they were not counted), how often
    an optimizer updated the weights, and how often its state of before was gone.
    """

    step: int
    loss: float
    rate: float
    images: int
    label_entropy: float
    wait: float
    wait_processor: float
    seconds: float
    processor: float
    state_tensors: int
    memory: float
    updates: int = 0
    state_losses: int = 0


@dataclasses.dataclass(frozen=True)
class Look:
    """The training at a step, on the same images of both splits: cross-entropy and accuracy in evaluation mode; the cross-entropy of the
    training images in training mode (`noisy_loss`); the norm of all weights; the largest share of dead units and of flat outputs of a
    layer; Python's live tensors, and the MB that are in use.
    """

    step: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    noisy_loss: float
    weight_norm: float
    dead: float
    flat: float
    tensors: int
    memory: float


class Course:
    """A patient's training as far as it has been followed."""

    def __init__(self, source: PatientSource, sample: Sample) -> None:
        self.source, self.sample = source, sample
        self.replay = Replay(source)
        self.records: list[StepRecord] = []
        self.dissected: dict[int, StepSigns] = {}
        self.looks: dict[int, Look] = {}
        self.is_broken = False  # a loss or a weight is not finite, or a step raised an error
        self.error = ""
        self.kept: dict[int, dict[str, Any]] = {}  # states of network and optimizer to try changes from
        self._states = StateWatch()
        self._dissector = StepDissector(self.replay.model, self.replay.patient.loss)
        steps = self.replay.patient.steps
        self.look_steps = sorted({s for s in EARLY_LOOKS if s <= steps} | {round(steps * i / LATER_LOOKS) for i in range(LATER_LOOKS + 1)})

    @property
    def taken(self) -> int:
        """How many steps have been taken."""
        return self.replay.taken

    @property
    def steps(self) -> int:
        """How many are planned."""
        return self.replay.patient.steps

    def follow(self, until: int) -> None:
        """Follow the training up to a step, or until it breaks."""
        while self.taken < min(until, self.steps) and not self.is_broken:
            if self.taken in self.look_steps and self.taken not in self.looks:
                self.look()
            self._step()
        if self.taken in self.look_steps and self.taken not in self.looks and not self.is_broken:
            self.look()

    def look(self) -> Look:
        """Look at the training as it stands."""
        train, validation = (measure(self.replay, *images) for images in (self.sample.train_probe, self.sample.validation_probe))
        model, (images, labels) = self.replay.model, self.sample.train_probe
        with untouched(model), keep_chance(), torch.no_grad():
            model.train()
            operations, scores = trace(model, images[:TRACED_IMAGES], signals=True)
            scores = scores if len(images) <= TRACED_IMAGES else model(images)
            noisy = float(F.cross_entropy(as_scores(scores), clean_labels(labels, self.replay.patient.classes)))
        relus = [o.leaving.dead for o in operations.of_kind("activation") if "relu" in o.name and o.leaving]
        flats = [o.flat for o in operations.of_kind("activation") if o.name in BOUNDED]
        look = Look(
            self.taken, *train, *validation, noisy, norm([p.detach() for p in model.parameters()]), max(relus, default=0.0),
            max(flats, default=0.0), self.count_tensors(), measure_memory(),
        )  # fmt: skip
        self.looks[self.taken] = look
        return look

    def count_tensors(self) -> int:
        """How many tensors Python holds now."""
        return count_tensors()

    def keep_state(self) -> None:
        """Keep the weights and the optimizer's state, to try changes from here."""
        replay = self.replay
        self.kept[self.taken] = copy.deepcopy({"model": replay.model.state_dict(), "optimizer": replay.optimizer.state_dict()})

    def branch(self, step: int, change: Change) -> Replay:
        """A training with a change that starts from the state kept at a step, on the batches from the start of the same patient."""
        branch = Replay(self.source, change)
        branch.model.load_state_dict(self.kept[step]["model"])
        branch.optimizer.load_state_dict(copy.deepcopy(self.kept[step]["optimizer"]))
        branch.schedule = None  # the rates stay those of the state
        return branch

    def _step(self) -> None:
        replay, step = self.replay, self.taken
        try:
            images, labels = replay.next_batch()
            rates = [group["lr"] for group in replay.optimizer.param_groups if "lr" in group]
            start, processor = time.perf_counter(), time.process_time()
            updates, losses = self._states.updates, self._states.losses
            with self._states.active():
                if step in DISSECTED:
                    result, self.dissected[step] = self._dissector.dissect(
                        images, labels, lambda: replay.take_step(images, labels), replay.chance
                    )
                else:
                    result = replay.take_step(images, labels)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            self.is_broken, self.error = True, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return
        loss = float(torch.as_tensor(result).detach())
        self.records.append(
            StepRecord(
                step,
                loss,
                sum(rates) / max(len(rates), 1),
                len(images),
                measure_label_entropy(labels, replay.patient.classes),
                replay.wait,
                replay.wait_processor,
                time.perf_counter() - start,
                time.process_time() - processor,
                sum(len(s) for s in replay.optimizer.state.values() if isinstance(s, dict)),
                measure_memory() if step < EARLY or step in self.look_steps else math.nan,
                self._states.updates - updates,
                self._states.losses - losses,
            )
        )
        self.is_broken = not math.isfinite(loss)


def measure(replay: Replay, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """The cross-entropy and the accuracy of a training's network on images [N, C, H, W] with labels [N], in evaluation mode."""
    scores = as_scores(replay.scores(images))
    labels = clean_labels(labels, replay.patient.classes)
    return float(F.cross_entropy(scores, labels)), float((scores.argmax(1) == labels).float().mean())


def as_scores(outputs: Tensor) -> Tensor:
    """Outputs [N, K] as scores for a cross-entropy: the logarithms of what are probabilities."""
    is_probability = bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())
    return outputs.clamp_min(1e-12).log() if is_probability else outputs


def clean_labels(labels: Tensor, classes: int) -> Tensor:
    """Labels [N] as whole numbers within range; of soft ones [N, K] the largest."""
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    return labels.long().clamp(0, classes - 1)


def measure_label_entropy(labels: Tensor, classes: int) -> float:
    """The entropy of the labels of a batch over the mean entropy of as many labels drawn evenly from all classes."""
    labels = clean_labels(labels, classes)
    counts = torch.bincount(labels, minlength=classes).double()
    p = counts / counts.sum()
    entropy = float(-(p * p.clamp_min(1e-12).log()).sum())
    expected = math.log(classes) - (classes - 1) / (2 * len(labels)) if len(labels) > classes else math.log(max(len(labels), 2)) * 0.9
    return entropy / max(expected, 1e-6)


def count_tensors() -> int:
    """How many tensors Python holds."""
    return sum(n for kind, n in Counter(map(type, gc.get_objects())).items() if issubclass(kind, Tensor))
