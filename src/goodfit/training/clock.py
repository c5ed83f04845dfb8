"""The clock of a training: what a step waits for data and computes, what has elapsed, what is kept for the end, and when to save."""

from __future__ import annotations

import math
import time

from goodfit.core.device import release_freed_pages
from goodfit.training.snapshots import snapshots_due
from goodfit.training.state import Plan, State

END_SECONDS = 1.0  # that writing the model and the report, and leaving the process, take besides


class Clock:
    """Measures how long a step waits for data and how long it computes; `state.elapsed` advances by both, as rank 0 measures them."""

    def __init__(self, state: State, plan: Plan) -> None:
        self.state, self.plan = state, plan
        now = state.step, state.elapsed, plan.t(state)
        self.saves = plan.save_every.number(*now) if plan.save_every else 0
        state.snapshots_taken = min(state.snapshots_taken, snapshots_due(plan, plan.t(state)))  # fewer, once the budget is made longer
        if state.step == 0 and plan.evaluate_every:  # a period in seconds counts from the start of the command
            state.evaluations = plan.evaluate_every.number(*now)
        self.lap_started = time.perf_counter()
        self.wait = self.work = self.unrecorded = 0.0
        self.fastest = math.inf  # seconds per image
        self.pixel_share = 1.0  # that training showed in the step before

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self.lap_started = now - self.lap_started, now
        self.unrecorded += seconds
        return seconds

    def begin_step(self, t: float) -> None:
        """The time since the last call was spent waiting for the batch of a step at progress t.

        Where the images become larger, freed memory is returned: from there on blocks of other sizes are needed.
        """
        self.wait, self.work = self._lap(), 0.0
        before, self.pixel_share = self.pixel_share, self.plan.pixel_share(t)
        if self.pixel_share > before:
            release_freed_pages()

    def skip(self) -> None:
        """The time since the last call does not count."""
        self.lap_started = time.perf_counter()

    def end_work(self, ranks_meet: bool = True) -> None:
        """The time since the last call was spent computing; it counts as elapsed once the ranks meet."""
        self.work += self._lap()
        if not ranks_meet:
            return
        elapsed = self.state.elapsed + self.unrecorded
        self.state.elapsed, self.work = self.plan.ranks.broadcast_numbers(elapsed, self.work)
        self.unrecorded = 0.0

    def update_reserve(self, images: int) -> None:
        """Before the first evaluation, estimate the final one's time from the fastest step: a forward pass is about a third of one."""
        if self.plan.evaluate and self.plan.lengths.timed and not self.state.history:
            self.fastest = min(self.fastest, self.work / images / self.pixel_share)
            self.state.reserve = END_SECONDS + (1 + self.plan.final_passes) * self.fastest * self.plan.evaluated_images / 3

    def is_save_due(self, t: float) -> bool:
        """Whether to save a checkpoint after a step that began at progress t."""
        before, every = self.saves, self.plan.save_every
        self.saves = max(before, every.number(self.state.step, self.state.elapsed, t)) if every else before
        return self.saves > before

    def timing(self, images: int) -> dict[str, float]:
        """Speed, share of the time spent waiting, and seconds since the start, for the log."""
        seconds = self.wait + self.work
        return {"images_per_s": images / seconds, "data_share": self.wait / seconds, "elapsed": self.state.elapsed + self.unrecorded}
