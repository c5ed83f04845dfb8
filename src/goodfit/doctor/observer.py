"""What is seen of a loop in passing: every step in numbers that are at hand, some steps taken apart, a look at probe images at times."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from goodfit.core.errors import first_line
from goodfit.doctor.course import DISSECTED, EARLY, EARLY_LOOKS, StepRecord, measure_label_entropy
from goodfit.doctor.diagnose import TEST_ERRORS
from goodfit.doctor.loop_patient import LoopParts, LoopPatient
from goodfit.doctor.patient import PatientSource
from goodfit.doctor.recording import Recording, count_classes, count_labels
from goodfit.doctor.signals import remove_pauses
from goodfit.doctor.watched import NAME, WatchedCourse, WatchedReplay, WatchedSample
from goodfit.inspection.chance import keep_all_chance
from goodfit.inspection.dissection import Dissection, StepDissector
from goodfit.inspection.memory import MB, measure_memory
from goodfit.inspection.updates import StepWatch, each_update

INTERVAL = 50  # steps between two dear looks after the first so many
MAX_SHARE = 0.015  # of the time of the steps since then that dear looks may take
T = TypeVar("T")


@dataclasses.dataclass
class Update:
    """The batches up to one update of the weights, and what was seen of them."""

    step: int
    wait: float = 0.0
    wait_processor: float = 0.0
    is_dissected: bool = False
    dissection: Dissection | None = None
    precision: StepWatch = dataclasses.field(default_factory=StepWatch)
    updates: int = 0
    state_losses: int = 0
    losses: list[Tensor] = dataclasses.field(default_factory=list)
    labels: list[Tensor] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    processor: float = 0.0
    rate: float = math.nan
    state_tensors: int = 0
    memory: float = math.nan
    cost: float = 0.0  # seconds of tests

    def to_record(self, classes: int) -> StepRecord:
        """The update as a step in numbers; they are read from the device here."""
        labels = torch.cat([part.argmax(1) if part.ndim == 2 else part for part in self.labels]).cpu()
        entropy = measure_label_entropy(labels, classes)
        loss, n = float(torch.stack(self.losses).double().mean()), len(labels)
        return StepRecord(
            step=self.step, loss=loss, rate=self.rate, images=n, label_entropy=entropy, wait=self.wait, wait_processor=self.wait_processor,
            seconds=self.seconds, processor=self.processor, state_tensors=self.state_tensors, memory=self.memory,
            updates=self.updates, state_losses=self.state_losses,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds that something took: of the clock, and of the processor in them."""

    clock: float
    processor: float

    @classmethod
    def since(cls, start: Spent) -> Spent:
        """What has been spent since a reading of both clocks."""
        return cls(time.perf_counter() - start.clock, time.process_time() - start.processor)

    @classmethod
    def read(cls) -> Spent:
        """A reading of both clocks."""
        return cls(time.perf_counter(), time.process_time())


class LoopObserver:
    """Sees a loop in passing: `enter` before a batch is used, which happens within `seeing()`, and `leave` after it.

    What fails in a test of its own is a sentence in `problems`; the loop goes on.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, recording: Recording, parts: LoopParts) -> None:
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.is_compiled = self.model is not model  # by torch.compile
        self.optimizer, self.recording, self.parts = optimizer, recording, parts
        self.problems: dict[str, str] = {}
        self.records: list[StepRecord] = []
        self.course: WatchedCourse | None = None
        self._dissector = StepDissector(self.model, parts.loss, keeps_modes=True)
        self._pending: list[Update] = []  # whose numbers have not been read from the device yet
        self._open: Update | None = None
        self._parameters = {id(p) for p in model.parameters()}
        self._had_state = False  # that the last update has left in its optimizer
        self._left: Spent | None = None  # when the last step ended
        self._costs: deque[float] = deque(maxlen=2)  # seconds of tests of the last steps that had some: a look and a step taken apart
        self._spent, self._stepped = 0.0, 0.0  # seconds of tests and of steps, since the first INTERVAL steps

    def start(self, images: Tensor, labels: Tensor) -> WatchedCourse:
        """Look at what there is before the first step."""
        recording = self.recording
        width = self.attempt("the outputs", lambda: count_classes(self.model, images))
        recording.classes = recording.classes or width or count_labels(labels)
        self.attempt("the start", lambda: recording.copy_start(self.model, self.optimizer))
        patient = LoopPatient(self.parts, recording, (), {}).make()
        sample = WatchedSample(PatientSource(NAME, 0, lambda: patient), recording, self.parts, images.detach()[:0].clone())
        self.course = WatchedCourse(WatchedReplay(self.model, self.optimizer, patient), sample)
        return self.course

    def enter(self, images: Tensor, labels: Tensor, waited: Spent | None) -> None:
        """See what there is to see before a batch is used, for which was `waited`; None: since the last step."""
        wait = waited or (Spent.since(self._left) if self._left else Spent(0.0, 0.0))
        course = self.course or self.start(images, labels)
        self.recording.add(images, labels, wait.clock, course.taken)
        if self._open is None:
            step = course.taken
            is_due = self._is_due(step)
            self._open = Update(step, is_dissected=step in DISSECTED or is_due)
            if step in EARLY_LOOKS[1:] or is_due:
                self._read_pending()
                self.attempt("looks", course.look)
        update = self._open
        update.wait += wait.clock
        update.wait_processor += wait.processor
        if update.is_dissected:
            update.dissection = self.attempt("steps taken apart", lambda: self._dissect(update.dissection, images, labels))
            update.is_dissected = update.dissection is not None

    @contextlib.contextmanager
    def seeing(self) -> Iterator[None]:
        """See what happens to the weights while a batch is used within the block."""
        update = self._open
        assert update is not None

        def see(optimizer: torch.optim.Optimizer) -> None:
            if self._is_own(optimizer):
                update.updates += 1
                update.state_losses += self._had_state and not optimizer.state
                rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
                update.rate = sum(rates) / max(len(rates), 1)

        def see_state(optimizer: torch.optim.Optimizer) -> None:
            if self._is_own(optimizer):
                self._had_state = bool(optimizer.state)
                update.state_tensors = sum(len(state) for state in optimizer.state.values() if isinstance(state, dict))

        with contextlib.ExitStack() as stack:
            stack.enter_context(each_update(see, see_state))
            if update.dissection is not None:
                stack.enter_context(update.dissection.seeing())
                if not self.is_compiled:
                    stack.enter_context(update.precision)
            yield

    def leave(self, loss: Tensor | float, labels: Tensor, spent: Spent) -> None:
        """See what there is to see after a batch was used."""
        update, course = self._open, self.course
        assert update is not None and course is not None
        update.losses.append(loss.detach().float().mean().clone() if isinstance(loss, Tensor) else torch.tensor(float(loss)))
        update.labels.append(labels.detach().clone())
        update.seconds += spent.clock
        self._stepped += spent.clock
        update.processor += spent.processor
        if update.updates:
            if (dissection := update.dissection) is not None:
                signs = self.attempt("steps taken apart", lambda: dissection.describe(torch.stack(update.losses).mean(), update.precision))
                course.dissected |= {update.step: signs} if signs is not None else {}
            update.dissection = None
            self._pending.append(update)
            if update.cost:
                self._costs.append(update.cost)
            self._open = None
            if update.step < EARLY or update.step in course.looks:
                own = self.recording.bytes + sum(label.nbytes for pending in self._pending for label in pending.labels)
                update.memory = measure_memory() - own / MB
            if len(self._pending) >= INTERVAL:
                self._read_pending()
            course.replay.taken += 1
        self._left = Spent.read()

    def abandon(self) -> None:
        """Forget a batch that was not used to its end."""
        self._open = None

    def settle(self) -> WatchedCourse | None:
        """The course as far as it has gone; None before the first update."""
        self._read_pending()
        if self.course is None or not self.records:
            return None
        self.course.records = self.records if self.recording.has_epochs else remove_pauses(self.records)
        return self.course

    def attempt(self, what: str, test: Callable[[], T]) -> T | None:
        """Make a test that leaves the training as it is; None if it fails."""
        started = time.perf_counter()
        try:
            with keep_all_chance():
                return test()
        except TEST_ERRORS as error:
            self.problems.setdefault(what, f"{type(error).__name__}: {first_line(error)}")
            return None
        finally:
            seconds = time.perf_counter() - started
            self._spent += seconds
            if self._open is not None:
                self._open.cost += seconds

    def _is_own(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer updates the network, even if it is not the one that was given: some are made anew on the way."""
        return any(id(p) in self._parameters for group in optimizer.param_groups for p in group["params"][:1])

    def _dissect(self, dissection: Dissection | None, images: Tensor, labels: Tensor) -> Dissection:
        """Take a step apart from this batch on, or go on with it."""
        dissection = dissection or Dissection(self._dissector)
        dissection.add(images, labels)
        return dissection

    def _is_due(self, step: int) -> bool:
        """Whether a step after the early ones is looked at and taken apart: every INTERVAL of them, if the steps leave time for it."""
        if step <= max(EARLY, INTERVAL):
            self._spent, self._stepped = 0.0, 0.0
            return False
        return step % INTERVAL == 0 and self._spent + sum(self._costs) <= MAX_SHARE * self._stepped

    def _read_pending(self) -> None:
        """Read the numbers of the last steps from the device."""
        self.records += [update.to_record(self.recording.classes) for update in self._pending]
        self._pending.clear()
