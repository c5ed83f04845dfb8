"""The training loop: one page of plain code; what varies is passed in as values, what looks on cannot touch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.chance import of_epoch
from goodfit.core.errors import Diverged
from goodfit.training.average import IMAGES, advance, take_statistics
from goodfit.training.finite import blame
from goodfit.training.gradient import Objective
from goodfit.training.journal import Journal
from goodfit.training.noise import set_progress
from goodfit.training.snapshots import mark, passed
from goodfit.training.state import Plan, State
from goodfit.training.steering import said
from goodfit.training.trainable import phase_at, set_trainable

FINAL = 3.0  # the final evaluation, in fp32 and with its pictures, takes about three times one on the way
PIECE = 256  # images at once, where there is no step to be cut


class Batches(Protocol):
    """Where logical batches come from: any start step, and the places of a step in its epoch's order."""

    def stream(self, start: int) -> Iterator[Batch]: ...

    def places(self, step: int) -> tuple[int, Tensor]: ...


class Watch(Protocol):
    """Looks at a step and reads numbers from it; changes nothing."""

    def during(self, state: State, objective: Objective) -> AbstractContextManager[dict[str, Any]]: ...


class Blind:
    """Watches nothing."""

    def during(self, state: State, objective: Objective) -> AbstractContextManager[dict[str, Any]]:
        return contextlib.nullcontext({})


def fit(
    state: State,
    batches: Batches,
    plan: Plan,
    watch: Watch | None = None,
    journal: Journal | None = None,
    save: Callable[[State], None] = lambda state: None,
    halt: Callable[[], bool] = lambda: False,
    lever: Callable[[int], float] = lambda step: 1.0,
) -> State:
    """Train until the budget ends, the plan's stop rule says so, or `halt()` is true, at rates times `lever(step)`; returns the state.

    Raises:
        Diverged: a loss or gradient was not finite; nothing non-finite is ever handed to `save`.
    """
    watch, journal = watch or Blind(), journal or Journal()
    source, clock, trains = batches.stream(state.step), Clock(state, plan), learns(state.model)
    state.model.train()
    while trains and (t := plan.t(state)) < 1 and not (halt() or state.stopped):
        if passed(plan, t) > state.passed:  # a snapshot: before its weights move on
            checkpoint(state, plan, journal, save)
        # the batch, and its chance
        epoch, places = batches.places(state.step)
        batch = next(source)
        clock.waited()
        chance = of_epoch(plan.seed, "augment", epoch, places, batch.ids)

        # one step: the optimizer calls the objective as often as it likes
        rate = set_rates(state.optimizer, plan.schedule(t) * state.brake * pulled(state, journal, lever(state.step)))
        set_trainable(state.model, plan.trainable, t)
        set_progress(state.model, t)
        objective = Objective(state, batch, plan, chance, t)
        with watch.during(state, objective) as seen:
            state.optimizer.step(objective)  # type: ignore[arg-type]
        state.step += 1
        clock.worked()
        clock.keep_reserve(plan, len(batch))
        if advance(state, plan.average, t, plan.t(state)):
            clock.worked()

        # what it came to
        journal.events(state.step, objective.events)
        row = {"kind": "train", "step": state.step, "t": t, "epoch": epoch, "lr": rate}
        bad = journal.add({**row, **objective.numbers(), **seen, **clock.row(len(batch))})
        if bad is not None:  # on a GPU numbers arrive late; the weights tell what is left to tell
            raise blame(state.model, objective.pieces(), plan, bad - 1)

        # once in a while: evaluate, save
        if due(plan, state):
            refresh(state, plan, batches)
            score(state, plan, journal)
            checkpoint(state, plan, journal, save)
            clock.worked()
            state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, plan.t(state))  # type: ignore[union-attr]
        elif clock.saving(t):
            checkpoint(state, plan, journal, save)
    conclude(state, plan, batches, journal)
    checkpoint(state, plan, journal, save)
    return state


def learns(model: nn.Module) -> bool:
    """Whether a model has anything to train."""
    return any(True for _ in model.parameters())


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Give each group its peak rate times `factor`; returns the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("peak", group["lr"]) * factor
    return float(optimizer.param_groups[0]["lr"])


def pulled(state: State, journal: Journal, factor: float) -> float:
    """Take over what a person multiplies the learning rate by, and return it."""
    if factor != state.lever:
        journal.events(state.step, [said(factor, state.lever, "by hand")])
        state.lever = factor
    return factor


def refresh(state: State, plan: Plan, batches: Batches) -> None:
    """Give averaged weights batch statistics of their own, from the first training batches, always the same; see `take_statistics`."""
    if state.average is None:
        return
    t = plan.t(state)
    phase = phase_at(plan.trainable, t)
    take_statistics(state.average, some_images(plan, batches, t), phase.fixed if phase else (), plan.precision)


def some_images(plan: Plan, batches: Batches, t: float) -> Iterator[Tensor]:
    """About IMAGES training images as the model sees them at t, in batches of at most PIECE."""
    seen = 0
    for step, batch in zip(range(plan.lengths.epoch_steps), batches.stream(0), strict=False):
        epoch, places = batches.places(step)
        for first in range(0, min(len(batch), IMAGES - seen), PIECE):
            rows = slice(first, first + PIECE)
            chance = of_epoch(plan.seed, "statistics", epoch, places[rows], batch.ids[rows])
            made = plan.augment(batch[rows].to(plan.device), chance, t)
            seen += len(made)
            yield plan.normalize(made.images)
        if seen >= IMAGES:
            return


def conclude(state: State, plan: Plan, batches: Batches, journal: Journal) -> None:
    """What evaluations on the way have not done: batch statistics where there were none, the one score of a model with nothing to train."""
    if plan.evaluate is None:
        refresh(state, plan, batches)
    elif not (learns(state.model) or state.history):
        score(state, plan, journal)


def due(plan: Plan, state: State) -> bool:
    """Whether an evaluation is due: one for each multiple of `evaluate_every`, and one at the end."""
    if plan.evaluate is None or plan.evaluate_every is None:
        return False
    t = plan.t(state)
    return t >= 1 or plan.evaluate_every.number(state.step, state.elapsed, t) > state.evaluations


def score(state: State, plan: Plan, journal: Journal) -> None:
    """Evaluate the judged model: log it, remember the best, ask the stop rule."""
    assert plan.evaluate is not None and plan.evaluate_every is not None
    started = time.perf_counter()
    t = plan.t(state)
    scores = plan.evaluate(state.judged)
    state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, t)
    state.history.append(scores.pop("score"))
    if state.history[-1] >= max(state.history):  # of equals the later one, trained for longer
        state.best = {"step": state.step, "score": state.history[-1]}
    if plan.brake and (brake := plan.brake(state.history)) != state.brake:
        journal.events(state.step, [said(brake, state.brake, "plateau")])
        state.brake = brake
    if plan.stop and plan.stop(state.history):
        state.stopped = f"no better score for {len(state.history) - 1 - state.history.index(max(state.history))} evaluations"
    state.model.train()
    seconds = time.perf_counter() - started
    state.reserve = FINAL * seconds if plan.lengths.timed else 0.0
    journal.add({"kind": "evaluate", "step": state.step, "t": t, "elapsed": state.elapsed + seconds, "seconds": seconds, **scores})


def checkpoint(state: State, plan: Plan, journal: Journal, save: Callable[[State], None]) -> None:
    """Write down what is held, then save, as a snapshot where one is due: but never anything that is not finite."""
    bad = journal.flush()
    if bad is not None:
        raise Diverged(f"Training diverged at step {bad}: its loss or gradient is not finite. What is saved is from before.")
    mark(state, plan)
    save(state)


class Clock:
    """Where the seconds go: waiting for data, or computing; `state.elapsed` advances by both."""

    def __init__(self, state: State, plan: Plan) -> None:
        self.state, self.plan = state, plan
        now = state.step, state.elapsed, plan.t(state)
        self.saves = plan.save_every.number(*now) if plan.save_every else 0
        state.passed = min(state.passed, passed(plan, plan.t(state)))  # fewer, under a budget made longer
        if state.step == 0 and plan.evaluate_every:  # the start-up's share of a budget in minutes asks for no evaluation
            state.evaluations = plan.evaluate_every.number(*now)
        self.mark = time.perf_counter()
        self.wait = self.work = 0.0
        self.fastest = math.inf

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        self.state.elapsed += seconds
        return seconds

    def waited(self) -> None:
        self.wait, self.work = self._lap(), 0.0

    def worked(self) -> None:
        self.work += self._lap()

    def keep_reserve(self, plan: Plan, images: int) -> None:
        """Until an evaluation has told, keep time for the last one by the speed of the steps: a forward pass is about a third of one."""
        self.fastest = min(self.fastest, self.work / images)
        if plan.lengths.timed and not self.state.history:
            self.state.reserve = FINAL * self.fastest * plan.judged / 3

    def saving(self, t: float) -> bool:
        """Whether a checkpoint is due after a step from progress t."""
        before, every = self.saves, self.plan.save_every
        self.saves = max(before, every.number(self.state.step, self.state.elapsed, t)) if every else before
        return self.saves > before

    def row(self, images: int) -> dict[str, float]:
        seconds = self.wait + self.work
        return {"images_per_s": images / seconds, "data_share": self.wait / seconds, "elapsed": self.state.elapsed}
