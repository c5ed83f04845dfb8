"""BFGS: a full inverse Hessian, corrected in every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.settings import Count, Positive
from goodfit.core.words import format_bytes
from goodfit.optim.line_search import QuasiNewton


@dataclasses.dataclass(frozen=True)
class Bfgs(Optimizer):
    """Newton's direction with an inverse Hessian that each step corrects by a matrix of rank two, and a line search along it.

    The line search looks for the strong Wolfe conditions and tries lr first. Each step is one iteration, on all training images. A model
    of more than `most` parameters is refused. It has no weight decay, which is not part of the loss: use the penalty l2(...) instead.

    Helps: models of a few thousand parameters, where it needs fewer steps than lbfgs.
    Hurts: larger models, for which lbfgs is the choice; noise of any kind, as for lbfgs.
    Cost: the square of the number of weights, in memory, in each step, and in each checkpoint.
    Source: Broyden, Fletcher, Goldfarb, Shanno 1970; CS231n, second-order optimization (its "BGFS with rank 1 updates" are of rank 2).
    """

    full_batch: ClassVar[bool] = True
    lr: Positive = 1.0
    most: Count = 5000

    def __call__(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = BfgsOptimizer(groups, self.lr)
        if (n := len(optimizer.flat)) > self.most:
            memory = format_bytes(n * n * optimizer.flat.parameters[0].element_size())
            raise UsageError(
                f"bfgs keeps a matrix of {n:,} x {n:,} numbers ({memory}) for {n:,} parameters: expected at most {self.most:,};"
                f" use lbfgs, which needs no matrix, or bfgs(most={n})."
            )
        return optimizer


class BfgsOptimizer(QuasiNewton):
    """BFGS over one parameter group, as a torch optimizer."""

    def direction(self, memory: dict[str, Any], gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian times the gradient."""
        return -(memory["inverse"] @ gradient) if memory else -gradient

    def update_memory(self, memory: dict[str, Any], step: Tensor, change: Tensor) -> None:
        """Correct the inverse Hessian so that it maps the change to the step (Nocedal & Wright 2006, equations 6.17 and 6.20)."""
        curvature = step @ change
        if not memory:
            memory["inverse"] = torch.eye(len(step), dtype=step.dtype, device=step.device) * (curvature / (change @ change))
        inverse: Tensor = memory["inverse"]
        mapped = inverse @ change / curvature
        inverse.addr_(mapped, step, alpha=-1).addr_(step, mapped, alpha=-1)
        inverse.addr_((1 / curvature + change @ mapped / curvature) * step, step)
