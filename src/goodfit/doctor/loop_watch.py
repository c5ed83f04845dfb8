"""Watch a training loop that somebody else wrote, and say what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError
from goodfit.core.files import write_atomic
from goodfit.doctor.course import EARLY
from goodfit.doctor.diagnose import examine
from goodfit.doctor.finding import UNTESTED, Rule, Stage, Verdict
from goodfit.doctor.loop_patient import LoopParts, LoopPatient
from goodfit.doctor.observer import LoopObserver, Spent
from goodfit.doctor.recording import Recording, length_of, require_batch
from goodfit.doctor.rules import RULES
from goodfit.doctor.signals import Signals, measure_reference_update
from goodfit.doctor.watched import WatchedCourse, WatchedExamination
from goodfit.doctor.wording import describe_verdict
from goodfit.inspection.chance import keep_all_chance

MIN_TRIAL_STEPS = 300  # that trials may take, whatever share of the steps that is
T = TypeVar("T")


@dataclasses.dataclass
class WatchedStep:
    """What the loop tells of a step: its loss, a scalar."""

    loss: Tensor | float | None = None


@dataclasses.dataclass(frozen=True)
class WatchedVerdict(Verdict):
    """The doctor's verdict on a watched loop; its text is what the doctor prints."""

    def __str__(self) -> str:
        untested = sorted({line.partition(UNTESTED)[0] for line in self.ruled_out if UNTESTED in line})
        tested = dataclasses.replace(self, ruled_out=tuple(line for line in self.ruled_out if UNTESTED not in line))
        more = [f"Not tested, for the loop does not show what that takes: {', '.join(untested)}."] if untested else []
        return "\n".join([*describe_verdict(tested), *more])


class Watch:
    """Watches a training loop of the user's own; its weights are the same, bit for bit, with the watch and without.

    Each step is timed, and its loss and labels are noted. Of the first 50 steps nine are taken apart, which takes a pass forward and
    backward more, and five looks are taken at probe images; later that is done every 50 steps, if it takes no more than 1.5 % of the time.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, parts: LoopParts, classes: int = 0) -> None:
        self._recording, self._parts = Recording(classes), parts
        self._observer = LoopObserver(model, optimizer, self._recording, parts)
        self._waited: Spent | None = None

    def epoch(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass on the batches of one epoch: this tells where an epoch starts and ends, and how long each batch is waited for."""
        recording, is_whole = self._recording, False
        recording.has_epochs, recording.epoch_length = True, length_of(batches)
        iterator, end = iter(batches), object()
        try:
            while True:
                start = Spent.read()
                batch = next(iterator, end)
                self._waited = Spent.since(start)
                if batch is end:
                    is_whole = True
                    return
                yield batch  # type: ignore[misc]
        finally:
            recording.is_cut |= not recording.epochs and not is_whole
            recording.epochs += 1

    @contextlib.contextmanager
    def step(self, images: Tensor, labels: Tensor) -> Iterator[WatchedStep]:
        """Watch what is done with a batch of images [B, C, H, W] and labels [B], or [B, K] where they are soft; in the block, set `loss`.

        Where gradients are accumulated, there is a block for each batch; those up to an update count as one step.

        Raises:
            UsageError: that is no batch, the network returns no scores [B, K], or no loss was set.
        """
        require_batch(images, labels)
        observer, watched, is_done = self._observer, WatchedStep(), False
        observer.enter(images, labels, self._waited)
        self._waited = Spent(0.0, 0.0) if self._recording.has_epochs else None
        start = Spent.read()
        try:
            with observer.seeing():
                yield watched
            is_done = watched.loss is not None
        finally:
            spent = Spent.since(start)
            if not is_done:
                observer.abandon()
        if watched.loss is None:
            raise UsageError("Expected the block of watch.step to set the loss of its step, as in `step.loss = loss`, found none.")
        observer.leave(watched.loss, labels, spent)

    def verdict(self, rules: Sequence[Rule] = RULES, trial_share: float = 0.15) -> Verdict:
        """The doctor's verdict on what has been seen; printed, it is what the doctor says.

        Rules about the end of a training are asked once the planned steps have been taken, or if the plan was not told; rules about its
        start after 50 steps. Where something is suspected, copies of the loop's start are trained with one thing changed, on the CPU and
        on the images of the first epoch, for up to `trial_share` of the steps taken, or 300 if that is less; 0 allows none. This takes
        `watch.epoch`, and steps that apply the plain gradient of their batch.

        Raises:
            UsageError: no step has been watched yet.
        """
        course = self._settle()
        if course.taken not in course.looks:
            self._observer.attempt("looks", course.look)
        max_trial_steps = max(trial_share * course.taken, MIN_TRIAL_STEPS) if trial_share else 0.0
        with keep_all_chance():
            verdict = examine(WatchedExamination(course, max_trial_steps), rules, self._find_last_stage(course.taken))
        problems = tuple(f"{what}{UNTESTED}: {problem}" for what, problem in self._observer.problems.items())
        fields = {field.name: getattr(verdict, field.name) for field in dataclasses.fields(verdict)}
        return WatchedVerdict(**fields | {"ruled_out": (*verdict.ruled_out, *problems)})

    @property
    def signals(self) -> list[dict[str, Any]]:
        """What has been seen of each step, as rows of dimensionless numbers; `Signals.rows` describes the keys."""
        course = self._settle()
        return Signals(course.records, course.dissected, course.looks, self._recording.classes, self._reference).rows()

    def save_signals(self, path: str | Path) -> None:
        """Write the signals to a file, a line of JSON for each step.

        Raises:
            UsageError: no step has been watched yet.
            GoodfitError: the file cannot be written.
        """
        write_atomic(Path(path), "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.signals))

    @cached_property
    def _reference(self) -> float:
        """The update ratio of a clean loop with the same network and batches."""
        if (start := self._recording.start) is None:
            return math.nan
        loss = LoopPatient(self._parts, self._recording, (), {}).make().loss
        found = self._observer.attempt("the reference", lambda: measure_reference_update(start, loss, self._recording.batches))
        return math.nan if found is None else found

    def _settle(self) -> WatchedCourse:
        course = self._observer.settle()
        if course is None:
            raise UsageError("Expected a step to be watched first, found none: see watch.step.")
        return course

    def _find_last_stage(self, taken: int) -> Stage:
        """The last stage of which rules can speak."""
        if taken >= self._parts.steps:
            return Stage.END
        return Stage.EARLY if taken >= EARLY else Stage.START
