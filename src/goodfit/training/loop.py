"""The training loop: one page of plain code; what varies is passed in as values, what watches cannot touch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from goodfit.core.device import release_freed_pages
from goodfit.core.errors import Diverged
from goodfit.core.parameters import has_parameters
from goodfit.training.averaging import update_average
from goodfit.training.batch_statistics import refresh_average
from goodfit.training.checkpoint import broadcast_state
from goodfit.training.finite import divergence_error
from goodfit.training.metric_log import MetricLog
from goodfit.training.rescue import go_back, rescue_if_worse
from goodfit.training.snapshots import record_snapshot, snapshots_due
from goodfit.training.state import Batches, Plan, State
from goodfit.training.step import NO_WATCH, Objective, Watch, train_step

END_SECONDS = 1.0  # that writing the model and the report, and leaving the process, take besides
MAX_EVALUATION_SHARE = 0.1  # of the time so far under a budget in minutes, that evaluations by a share of it take


def fit(
    state: State,
    batches: Batches,
    plan: Plan,
    watch: Watch = NO_WATCH,
    log: MetricLog | None = None,
    save: Callable[[State], None] = lambda state: None,
    halt: Callable[[], bool] = lambda: False,
    manual_factor: Callable[[int], float] = lambda step: 1.0,
) -> State:
    """Train until the budget ends, the plan's stop rule says so, or `halt()` of rank 0 is true; returns the state.

    The learning rate is the schedule's times rank 0's `manual_factor(step)` times the factors of the plateau rule and of a rescue.

    Raises:
        Diverged: a loss or gradient was not finite; nothing that is not finite is ever passed to `save`.
    """
    log = log or MetricLog()
    broadcast_state(state, plan.ranks)
    evaluate_start(state, plan, log, save)
    stream, clock, trains = batches.stream(state.step), Clock(state, plan), has_parameters(state.model)
    state.model.train()
    while trains and (t := plan.t(state)) < 1 and not state.stopped:
        halts, factor = plan.ranks.broadcast_numbers(halt(), manual_factor(state.step))
        if halts:
            break
        if snapshots_due(plan, t) > state.snapshots_taken:  # before the weights move on
            save_checkpoint(state, plan, log, save)
        batch = next(stream)
        clock.begin_step(t)

        # one step: the optimizer calls the objective as often as it needs
        lr_factor = plan.schedule(t) * apply_manual_factor(state, log, factor) * state.reaction_factor
        try:
            objective, readings = train_step(state, batch, plan, t, lr_factor, watch)
        except Diverged as error:
            log.add_events(state.step, go_back(state, plan, error))
            state.step += 1  # its batch is over, though it has moved nothing
            continue
        clock.end_work()
        clock.update_reserve(len(batch))
        if update_average(state, plan, t):
            clock.end_work()

        # what to log
        bad_step = log_step(state, plan, log, objective, {**readings, **clock.timing(len(batch))})
        react_to_loss(state, plan, log, objective, bad_step)

        # once in a while: evaluate, save
        if is_evaluation_due(plan, state):
            refresh_average(state, plan, batches)
            evaluate_and_record(state, plan, log)
            save_checkpoint(state, plan, log, save)
            clock.end_work()
            state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, plan.t(state))  # type: ignore[union-attr]
        elif clock.is_save_due(t):
            save_checkpoint(state, plan, log, save)
    finish_training(state, plan, batches, log)
    save_checkpoint(state, plan, log, save)
    return state


def log_step(state: State, plan: Plan, log: MetricLog, objective: Objective, readings: Mapping[str, Any]) -> int | None:
    """Log a step and what was read of it; returns the first step whose loss or gradient norm is not finite, as far as it is known."""
    log.add_events(state.step, objective.events)
    epoch = objective.batch.chance.epoch if objective.batch.chance else 0
    row = {"kind": "train", "step": state.step, "t": objective.t, "epoch": epoch, "lr": float(state.optimizer.param_groups[0]["lr"])}
    bad_step = log.add({**row, **objective.numbers(), **readings})
    return log.flush() if is_evaluation_due(plan, state) else bad_step


def react_to_loss(state: State, plan: Plan, log: MetricLog, objective: Objective, bad_step: int | None) -> None:
    """Go back to the last good weights if training makes its start worse, or if a number in the log, that of `bad_step`, was not finite.

    Raises:
        Diverged: a number was not finite, and there is nothing to go back to, or training has gone back before.
    """
    if bad_step is not None:  # on a GPU numbers arrive late; the weights show what is left to show
        events = go_back(state, plan, divergence_error(plan.network(state.model), objective.pieces(), plan, bad_step - 1))
    else:
        events = rescue_if_worse(state, plan, objective.numbers()["loss"])
    if events:
        log.add_events(state.step, events)
        log.flush()  # what is not finite in the rows before these says nothing of what comes


def evaluate_start(state: State, plan: Plan, log: MetricLog, save: Callable[[State], None]) -> None:
    """Before the first step, evaluate and save a pretrained start, so that it is known, and kept, what training has to surpass."""
    if plan.start is not None and plan.evaluate and plan.evaluate_every and not state.history and state.step == 0:
        began = time.perf_counter()
        evaluate_and_record(state, plan, log)
        save_checkpoint(state, plan, log, save)
        (seconds,) = plan.ranks.broadcast_numbers(time.perf_counter() - began)
        state.elapsed += seconds
        state.startup += seconds


def apply_manual_factor(state: State, log: MetricLog, factor: float) -> float:
    """Adopt the factor by which a person multiplies the learning rate, logging a change, and return it."""
    if factor != state.manual_factor:
        log.add_events(state.step, [describe_rate_change(factor, state.manual_factor, "by hand")])
        state.manual_factor = factor
    return factor


def describe_rate_change(factor: float, before: float, why: Literal["plateau", "by hand"]) -> str:
    """The sentence that is logged when the learning rate is multiplied."""
    reason = "validation stopped improving" if why == "plateau" else "by hand"
    return f"The learning rate is multiplied by {factor / before:g}: {reason}; by {factor:g} in all."


def finish_training(state: State, plan: Plan, batches: Batches, log: MetricLog) -> None:
    """Recompute batch statistics if nothing was evaluated; score a model without parameters once."""
    if plan.evaluate is None:
        refresh_average(state, plan, batches)
    elif not (has_parameters(state.model) or state.history):
        evaluate_and_record(state, plan, log)


def is_evaluation_due(plan: Plan, state: State) -> bool:
    """Whether to evaluate now: at each multiple of `evaluate_every`, and at the end."""
    if plan.evaluate is None or plan.evaluate_every is None:
        return False
    t = plan.t(state)
    return t >= 1 or (plan.evaluate_every.number(state.step, state.elapsed, t) > state.evaluations and has_time_to_evaluate(plan, state))


def has_time_to_evaluate(plan: Plan, state: State) -> bool:
    """Whether evaluations, with another one and the last, take a small share of the time so far; always, but by a share of minutes."""
    assert plan.evaluate_every is not None
    if not plan.lengths.timed or plan.evaluate_every.length.unit != "share":
        return True
    each = (state.reserve - END_SECONDS) / (1 + plan.final_passes)
    return state.evaluation_seconds + 2 * each <= MAX_EVALUATION_SHARE * state.elapsed


def evaluate_and_record(state: State, plan: Plan, log: MetricLog) -> None:
    """Evaluate the model, log its scores, remember the best, and ask the plateau and stop rules."""
    assert plan.evaluate is not None and plan.evaluate_every is not None
    started = time.perf_counter()
    t = plan.t(state)
    plan.ranks.broadcast_(state.eval_model.state_dict().values())  # whose batch statistics may differ
    scores = plan.evaluate(state.eval_model, t >= 1)
    state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, t)
    state.history.append(scores.pop("score"))
    is_best = state.history[-1] > max(state.history[:-1], default=-math.inf)
    if state.history[-1] >= max(state.history):  # of equals the later one, which was trained for longer
        state.best = {"step": state.step, "score": state.history[-1]}
    plateau, stop = plan.parts.get("plateau"), plan.parts.get("stop")
    if plateau and (factor := plateau(state.history)) != state.plateau_factor:
        log.add_events(state.step, [describe_rate_change(factor, state.plateau_factor, "plateau")])
        state.plateau_factor = factor
    if stop and stop(state.history):
        state.stopped = f"no better score for {len(state.history) - 1 - state.history.index(max(state.history))} evaluations"
    state.model.train()
    (seconds,) = plan.ranks.broadcast_numbers(time.perf_counter() - started)
    state.evaluation_seconds += seconds
    state.reserve = END_SECONDS + (1 + plan.final_passes) * seconds if plan.lengths.timed else 0.0
    row = {"kind": "evaluate", "step": state.step, "t": t, "elapsed": state.elapsed + seconds, "seconds": seconds, "best": is_best}
    log.add({**row, **scores})


def save_checkpoint(state: State, plan: Plan, log: MetricLog, save: Callable[[State], None]) -> None:
    """Flush the log, then save, as a snapshot where one is due; but never anything that is not finite.

    Raises:
        Diverged: a row of the log is not finite, and there is no good start to go back to.
    """
    bad_step = log.flush()
    state.recent_losses = [float(x) for x in state.recent_losses]
    if bad_step is not None:
        text = f"Training diverged at step {bad_step - 1}: its loss or gradient is not finite. What was saved before is kept."
        log.add_events(state.step, go_back(state, plan, Diverged(text)))
    record_snapshot(state, plan)
    save(state)


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

    def end_work(self) -> None:
        """The time since the last call was spent computing."""
        self.work += self._lap()
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
        return {"images_per_s": images / seconds, "data_share": self.wait / seconds, "elapsed": self.state.elapsed}
