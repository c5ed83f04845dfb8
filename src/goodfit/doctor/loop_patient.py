"""A watched loop as a patient: what it has shown is trained anew by plain steps, if those are what its own steps are."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from goodfit.doctor.patient import Batches, Patient
from goodfit.doctor.recording import NotSeen, Recording
from goodfit.doctor.replay import clean_step
from goodfit.inspection.dissection import LossFunction, StepSigns

SAME_DIRECTION, SAME_LENGTH = 0.999, 0.01  # how near the applied gradients of plain steps are to the fresh ones
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


def refuse(what: str) -> NoReturn:
    """Say that the loop does not show something.

    Raises:
        NotSeen: always.
    """
    raise NotSeen(f"A watched loop does not show {what}.")


def require(thing: T | None, what: str) -> T:
    """The thing, if the loop shows it.

    Raises:
        NotSeen: it does not.
    """
    return refuse(what) if thing is None else thing


class RecordedSchedule:
    """A schedule that sets the learning rates as a loop has had them, step after step, in the proportions in which its groups started."""

    def __init__(self, optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
        self.optimizer, self.rates, self.taken = optimizer, rates, 0
        self.own = [float(group["lr"]) for group in optimizer.param_groups]
        self._set()

    def step(self) -> None:
        """Set the rates of the next step; after those that were recorded, the last."""
        self.taken += 1
        self._set()

    def _set(self) -> None:
        mean = sum(self.own) / len(self.own)
        rate = self.rates[min(self.taken, len(self.rates) - 1)]
        for group, own in zip(self.optimizer.param_groups, self.own, strict=True):
            group["lr"] = rate * own / mean if mean > 0 else rate


class LoopPatient:
    """Makes patients of a watched loop: equal, independent copies of its start. With `repeats`, what was recorded of the first epoch stands
    for all of it; else its end is not known where it was not recorded.
    """

    def __init__(
        self, parts: LoopParts, recording: Recording, rates: Sequence[float], dissected: Mapping[int, StepSigns], repeats: bool = False
    ) -> None:
        self.parts, self.recording, self.rates, self.repeats = parts, recording, rates, repeats
        self.is_plain = is_plain(dissected)
        self._optimizers: WeakKeyDictionary[nn.Module, torch.optim.Optimizer] = WeakKeyDictionary()  # of the networks made here

    def make(self) -> Patient:
        """A patient: what the loop has shown, and a sentence in the place of everything else."""
        parts, recording = self.parts, self.recording
        return Patient(
            classes=recording.classes,
            steps=parts.steps or len(self.rates),
            model=self._make_model,
            optimizer=self._make_optimizer,
            schedule=(lambda optimizer: RecordedSchedule(optimizer, self.rates)) if len(set(self.rates)) > 1 else None,
            schedule_every="step",
            loss=copy.deepcopy(parts.loss).cpu() if isinstance(parts.loss, nn.Module) else parts.loss,
            train=self._iterate,
            validation=lambda: require(parts.validation, "its validation images"),
            step=self._take_step,
            evaluate=parts.evaluate or (lambda model, batches: refuse("how it measures accuracy")),
        )

    def _make_model(self) -> nn.Module:
        """A copy of the network at the start, with one of its optimizer."""
        start = require(self.recording.start, "a copy of its network at the start")
        model, optimizer = copy.deepcopy((start, self.recording.start_optimizer))
        if optimizer is not None:
            self._optimizers[model] = optimizer
        return model

    def _make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a network made here; for another network, one of the same kind and settings."""
        if model in self._optimizers:
            return self._optimizers.pop(model)
        own: Any = require(self.recording.start_optimizer, "its optimizer at the start")
        try:
            made: torch.optim.Optimizer = type(own)([p for p in model.parameters() if p.requires_grad], **own.defaults)
        except TypeError:
            refuse("how its optimizer is made")
        return made

    def _iterate(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the first epoch, of one update each; in later epochs their images in another order.

        Raises:
            NotSeen: the loop does not show all of an epoch.
        """
        is_whole = self.recording.read_epoch().is_whole
        batches = self.recording.read_updates()
        if not epoch:
            yield from batches
            if not (is_whole or self.repeats):
                refuse("the end of its first epoch")
            return
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for part in rows.split(len(batches[0][1])):  # type: ignore[no-untyped-call]
            yield images[part], labels[part]

    def _take_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossFunction, images: Tensor, labels: Tensor) -> Tensor:
        """A plain step; parts that were frozen in evaluation mode at the start are again.

        Raises:
            NotSeen: the steps of the loop are something else.
        """
        if not self.is_plain:
            refuse("its step as a function, which is no plain one")
        modules = dict(model.named_modules())
        for name in self.recording.frozen:
            if name in modules:
                modules[name].training = False
        return clean_step(model, optimizer, loss, images, labels)


def is_plain(dissected: Mapping[int, StepSigns]) -> bool:
    """Whether each step that was taken apart applied the gradient of its batch, once and as it was."""
    signs = [s for s in dissected.values() if s.is_finite]
    return bool(signs) and all(
        s.updates == 1 and s.applied_cosine > SAME_DIRECTION and abs(s.applied_norm / s.fresh_norm - 1) < SAME_LENGTH for s in signs
    )
