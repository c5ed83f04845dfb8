"""L-BFGS: the curvature of the loss from the last few steps, without a matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from goodfit.core.contracts import Optimizer
from goodfit.core.settings import Count, Positive
from goodfit.optim.line_search import QuasiNewton


@dataclasses.dataclass(frozen=True)
class Lbfgs(Optimizer):
    """Newton's direction with an inverse Hessian implied by the last `history` steps and changes of the gradient, and a line search.

    The line search looks for the strong Wolfe conditions and tries lr first. Each step is one iteration, on all training images. It has
    no weight decay, which is not part of the loss: use the penalty l2(...) instead.

    Helps: full batches without noise: linear models and small nets to many digits, with no learning rate to choose.
    Hurts: mini-batches, dropout and augmentation, whose changing loss it mistakes for curvature; large data: each step is a full pass.
    Cost: 2 history numbers per weight; two to three passes over the training images a step.
    Source: Nocedal 1980; Liu & Nocedal 1989; CS231n, second-order optimization ("disable all sources of noise").
    """

    full_batch: ClassVar[bool] = True
    lr: Positive = 1.0
    history: Count = 10

    def __call__(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return LbfgsOptimizer(groups, self.lr, self.history)


class LbfgsOptimizer(QuasiNewton):
    """L-BFGS over one parameter group, as a torch optimizer."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float = 1.0, history: int = 10) -> None:
        super().__init__(groups, lr)
        self.history = history

    def direction(self, memory: dict[str, Any], gradient: Tensor) -> Tensor:
        """The two-loop recursion of Nocedal & Wright 2006, algorithm 7.4."""
        pairs = list(zip(memory.get("steps", ()), memory.get("changes", ()), strict=True))
        q, shares = -gradient, []
        for step, change in reversed(pairs):
            shares.append((step @ q) / (step @ change))
            q = q - shares[-1] * change
        if pairs:
            step, change = pairs[-1]
            q = q * ((step @ change) / (change @ change))
        for (step, change), share in zip(pairs, reversed(shares), strict=True):
            q = q + (share - (change @ q) / (step @ change)) * step
        return q

    def update_memory(self, memory: dict[str, Any], step: Tensor, change: Tensor) -> None:
        """Store the pair, and drop the oldest beyond `history`."""
        memory["steps"] = [*memory.get("steps", ()), step][-self.history :]
        memory["changes"] = [*memory.get("changes", ()), change][-self.history :]
