"""What a training does beside its arithmetic: whether a seed repeats it, how many threads are at work, how its memory grows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import torch
from torch import Tensor

from goodfit.doctor.patient import PatientSource
from goodfit.doctor.replay import Replay
from goodfit.inspection.chance import OwnChance

REPEATED_BATCHES = 3  # of each of the first epochs
NAP = 0.001  # seconds
WATCH_EVERY = 0.002  # seconds between two counts of the threads at work
TASKS = Path("/proc/self/task")


@dataclasses.dataclass(frozen=True)
class Difference:
    """What came out otherwise the second time: "images", "labels", "weights" or "losses", where, and how far, relative to its size."""

    part: str
    place: str
    size: float


def compare_batches(source: PatientSource) -> Difference | None:
    """Read the first batches of the first epochs twice from the same seed; returns the first difference."""
    for epoch in (0, 1):
        once, again = _read_batches(source, epoch), _read_batches(source, epoch)
        for i, (a, b) in enumerate(zip(once, again, strict=False)):
            for part, x, y in zip(("images", "labels"), a, b, strict=True):
                if (size := measure_difference(x, y)) > 0:
                    return Difference(part, f"batch {i + 1} of epoch {epoch + 1}", size)
    return None


def compare_weights(source: PatientSource) -> Difference | None:
    """Make the network twice from the same seed; returns the first difference."""
    models = []
    for _ in range(2):
        patient = source.make()
        with OwnChance(source.seed).active():
            models.append(patient.model())
    once, again = models
    for (name, p), q in zip(once.state_dict().items(), again.state_dict().values(), strict=True):
        if (size := measure_difference(p, q)) > 0:
            return Difference("weights", name, size)
    return None


def compare_losses(source: PatientSource, steps: int) -> Difference | None:
    """Train some steps twice from the same seed, one training after the other; returns the first difference of their losses."""
    once, again = Replay(source).advance(steps), Replay(source).advance(steps)
    for i, (a, b) in enumerate(zip(once, again, strict=True)):
        if (size := abs(a - b) / max(abs(a), abs(b), 1e-12)) > 0:
            return Difference("losses", f"step {i + 1}", size)
    return None


def measure_difference(a: Tensor, b: Tensor) -> float:
    """The norm of a difference over that of the first tensor; 1 where the shapes differ, 0 where both are equal bit by bit."""
    if a.shape != b.shape:
        return 1.0
    if torch.equal(a, b):
        return 0.0
    x, y = torch.nan_to_num(a.double()), torch.nan_to_num(b.double())
    return float((x - y).norm()) / max(float(x.norm()), 1e-12)


def count_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass
class ThreadCount:
    """How many threads of this process were at work or ready to, at each of some moments, and how many there were."""

    running: list[int] = dataclasses.field(default_factory=list)
    alive: list[int] = dataclasses.field(default_factory=list)

    @property
    def usual(self) -> float:
        """Threads at work in the busiest tenth of the moments."""
        return statistics.quantiles(self.running, n=10)[-1] if len(self.running) > 9 else float(max(self.running, default=0))


@contextlib.contextmanager
def count_threads() -> Iterator[ThreadCount]:
    """Count this process's threads every two milliseconds within the block, where the system tells (Linux)."""
    count, done = ThreadCount(), threading.Event()

    def watch() -> None:
        own = str(threading.get_native_id())
        while not done.is_set():
            states = _read_states(own)
            count.running.append(states.count("R"))
            count.alive.append(len(states))
            done.wait(WATCH_EVERY)

    watcher = threading.Thread(target=watch, daemon=True)
    if TASKS.is_dir():
        watcher.start()
    try:
        yield count
    finally:
        done.set()
        if TASKS.is_dir():
            watcher.join()


def measure_wake_up(times: int = 25) -> float:
    """Seconds by which this machine is late to go on with a process that slept, in all but the worst tenth of some naps."""
    late = []
    for _ in range(times):
        time.sleep(NAP)
        start = time.perf_counter()
        x = 0
        while time.perf_counter() - start < NAP:  # as a step computes between two waits
            x += 1
        start = time.perf_counter()
        time.sleep(NAP)
        late.append(time.perf_counter() - start - NAP)
    return statistics.quantiles(late, n=10)[-1]


def measure_growth(memory: Sequence[float], skip: int = 8) -> float:
    """MB by which memory grows with each step, if it does so all along: the least of the mean growths in four parts of the steps.

    The first steps are passed over, in which the optimizer makes its state.
    """
    used = list(memory[skip:])
    if len(used) < 16:
        return 0.0
    ends = [round(i * (len(used) - 1) / 4) for i in range(5)]
    return min((used[b] - used[a]) / (b - a) for a, b in pairwise(ends))


def _read_batches(source: PatientSource, epoch: int) -> list[tuple[Tensor, Tensor]]:
    patient = source.make()
    with OwnChance(source.seed + epoch).active():
        batches = islice(patient.train(epoch), REPEATED_BATCHES)
        return [(images.detach().clone(), torch.as_tensor(labels).detach().clone()) for images, labels in batches]


def _read_states(own: str) -> list[str]:
    """The states of this process's threads but one: R at work or ready to, S asleep."""
    states = []
    for task in os.listdir(TASKS):  # noqa: PTH208  # quicker, and it is read every two milliseconds
        if task == own:
            continue
        with contextlib.suppress(OSError, IndexError):  # a thread may end while it is read
            states.append((TASKS / task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0])
    return states
