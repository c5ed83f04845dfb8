"""All weights as one vector, and how an optimizer that moves them as one begins its step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.core.errors import UsageError


class FlatParameters:
    """Parameters as one vector [N], in the order of their indices whatever their layout in memory; those that are frozen stay put."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.sizes = [p.numel() for p in self.parameters]

    def __len__(self) -> int:
        return sum(self.sizes)

    def read(self) -> Tensor:
        """The values [N], a copy."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def write(self, vector: Tensor) -> None:
        """Take the values of a vector [N]."""
        for p, values in zip(self.parameters, torch.split(vector, self.sizes), strict=True):
            if p.requires_grad:
                p.detach().copy_(values.view(p.shape))

    def gradient(self) -> Tensor:
        """The gradient [N], a copy; zero where there is none."""
        return torch.cat([p.detach().new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in self.parameters])


class FlatOptimizer(torch.optim.Optimizer):
    """An optimizer that moves the weights of its one group as one vector, and may ask for the loss more than once a step.

    What it learns is kept in `state` of the first parameter, so that it is saved and restored with the rest.

    Raises:
        UsageError: there are several groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})
        if (n := len(self.param_groups)) != 1:
            raise UsageError(f"{type(self).__name__} moves all weights as one vector: expected one parameter group, received {n}.")
        self.flat = FlatParameters(self.param_groups[0]["params"])

    @property
    def rate(self) -> float:
        return float(self.param_groups[0]["lr"])

    @abstractmethod
    def move(self, closure: Any, evaluate: Callable[[], Any], loss: float, gradient: Tensor, memory: dict[str, Any]) -> None:
        """Move once from here, where the loss has this gradient [N], not zero; `evaluate` is the closure with gradients on."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move once, unless the rate or the gradient is zero; returns the loss of before.

        Raises:
            UsageError: there is no closure.
        """
        if closure is None:
            raise UsageError(f"{type(self).__name__} asks for the loss more than once a step: call step(closure), received no closure.")
        evaluate = torch.enable_grad()(closure)
        memory, loss = self.state[self.flat.parameters[0]], evaluate()
        gradient = self.flat.gradient()
        if self.rate and float(gradient @ gradient):
            self.move(closure, evaluate, float(loss), gradient, memory)
        return loss
