"""The learning-rate range test: some steps at an ever larger rate, then undone, and which rates their losses show to be good."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from goodfit.core.errors import Diverged
from goodfit.training.restored import restored_state
from goodfit.training.state import Batches, Plan, State
from goodfit.training.step import train_step

EXPLOSION_FACTOR = 4.0  # times the lowest smoothed loss (or one more than it): further steps teach nothing
MAX_NONFINITE_LOSSES = 3  # in a row
MIN_FINITE_LOSSES = 10  # that a range needs
MEDIAN_WIDTH = 5  # losses whose median stands for the one in the middle: a spike shorter than half of it leaves no trace
SLOPE_DECADES = 0.6  # of the rate, that a slope is fitted over
MIN_DEPTH_IN_NOISE = 3.0  # times the noise of the losses that a valley must be deep
MIN_DEPTH = 0.02  # share of the first loss that it must be deep as well


@dataclasses.dataclass(frozen=True)
class LrTrace:
    """The learning rate of each step and its loss; NaN where that was not finite."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LrRange:
    """What a trace shows: the range `low` to `high` of good peak rates and the reasons, or why there is none (then both are None).

    `steepest` is the rate at which the loss falls fastest, `bottom` that of the lowest loss, `blowup` that at which half of the fall is
    lost again. `smoothed` holds the smoothed losses at `rates`, those of the steps with a finite loss; `tested` is the trace itself.
    """

    low: float | None
    high: float | None
    reasons: tuple[str, ...]
    steepest: float | None
    bottom: float | None
    blowup: float | None
    rates: tuple[float, ...]
    smoothed: tuple[float, ...]
    tested: LrTrace

    def plain(self) -> dict[str, Any]:
        """For JSON: losses that are not finite become None."""
        losses = [None if math.isnan(loss) else loss for loss in self.tested.losses]
        return {**dataclasses.asdict(self), "tested": {"rates": self.tested.rates, "losses": losses}}


def sweep_lr(state: State, batches: Batches, plan: Plan, low: float, high: float, steps: int) -> LrTrace:
    """Train for `steps` steps at rates that grow from `low` to `high` by a constant factor, then restore everything.

    The rate is that of the first parameter group; the others keep their proportion to it. The test ends early once the loss has exploded.
    """
    trial = dataclasses.replace(state, average=None, history=[], best={})
    stream = batches.stream(0)
    rates: list[float] = []
    losses: list[float] = []
    group = state.optimizer.param_groups[0]
    peak = float(group.setdefault("peak", group["lr"]))
    with restored_state(state), torch.random.fork_rng(devices=[plan.device] if plan.device.type == "cuda" else []):
        state.model.train()
        for step in range(steps):
            trial.step = step
            rates.append(low * (high / low) ** (step / max(1, steps - 1)))
            try:
                objective, _ = train_step(trial, next(stream), plan, 0.0, rates[-1] / peak)
                losses.append(_finite_or_nan(float(objective.numbers()["loss"])))
            except Diverged:  # on a CPU the weights then stay where they were
                losses.append(math.nan)
            if has_exploded(losses):
                break
    return LrTrace(tuple(rates), tuple(losses))


def _finite_or_nan(loss: float) -> float:
    return loss if math.isfinite(loss) else math.nan


def has_exploded(losses: list[float]) -> bool:
    """Whether the loss will not recover: not finite several times in a row, or far above the lowest."""
    if len(losses) >= MAX_NONFINITE_LOSSES and all(map(math.isnan, losses[-MAX_NONFINITE_LOSSES:])):
        return True
    finite = [x for x in losses if not math.isnan(x)]
    if len(finite) < 2 * MEDIAN_WIDTH:
        return False
    medians = running_median(np.array(finite))
    lowest = float(medians.min())
    return float(np.median(finite[-MEDIAN_WIDTH:])) > max(EXPLOSION_FACTOR * lowest, lowest + 1) and float(medians[-1]) > float(medians[0])


def running_median(values: np.ndarray) -> np.ndarray:
    """The running median over MEDIAN_WIDTH values, fewer at the ends."""
    half = MEDIAN_WIDTH // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def smooth_losses(values: np.ndarray, width: int) -> np.ndarray:
    """Take running medians, then a running mean over `width` values: spikes vanish, a valley stays where it is."""
    despiked, half = running_median(values), width // 2
    return np.array([despiked[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def find_lr_range(trace: LrTrace) -> LrRange:
    """Find the range of good peak rates in a trace, with reasons."""
    rates, losses = np.array(trace.rates), np.array(trace.losses)
    finite = np.isfinite(losses)
    blown = bool(len(losses)) and not finite[-1]
    x, y = np.log10(rates[finite]), losses[finite]
    if len(y) < MIN_FINITE_LOSSES:
        return _no_range(trace, f"only {len(y)} of {len(losses)} losses are finite", rates[finite], y)
    curve = smooth_losses(y, max(3, len(y) // 20))
    head = max(3, len(y) // 10)
    start = float(np.median(curve[:head]))
    noise = 1.4826 * float(np.median(np.abs(y - curve))) / math.sqrt(MEDIAN_WIDTH)
    bottom = int(curve.argmin())
    depth = start - float(curve[bottom])
    if depth < max(MIN_DEPTH_IN_NOISE * noise, MIN_DEPTH * abs(start)):
        reason = f"the loss falls by {max(depth, 0):.2g} from {start:.3g}, which is within its noise"
        return _no_range(trace, reason, rates[finite], curve)
    slopes = [_slope(x, curve, i) if i <= bottom else 0.0 for i in range(len(x))]
    steepest = int(np.argmin(slopes))
    lost = next((i for i in range(bottom, len(x)) if curve[i] > curve[bottom] + depth / 2), None)
    reasons = [f"the loss falls fastest at {10 ** x[steepest]:.2g}"]
    blowup = None
    if lost is not None:
        blowup = float(10 ** x[lost])
        reasons.append(f"half of the fall is lost again at {blowup:.2g}, a tenth of which is {blowup / 10:.2g}")
    elif blown:
        blowup = float(rates[int(np.flatnonzero(finite)[-1]) + 1])
        reasons.append(f"it is no longer finite at {blowup:.2g}, a tenth of which is {blowup / 10:.2g}")
    else:
        reasons.append(
            f"it never rises again up to {rates[-1]:.2g}, so its lowest point, {10 ** x[bottom]:.2g}, is the upper end: try larger ones"
        )
    ends = sorted((float(10 ** x[steepest]), blowup / 10 if blowup else float(10 ** x[bottom])))
    landmarks = (float(10 ** x[steepest]), float(10 ** x[bottom]), blowup)
    return LrRange(ends[0], ends[1], tuple(reasons), *landmarks, *_as_floats(rates[finite], curve), trace)


def _slope(x: np.ndarray, y: np.ndarray, i: int) -> float:
    """The slope of the line through the points within half of SLOPE_DECADES of x[i], by least squares."""
    near = np.abs(x - x[i]) <= SLOPE_DECADES / 2
    a = x[near] - x[near].mean()
    return float((a * y[near]).sum() / (a * a).sum()) if near.sum() > 2 else 0.0


def _no_range(trace: LrTrace, reason: str, rates: np.ndarray, smoothed: np.ndarray) -> LrRange:
    """The result where there is no range, and why."""
    return LrRange(None, None, (f"no clear valley: {reason}",), None, None, None, *_as_floats(rates, smoothed), trace)


def _as_floats(rates: np.ndarray, values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Convert both to plain numbers."""
    return tuple(map(float, rates)), tuple(map(float, values))
