"""Run a patient's training from its start, step by step, as its owner does or with one thing changed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from goodfit.core.errors import GoodfitError
from goodfit.doctor.patient import Patient, PatientSource
from goodfit.doctor.reference import cross_entropy, initialize_again, make_reference_model, pool_batches
from goodfit.doctor.surgery import Structure, operated
from goodfit.inspection.chance import OwnChance, keep_chance
from goodfit.inspection.dissection import untouched


@dataclasses.dataclass(frozen=True)
class Change:
    """What a trial changes of a training; by default nothing.

    - `rate`: factor of the learning rates. `warmup`: so many steps in which the rate rises from 0 to its value.
    - `weight_decay`, `momentum`: the value instead of the patient's (the first beta for Adam and its kin).
    - `step`: "clean" zeroes the gradients, takes the patient's loss of the batch, and steps with the patient's optimizer.
    - `loss`: "cross_entropy" instead of the patient's, in a clean step.
    - `optimizer`: "adamw" at 1e-3 instead of the patient's, without a schedule, in a clean step.
    - `model`: "reference", a small network known to learn, instead of the patient's. `init`: "he", weights drawn anew.
    - `inputs`: "standardized" by channel. `order`: "shuffled" across an epoch. `dropout`: "off". `structure`: see `surgery.Surgery`.
    """

    rate: float = 1.0
    warmup: int = 0
    weight_decay: float | None = None
    momentum: float | None = None
    step: Literal["own", "clean"] = "own"
    loss: Literal["own", "cross_entropy"] = "own"
    optimizer: Literal["own", "adamw"] = "own"
    model: Literal["own", "reference"] = "own"
    init: Literal["own", "he"] = "own"
    inputs: Literal["own", "standardized"] = "own"
    order: Literal["own", "shuffled"] = "own"
    dropout: Literal["own", "off"] = "own"
    structure: Structure = "own"

    @property
    def is_clean(self) -> bool:
        """Whether steps are made by `clean_step` instead of the patient's."""
        return "clean" in self.step or self.loss != "own" or self.optimizer != "own"


NO_CHANGE = Change()


class Replay:
    """One training: the patient's network, optimizer and schedule, and its batches in order.

    Its random numbers are its own: whatever is done between two steps, it goes on as it would have.
    """

    def __init__(self, source: PatientSource, change: Change = NO_CHANGE) -> None:
        self.patient: Patient = source.make()
        self.change = change
        self.chance = OwnChance(source.seed)
        self.taken, self.epoch, self.wait, self.wait_processor = 0, 0, 0.0, 0.0
        with self.chance.active():
            self.model: nn.Module = self._make_model()
            self.optimizer: torch.optim.Optimizer = self._make_optimizer()
            make_schedule = self.patient.schedule if change.optimizer == "own" else None
            self.schedule: Any = make_schedule(self.optimizer) if make_schedule else None
        self._batches = self._iterate()

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch; `wait` is how many seconds it took, `wait_processor` how many of them the processor was at work."""
        start, processor = time.perf_counter(), time.process_time()
        with self.chance.active():
            images, labels = next(self._batches)
        self.wait, self.wait_processor = time.perf_counter() - start, time.process_time() - processor
        return images, labels

    def take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on a batch, with the schedule's step if it is due; returns what the step returns: its loss."""
        patient, change = self.patient, self.change
        with self.chance.active(), self._rates(), operated(self.model, change.structure, change.dropout == "off"):
            self.model.train()
            loss = cross_entropy if change.loss == "cross_entropy" else patient.loss
            if change.is_clean:
                result = clean_step(self.model, self.optimizer, loss, images, labels)
            else:
                result = patient.step(self.model, self.optimizer, loss, images, labels)
        if self.schedule and patient.schedule_every == "step":
            self.schedule.step()
        self.taken += 1
        return result

    def advance(self, steps: int) -> list[float]:
        """Take some steps; returns their losses."""
        return [float(self.take_step(*self.next_batch()).detach()) for _ in range(steps)]

    def scores(self, images: Tensor) -> Tensor:
        """The outputs [N, K] for images [N, C, H, W] in evaluation mode; nothing of the training changes."""
        change = self.change
        with untouched(self.model), keep_chance(), torch.no_grad(), operated(self.model, change.structure, change.dropout == "off"):
            self.model.eval()
            return torch.cat([self.model(self.prepare(part)).float() for part in images.split(256)])  # type: ignore[no-untyped-call]

    def prepare(self, images: Tensor) -> Tensor:
        """The images as this training gets them: as they are, or standardized by channel where that is the change."""
        if self.change.inputs == "own":
            return images
        if not hasattr(self, "_statistics"):
            self._statistics = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True) + 1e-6
        mean, std = self._statistics
        return (images - mean) / std

    def _iterate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The patient's batches, epoch after epoch; after each the schedule steps if that is when it does."""
        while True:
            batches = self.patient.train(self.epoch)
            is_empty = True
            for images, labels in pool_batches(batches) if self.change.order == "shuffled" else batches:
                is_empty = False
                yield self.prepare(images), labels
            if is_empty:
                raise GoodfitError(f"Epoch {self.epoch} of the training has no batches.")
            self.epoch += 1
            if self.schedule and self.patient.schedule_every == "epoch":
                self.schedule.step()

    def _make_model(self) -> nn.Module:
        if self.change.model == "reference":
            images, _ = next(iter(self.patient.train(0)))
            return make_reference_model(images.shape[1], self.patient.classes)
        model = self.patient.model()
        if self.change.init == "he":
            initialize_again(model)
        return model

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.change.optimizer == "adamw":
            return torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-3, weight_decay=1e-2)
        optimizer = self.patient.optimizer(self.model)
        for group in optimizer.param_groups:
            if self.change.weight_decay is not None and "weight_decay" in group:
                group["weight_decay"] = self.change.weight_decay
            if self.change.momentum is not None:
                if "momentum" in group:
                    group["momentum"] = self.change.momentum
                if "betas" in group:
                    group["betas"] = (self.change.momentum, min(group["betas"][1], 0.999))
        return optimizer

    @contextlib.contextmanager
    def _rates(self) -> Iterator[None]:
        """Multiply the learning rates within the block, so that the schedule sees its own."""
        change = self.change
        factor = change.rate * min((self.taken + 1) / change.warmup, 1.0) if change.warmup else change.rate
        own = [group["lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, own, strict=True):
            group["lr"] = rate * factor
        try:
            yield
        finally:
            for group, rate in zip(self.optimizer.param_groups, own, strict=True):
                group["lr"] = rate


def clean_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    """One step as the textbook has it."""
    optimizer.zero_grad(set_to_none=True)
    value = loss(model(images), labels)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value.detach()
