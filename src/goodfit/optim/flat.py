"""All parameters as one vector, and the base of the optimizers that update them as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError


class FlatParameters:
    """Parameters as one vector [N], in the order of their indices whatever their memory layout; writing leaves frozen ones unchanged."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.sizes = [p.numel() for p in self.parameters]

    def __len__(self) -> int:
        return sum(self.sizes)

    def read(self) -> Tensor:
        """Return a copy of the values [N]."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def write(self, vector: Tensor) -> None:
        """Set the values from a vector [N]."""
        for p, values in zip(self.parameters, torch.split(vector, self.sizes), strict=True):
            if p.requires_grad:
                p.detach().copy_(values.view(p.shape))

    def gradient(self) -> Tensor:
        """Return a copy of the gradient [N]; zero where there is none."""
        return torch.cat([p.detach().new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in self.parameters])


class FlatOptimizer(torch.optim.Optimizer):
    """An optimizer that updates the parameters of its single group as one vector, and may evaluate the loss more than once a step.

    What it remembers between steps is in the `state` of the first parameter, so that it is saved and restored with the rest.

    Raises:
        UsageError: there are several groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})
        if (n := len(self.param_groups)) != 1:
            raise UsageError(f"{type(self).__name__} updates all weights as one vector: expected one parameter group, received {n}.")
        self.flat = FlatParameters(self.param_groups[0]["params"])

    @property
    def lr(self) -> float:
        return float(self.param_groups[0]["lr"])

    @abstractmethod
    def update(self, closure: Any, evaluate: Callable[[], Any], loss: float, gradient: Tensor, memory: dict[str, Any]) -> None:
        """Update the parameters once; `loss` and `gradient` [N], which is not zero, are those at the current ones.

        `evaluate` is the closure with gradients enabled; `memory` lasts from step to step.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update once, unless the learning rate or the gradient is zero; returns the loss before the update.

        Raises:
            UsageError: there is no closure.
        """
        if closure is None:
            raise UsageError(
                f"{type(self).__name__} evaluates the loss more than once a step: expected step(closure), received no closure."
            )
        evaluate = torch.enable_grad()(closure)
        memory, loss = self.state[self.flat.parameters[0]], evaluate()
        gradient = self.flat.gradient()
        if self.lr and float(gradient @ gradient):
            self.update(closure, evaluate, float(loss), gradient, memory)
        return loss
