"""A line search for the strong Wolfe conditions, and the base of the optimizers that use it."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from goodfit.optim.flat import FlatOptimizer

SUFFICIENT_DECREASE, CURVATURE_CONDITION = 1e-4, 0.9  # c1 and c2 of the strong Wolfe conditions, as usual for quasi-Newton directions
MAX_LINE_SEARCH_CALLS = 25  # of the loss
LOSS_ROUNDING = 1e-6  # a smaller relative change of the loss may be rounding, so the slopes decide
MIN_BRACKET_SHRINK = 0.1  # as a share of the bracket's width
MIN_EXPANSION, MAX_EXPANSION = 2.0, 10.0  # the next step over the last one, while the loss still falls


@dataclasses.dataclass(frozen=True)
class LinePoint:
    """A point on the line: its `step` along the direction, the loss, the slope along the line, and the full gradient [N]."""

    step: float
    loss: float
    slope: float
    gradient: Tensor


def search_strong_wolfe(at: Callable[[float], LinePoint], start: LinePoint, first: float) -> LinePoint:
    """Search for a point that satisfies the strong Wolfe conditions, trying the step `first` first.

    If there is none within the allowed calls, it returns the lowest point found, which is `start` when none is lower. A loss that is not
    finite counts as too high. (Nocedal & Wright 2006, algorithms 3.5 and 3.6; where rounding hides the decrease of the loss, the slopes
    decide, as in Hager & Zhang 2005.)
    """

    def is_low(p: LinePoint) -> bool:
        hidden = 0 <= start.loss - p.loss <= LOSS_ROUNDING * abs(start.loss) and p.slope <= (2 * SUFFICIENT_DECREASE - 1) * start.slope
        return hidden or p.loss <= start.loss + SUFFICIENT_DECREASE * p.step * start.slope

    def is_good(p: LinePoint) -> bool:
        return is_low(p) and abs(p.slope) <= CURVATURE_CONDITION * abs(start.slope)

    before, step = start, first
    for calls in range(1, MAX_LINE_SEARCH_CALLS + 1):
        point = at(step)
        if is_good(point):
            return point
        if not is_low(point) or (calls > 1 and point.loss >= before.loss):
            return _zoom(at, (before, point), (is_low, is_good), MAX_LINE_SEARCH_CALLS - calls)
        if point.slope >= 0:
            return _zoom(at, (point, before), (is_low, is_good), MAX_LINE_SEARCH_CALLS - calls)
        before, step = point, min(max(_cubic_minimum(before, point), MIN_EXPANSION * step), MAX_EXPANSION * step)
    return before


def _zoom(
    at: Callable[[float], LinePoint], bracket: tuple[LinePoint, LinePoint], tests: tuple[Callable[[LinePoint], bool], ...], calls: int
) -> LinePoint:
    """Narrow a bracket, whose first point is the lowest so far, to a good point; `tests` are is_low and is_good."""
    (best, other), (is_low, is_good) = bracket, tests
    for _ in range(calls):
        near, far = sorted((best.step, other.step))
        margin = MIN_BRACKET_SHRINK * (far - near)
        step = min(max(_cubic_minimum(best, other), near + margin), far - margin)
        if not near < step < far:
            break
        point = at(step)
        if is_good(point):
            return point
        if not is_low(point) or point.loss >= best.loss:
            other = point
        else:
            other = best if point.slope * (other.step - best.step) >= 0 else other
            best = point
    return best


def _cubic_minimum(a: LinePoint, b: LinePoint) -> float:
    """The minimum of the cubic through two points and their slopes; their middle where it has none."""
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
    """One iteration per step: a direction from the memory of earlier steps, a line search along it, and an update of the memory."""

    @abstractmethod
    def direction(self, memory: dict[str, Any], gradient: Tensor) -> Tensor:
        """The search direction [N] for the gradient [N]; with an empty memory, that of steepest descent."""

    @abstractmethod
    def update_memory(self, memory: dict[str, Any], step: Tensor, change: Tensor) -> None:
        """Add a step [N] and the change [N] of the gradient along it to the memory; their dot product is positive."""

    def update(self, closure: Any, evaluate: Callable[[], Any], loss: float, gradient: Tensor, memory: dict[str, Any]) -> None:
        """Search along the direction; the learning rate is the first step tried, and 1 leads to the minimum of the quadratic model."""
        flat, origin = self.flat, self.flat.read()
        direction = self.direction(memory, gradient)
        if not float(direction @ gradient) < 0:  # rounding, or a loss that changed under --noise allow: start over
            memory.clear()
            direction = -gradient
        first = self.lr if memory else self.lr * min(1.0, 1.0 / float(gradient.norm()))

        def at(step: float) -> LinePoint:
            flat.write(origin + step * direction)
            loss_there = float(evaluate())
            gradient_there = flat.gradient()
            return LinePoint(step, loss_there, float(gradient_there @ direction), gradient_there)

        best = search_strong_wolfe(at, LinePoint(0.0, loss, float(gradient @ direction), gradient), first)
        flat.write(origin + best.step * direction if best.step else origin)
        if not best.step:
            memory.clear()
            return
        step, change = flat.read() - origin, best.gradient - gradient
        if float(step @ change) > torch.finfo(step.dtype).eps * float(step.norm() * change.norm()):
            self.update_memory(memory, step, change)
