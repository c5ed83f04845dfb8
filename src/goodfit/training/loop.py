"""The training loop: one page of plain code; what varies is passed in as values, what watches cannot touch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from goodfit.core.batch import Batch
from goodfit.core.errors import Diverged
from goodfit.core.parameters import has_parameters
from goodfit.training.averaging import update_average
from goodfit.training.batch_statistics import refresh_average
from goodfit.training.checkpoint import broadcast_state
from goodfit.training.clock import END_SECONDS, Clock
from goodfit.training.merge import Merger
from goodfit.training.metric_log import MetricLog
from goodfit.training.rescue import go_back, rescue_if_worse
from goodfit.training.snapshots import record_snapshot, snapshots_due
from goodfit.training.state import Batches, Plan, State
from goodfit.training.steering import Orders, agreed_orders, no_orders
from goodfit.training.step import NO_WATCH, Objective, Watch, train_step

MAX_EVALUATION_SHARE = 0.1  # of the time so far under a budget in minutes, that evaluations by a share of it take


def fit(
    state: State,
    batches: Batches,
    plan: Plan,
    watch: Watch = NO_WATCH,
    log: MetricLog | None = None,
    save: Callable[[State], None] = lambda state: None,
    halt: Callable[[], bool] = lambda: False,
    steering: Callable[[int], Orders] = no_orders,
) -> State:
    """Train until the budget ends, the plan's stop rule says so, or `halt()` of rank 0 is true; returns the state.

    The learning rate is the schedule's times that of rank 0's `steering(step)` times the factors of the plateau rule and of a rescue.

    Raises:
        Diverged: a loss or gradient was not finite; nothing that is not finite is ever passed to `save`.
    """
    log = log or MetricLog()
    broadcast_state(state, plan.ranks)
    merger = Merger(state, plan)
    evaluate_start(state, plan, log, save)
    stream, clock, trains = batches.stream(state.step), Clock(state, plan), has_parameters(state.model)
    state.model.train()
    while trains and (t := plan.t(state)) < 1 and not state.stopped:
        orders = next_orders(merger, t, steering, halt, log, save, clock)
        if orders.finish:
            finish_early(merger, batches, log)
        if orders.stop or state.stopped:
            break
        if snapshots_due(plan, t) > state.snapshots_taken or orders.snapshot:  # before the weights move on
            save_merged(merger, log, save, orders.snapshot)
        batch = next(stream)
        clock.begin_step(t)
        # one step: the optimizer calls the objective as often as it needs
        lr_factor = plan.schedule(t) * apply_manual_factor(state, log, orders.lr_factor) * state.reaction_factor
        objective, readings = try_step(merger, batch, t, lr_factor, watch, log)
        if objective is None and not plan.is_apart(t):
            continue
        merger.merge_if_due(t, log)
        clock.end_work(plan.ranks_meet(state.step, t))
        clock.update_reserve(len(batch))
        if update_average(state, plan, t):
            clock.end_work(plan.ranks_meet(state.step, t))

        # what to log
        if objective is not None:
            bad_step = log_step(state, plan, log, objective, {**readings, **clock.timing(len(batch))})
            react_to_loss(state, plan, log, objective, bad_step, merger)

        # once in a while: evaluate, save
        if is_evaluation_due(plan, state):
            evaluate_and_save(merger, batches, log, save)
            clock.end_work()
            state.evaluations = plan.evaluate_every.number(state.step, state.elapsed, plan.t(state))  # type: ignore[union-attr]
        elif clock.is_save_due(t):
            save_merged(merger, log, save)
    with merger.merged(log):
        finish_training(state, plan, batches, log)
        save_checkpoint(state, plan, log, save)
    return state


def try_step(
    merger: Merger, batch: Batch, t: float, lr_factor: float, watch: Watch, log: MetricLog
) -> tuple[Objective | None, dict[str, Any]]:
    """Take one step and count what it sends; its objective is None where its loss or gradient was not finite, and it has moved nothing.

    Raises:
        Diverged: it was not, and there is nothing to go back to.
    """
    state = merger.state
    try:
        with merger.counted():
            return train_step(state, batch, merger.plan, t, lr_factor, watch)
    except Diverged as error:
        log.add_events(state.step, merger.react(error, t))
        state.step += 1  # its batch is over
        return None, {}


def evaluate_and_save(merger: Merger, batches: Batches, log: MetricLog, save: Callable[[State], None]) -> None:
    """Evaluate and save the merged weights of the ranks."""
    state, plan = merger.state, merger.plan
    with merger.merged(log):
        refresh_average(state, plan, batches)
        evaluate_and_record(state, plan, log)
        save_checkpoint(state, plan, log, save)


def save_merged(merger: Merger, log: MetricLog, save: Callable[[State], None], keep: bool = False) -> None:
    """Save a checkpoint of the merged weights of the ranks, as a snapshot where one is due or `keep` is true."""
    with merger.merged(log):
        save_checkpoint(merger.state, merger.plan, log, save, keep)


def log_step(state: State, plan: Plan, log: MetricLog, objective: Objective, readings: Mapping[str, Any]) -> int | None:
    """Log a step and what was read of it; returns the first step whose loss or gradient norm is not finite, as far as it is known."""
    log.add_events(state.step, objective.events)
    epoch = objective.batch.chance.epoch if objective.batch.chance else 0
    row = {"kind": "train", "step": state.step, "t": objective.t, "epoch": epoch, "lr": float(state.optimizer.param_groups[0]["lr"])}
    bad_step = log.add({**row, **objective.numbers(), **readings})
    return log.flush() if is_evaluation_due(plan, state) else bad_step


def react_to_loss(state: State, plan: Plan, log: MetricLog, objective: Objective, bad_step: int | None, merger: Merger) -> None:
    """Go back to the last good weights if training makes its start worse, or if a number in the log, that of `bad_step`, was not finite.

    Raises:
        Diverged: a number was not finite, and there is nothing to go back to, or training has gone back before.
    """
    if bad_step is not None:  # on a GPU numbers arrive late; the weights show what is left to show
        events = merger.react(objective.divergence_error(bad_step - 1), objective.t)
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


def next_orders(
    merger: Merger,
    t: float,
    steering: Callable[[int], Orders],
    halt: Callable[[], bool],
    log: MetricLog,
    save: Callable[[State], None],
    clock: Clock,
) -> Orders:
    """What rank 0 wants before the step at progress t, after a pause, whose time does not count; where ranks do not meet, nothing new."""
    state, plan = merger.state, merger.plan
    if not plan.ranks_meet(state.step, t):
        return Orders(state.manual_factor)

    def wait(is_first_time: bool) -> None:
        if is_first_time:
            log.add_events(state.step, ["Paused by hand."])
            save_merged(merger, log, save)
        clock.skip()

    orders = agreed_orders(plan.ranks, state.step, steering, halt, wait)
    return dataclasses.replace(orders, snapshot=orders.snapshot and state.step not in state.snapshots)


def finish_early(merger: Merger, batches: Batches, log: MetricLog) -> None:
    """End a training by hand, as a stop rule would: after an evaluation of its weights."""
    state, plan = merger.state, merger.plan
    log.add_events(state.step, ["Ended by hand."])
    if plan.evaluate is not None and plan.evaluate_every is not None and state.evaluated_at != state.step:
        with merger.merged(log):
            refresh_average(state, plan, batches)
            evaluate_and_record(state, plan, log)
    state.stopped = "ended by hand"


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
    state.evaluated_at = state.step
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


def save_checkpoint(state: State, plan: Plan, log: MetricLog, save: Callable[[State], None], keep: bool = False) -> None:
    """Flush the log, then save, as a snapshot where one is due or `keep` is true; but never anything that is not finite.

    Raises:
        Diverged: a row of the log is not finite, and there is no good start to go back to.
    """
    bad_step = log.flush()
    state.recent_losses = [float(x) for x in state.recent_losses]
    if bad_step is not None:
        text = f"Training diverged at step {bad_step - 1}: its loss or gradient is not finite. What was saved before is kept."
        log.add_events(state.step, go_back(state, plan, Diverged(text)))
    record_snapshot(state, plan, keep)
    save(state)
