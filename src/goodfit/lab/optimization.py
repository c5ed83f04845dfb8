"""Descending small functions and fitting small networks with the parts of a training, for lessons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Loss, Optimizer, Penalty
from goodfit.optim.groups import make_optimizer
from goodfit.training.gradient import gradient
from goodfit.training.step import set_rates

Function = Callable[[Tensor], Tensor]  # of a point [N]


class FunctionObjective:
    """What an optimizer calls to evaluate a function [N] -> scalar at a point and to fill the point's gradient."""

    def __init__(self, function: Function, point: nn.Parameter) -> None:
        self.function, self.point = function, point

    def __call__(self) -> Tensor:
        self.point.grad = None
        value = self.function(self.point)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def hessian(self) -> Tensor:
        """The Hessian [N, N] at the point."""
        return hessian_of(self.function, self.point)


def hessian_of(function: Function, point: Tensor) -> Tensor:
    """The Hessian [N, N] of a function [N] -> scalar at a point [N]."""
    with torch.enable_grad():
        hessian: Tensor = torch.autograd.functional.hessian(function, point.detach())  # type: ignore[no-untyped-call]
    return hessian


def descend(part: Optimizer, function: Function, start: Sequence[float], steps: int) -> Tensor:
    """Minimize a function from `start` [N] with an optimizer; returns the points [steps + 1, N] in float64."""
    point = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = part([{"params": [point], "lr": getattr(part, "lr", 1.0)}])
    objective = FunctionObjective(function, point)
    path = [point.detach().clone()]
    for _ in range(steps):
        optimizer.step(objective)  # type: ignore[arg-type]
        path.append(point.detach().clone())
    return torch.stack(path)


def steps_until(values: Sequence[float], tolerance: float) -> float:
    """How many steps it takes until all further values are at most `tolerance`; NaN where they never are."""
    late = [step for step, value in enumerate(values) if not value <= tolerance]
    first = late[-1] + 1 if late else 0
    return float(first) if first < len(values) else float("nan")


def fit_network(
    model: nn.Module,
    batch: Batch,
    loss: Loss,
    optimizer: Optimizer,
    steps: int,
    penalties: tuple[Penalty, ...] = (),
    factor: Callable[[float], float] = lambda t: 1.0,
    after_step: Callable[[], object] = lambda: None,
) -> list[float]:
    """Train a network on one batch; returns the loss before each step.

    `factor`, such as a schedule, gives the factor of the learning rate at progress t; `after_step` is called after each step.
    """
    stepper = make_optimizer(model, optimizer)

    def evaluate() -> Tensor:
        stepper.zero_grad()
        return gradient(model, [batch], len(batch), loss, penalties).loss

    losses = []
    for step in range(steps):
        set_rates(stepper, factor(step / steps))
        losses.append(float(stepper.step(evaluate)))  # type: ignore[arg-type]
        after_step()
    return losses


@torch.no_grad()
def accuracy_of(model: nn.Module, batch: Batch) -> float:
    """The share of a batch whose largest score is that of the largest target."""
    return float((model(batch.images).argmax(1) == batch.targets.argmax(1)).float().mean())
