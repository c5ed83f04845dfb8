"""The learning-rate range test: some steps at an ever larger rate, taken back, and what their losses say of the rate to choose."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch

from goodfit.core.chance import of_epoch
from goodfit.core.errors import Diverged
from goodfit.training.gradient import Objective
from goodfit.training.loop import Batches, set_rates
from goodfit.training.noise import set_progress
from goodfit.training.state import Plan, State
from goodfit.training.trainable import set_trainable

EXPLODED = 4.0  # times the lowest smoothed loss (or one more than it): nothing is to be learned from further steps
GIVE_UP = 3  # losses in a row that are no number
FEWEST = 10  # finite losses that a verdict needs
SPIKE = 5  # losses whose median stands for the one in the middle: a spike shorter than half of it leaves no trace
SLOPE = 0.6  # decades of the rate that a slope is fitted over
CLEAR = 3.0  # times the noise of the losses that a valley must be deep


@dataclasses.dataclass(frozen=True)
class Trace:
    """The rate of each step and the loss it met; NaN where that was no number."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a trace says: the range `low` to `high` of good peak rates and the reasons, or why there is none (then both are None).

    `steepest` is the rate at which the loss falls fastest, `bottom` that of the lowest loss, `blowup` that at which it is lost again;
    `smoothed` goes with the rates whose loss is a number, `rates`.
    """

    low: float | None
    high: float | None
    reasons: tuple[str, ...]
    steepest: float | None
    bottom: float | None
    blowup: float | None
    rates: tuple[float, ...]
    smoothed: tuple[float, ...]


def sweep(state: State, batches: Batches, plan: Plan, low: float, high: float, steps: int) -> Trace:
    """Train for `steps` steps at rates that grow from `low` to `high` by the same factor each, then put everything back as it was.

    The rate is that of the first parameter group; the others keep their proportion to it. It ends early once the loss has exploded.
    """
    trial = dataclasses.replace(state, average=None, history=[], best={})
    source = batches.stream(0)
    rates: list[float] = []
    losses: list[float] = []
    group = state.optimizer.param_groups[0]
    peak = float(group.setdefault("peak", group["lr"]))
    with put_back(state), torch.random.fork_rng(devices=[plan.device] if plan.device.type == "cuda" else []):
        state.model.train()
        for step in range(steps):
            rates.append(low * (high / low) ** (step / max(1, steps - 1)))
            epoch, places = batches.places(step)
            set_rates(state.optimizer, rates[-1] / peak)
            set_trainable(state.model, plan.trainable, 0.0)
            set_progress(state.model, 0.0)
            trial.step = step
            batch = next(source)
            chance = of_epoch(plan.seed, "augment", epoch, places, batch.ids)
            losses.append(step_loss(trial, Objective(trial, batch, plan, chance, 0.0)))
            if exploded(losses):
                break
    return Trace(tuple(rates), tuple(losses))


@contextlib.contextmanager
def put_back(state: State) -> Iterator[None]:
    """Give the model and the optimizer back what they had before the block, whatever it did. (Not every optimizer can be copied.)"""
    model, optimizer = state.model, state.optimizer
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    learning, training = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    try:
        yield
    finally:
        model.load_state_dict(kept[0])
        optimizer.load_state_dict(kept[1])
        optimizer.zero_grad(set_to_none=True)
        for p, learns in zip(model.parameters(), learning, strict=True):
            p.requires_grad_(learns)
        for module, mode in zip(model.modules(), training, strict=True):
            module.training = mode


def step_loss(state: State, objective: Objective) -> float:
    """Make a step; the loss it met, NaN where a number of it was not finite (the weights then stay where they were, on a CPU)."""
    try:
        state.optimizer.step(objective)  # type: ignore[arg-type]
    except Diverged:
        return math.nan
    assert objective.outcome is not None
    loss = float(objective.outcome.loss)
    return loss if math.isfinite(loss) else math.nan


def exploded(losses: list[float]) -> bool:
    """Whether the loss is beyond coming back: no number several times in a row, or far above the lowest."""
    if len(losses) >= GIVE_UP and all(map(math.isnan, losses[-GIVE_UP:])):
        return True
    known = [x for x in losses if not math.isnan(x)]
    if len(known) < 2 * SPIKE:
        return False
    smooth = medians(np.array(known))
    lowest = float(smooth.min())
    return float(np.median(known[-SPIKE:])) > max(EXPLODED * lowest, lowest + 1) and float(smooth[-1]) > float(smooth[0])


def medians(values: np.ndarray) -> np.ndarray:
    """The running median over SPIKE values, fewer at the ends."""
    half = SPIKE // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Running medians, then a running mean over `width` values: spikes vanish, a valley stays where it is."""
    steady, half = medians(values), width // 2
    return np.array([steady[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def judge(trace: Trace) -> Verdict:
    """The range of good peak rates that a trace shows, with reasons."""
    rates, losses = np.array(trace.rates), np.array(trace.losses)
    known = np.isfinite(losses)
    blown = bool(len(losses)) and not known[-1]
    x, y = np.log10(rates[known]), losses[known]
    if len(y) < FEWEST:
        return none(f"only {len(y)} of {len(losses)} losses are numbers", rates[known], y)
    curve = smooth(y, max(3, len(y) // 20))
    head = max(3, len(y) // 10)
    start = float(np.median(curve[:head]))
    noise = 1.4826 * float(np.median(np.abs(y - curve))) / math.sqrt(SPIKE)
    bottom = int(curve.argmin())
    depth = start - float(curve[bottom])
    if depth < max(CLEAR * noise, 0.02 * abs(start)):
        return none(f"the loss falls by {max(depth, 0):.2g} from {start:.3g}, which is within its noise", rates[known], curve)
    slopes = [slope(x, curve, i) if i <= bottom else 0.0 for i in range(len(x))]
    steepest = int(np.argmin(slopes))
    lost = next((i for i in range(bottom, len(x)) if curve[i] > curve[bottom] + depth / 2), None)
    tenth = [f"the loss falls fastest at {10 ** x[steepest]:.2g}"]
    blowup = None
    if lost is not None:
        blowup = float(10 ** x[lost])
        tenth.append(f"it has lost half of its fall again at {blowup:.2g}, a tenth of which is {blowup / 10:.2g}")
    elif blown:
        blowup = float(rates[int(np.flatnonzero(known)[-1]) + 1])
        tenth.append(f"it is no number any more at {blowup:.2g}, a tenth of which is {blowup / 10:.2g}")
    else:
        tenth.append(
            f"it never rises again up to {rates[-1]:.2g}, so its lowest point, {10 ** x[bottom]:.2g}, is the upper end: try larger ones"
        )
    ends = sorted((float(10 ** x[steepest]), blowup / 10 if blowup else float(10 ** x[bottom])))
    return Verdict(ends[0], ends[1], tuple(tenth), float(10 ** x[steepest]), float(10 ** x[bottom]), blowup, *kept(rates[known], curve))


def slope(x: np.ndarray, y: np.ndarray, i: int) -> float:
    """The slope of the line through the points within half of SLOPE of x[i], by least squares."""
    near = np.abs(x - x[i]) <= SLOPE / 2
    a = x[near] - x[near].mean()
    return float((a * y[near]).sum() / (a * a).sum()) if near.sum() > 2 else 0.0


def none(reason: str, rates: np.ndarray, smoothed: np.ndarray) -> Verdict:
    """No range, and why."""
    return Verdict(None, None, (f"no clear valley: {reason}",), None, None, None, *kept(rates, smoothed))


def kept(rates: np.ndarray, values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both as plain numbers."""
    return tuple(map(float, rates)), tuple(map(float, values))
