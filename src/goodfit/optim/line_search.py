"""Line search: a step along a direction that lowers the loss enough and flattens its slope, and the optimizers that move by it."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from goodfit.optim.flat import FlatOptimizer

SUFFICIENT_DECREASE, CURVATURE_CONDITION = 1e-4, 0.9  # the two constants of the strong Wolfe conditions, as for quasi-Newton directions
MAX_LINE_SEARCH_CALLS = 25  # calls of the loss in one search
LOSS_ROUNDING = 1e-6  # a change of the loss by a smaller share of it may be rounding, so the slopes decide
MIN_BRACKET_SHRINK = 0.1  # a bracket shrinks by this share of its width at least
MIN_EXPANSION, MAX_EXPANSION = 2.0, 10.0  # times as far to look next while the loss still falls


@dataclasses.dataclass(frozen=True)
class LinePoint:
    """A place on the line: its `step` along the direction, the loss there, its slope along the line, and the whole gradient [N]."""

    step: float
    loss: float
    slope: float
    gradient: Tensor


def search_strong_wolfe(at: Callable[[float], LinePoint], start: LinePoint, first: float) -> LinePoint:
    """A point that lowers the loss in proportion to the slope at `start` and has at most 0.9 of its slope, trying the step `first` first.

    Where no such point is found within its calls it is the lowest one found: `start` itself when none is lower. A loss that is not
    finite counts as too high. (Nocedal & Wright 2006, algorithms 3.5 and 3.6; where rounding hides the fall of the loss the slopes
    decide, as in Hager & Zhang 2005.)
    """

    def low(p: LinePoint) -> bool:
        hidden = 0 <= start.loss - p.loss <= LOSS_ROUNDING * abs(start.loss) and p.slope <= (2 * SUFFICIENT_DECREASE - 1) * start.slope
        return hidden or p.loss <= start.loss + SUFFICIENT_DECREASE * p.step * start.slope

    def good(p: LinePoint) -> bool:
        return low(p) and abs(p.slope) <= CURVATURE_CONDITION * abs(start.slope)

    before, step = start, first
    for calls in range(1, MAX_LINE_SEARCH_CALLS + 1):
        point = at(step)
        if good(point):
            return point
        if not low(point) or (calls > 1 and point.loss >= before.loss):
            return _zoom(at, (before, point), (low, good), MAX_LINE_SEARCH_CALLS - calls)
        if point.slope >= 0:
            return _zoom(at, (point, before), (low, good), MAX_LINE_SEARCH_CALLS - calls)
        before, step = point, min(max(_cubic_minimum(before, point), MIN_EXPANSION * step), MAX_EXPANSION * step)
    return before


def _zoom(at: Callable[[float], LinePoint], bracket: tuple[LinePoint, LinePoint], tests: tuple[Callable[[LinePoint], bool], ...], calls: int) -> LinePoint:
    """Narrow a bracket, whose first point is the lowest so far, down to a good point."""
    (best, other), (low, good) = bracket, tests
    for _ in range(calls):
        near, far = sorted((best.step, other.step))
        inner = MIN_BRACKET_SHRINK * (far - near)
        step = min(max(_cubic_minimum(best, other), near + inner), far - inner)
        if not near < step < far:
            break
        point = at(step)
        if good(point):
            return point
        if not low(point) or point.loss >= best.loss:
            other = point
        else:
            other = best if point.slope * (other.step - best.step) >= 0 else other
            best = point
    return best


def _cubic_minimum(a: LinePoint, b: LinePoint) -> float:
    """Where the cubic through two points and their slopes is lowest; their middle where it is nowhere."""
    middle = (a.step + b.step) / 2
    if not all(map(math.isfinite, (a.loss, b.loss, a.slope, b.slope))):
        return middle
    first = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    square = first * first - a.slope * b.slope
    if square < 0:
        return middle
    second = math.copysign(math.sqrt(square), b.step - a.step)
    bottom = b.slope - a.slope + 2 * second
    return b.step - (b.step - a.step) * (b.slope + second - first) / bottom if bottom else middle


class QuasiNewton(FlatOptimizer):
    """One iteration a step: a direction from what earlier steps taught, a line search along it, and what this step teaches."""

    @abstractmethod
    def direction(self, memory: dict[str, Any], gradient: Tensor) -> Tensor:
        """The direction [N] to move along, from the gradient [N]; with an empty memory the way down."""

    @abstractmethod
    def learn(self, memory: dict[str, Any], step: Tensor, change: Tensor) -> None:
        """Take in a step [N] and the change [N] of the gradient that it made; their product is positive."""

    def move(self, closure: Any, evaluate: Callable[[], Any], loss: float, gradient: Tensor, memory: dict[str, Any]) -> None:
        """The rate is the first step that the line search tries, 1 being that of the model it has of the loss."""
        flat, origin = self.flat, self.flat.read()
        direction = self.direction(memory, gradient)
        if not float(direction @ gradient) < 0:  # rounding, or a loss that changed under --noise allow: begin anew
            memory.clear()
            direction = -gradient
        first = self.rate if memory else self.rate * min(1.0, 1.0 / float(gradient.norm()))

        def at(step: float) -> LinePoint:
            flat.write(origin + step * direction)
            there = float(evaluate())
            slope = flat.gradient()
            return LinePoint(step, there, float(slope @ direction), slope)

        found = search_strong_wolfe(at, LinePoint(0.0, loss, float(gradient @ direction), gradient), first)
        flat.write(origin + found.step * direction if found.step else origin)
        if not found.step:
            memory.clear()
            return
        step, change = flat.read() - origin, found.gradient - gradient
        if float(step @ change) > torch.finfo(step.dtype).eps * float(step.norm() * change.norm()):
            self.learn(memory, step, change)
