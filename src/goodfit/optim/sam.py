"""Sharpness-aware minimization, around any other optimizer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.settings import Positive
from goodfit.optim.first_order import Groups, Sgd, keep_layout_on_load
from goodfit.optim.formulas import Closure, WrapperOptimizer, refuse_nested


@dataclasses.dataclass(frozen=True)
class Sam(Optimizer):
    """Moves the weights by `rho` along the gradient, takes the gradient there, and lets `around` step with it from the original weights.

    Helps: generalization, most with few images or noisy labels: it looks for flat minima, whose neighborhood has a low loss too.
    Hurts: with a budget of time, since it takes half as many steps.
    Cost: a second gradient per step, and one more copy of the weights during it.
    Source: Foret et al. 2020.
    """

    evaluates_loss: ClassVar[bool] = True
    rho: Positive = 0.05
    around: Optimizer = dataclasses.field(default_factory=lambda: Sgd(0.1))

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_nested("sam", self.around)

    @property
    def separates_ends(self) -> bool:
        return bool(getattr(self.around, "separates_ends", False))

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        return keep_layout_on_load(SamOptimizer(self.around(groups), self.rho))


class SamOptimizer(WrapperOptimizer):
    """The torch optimizer of `sam`; its only state is the inner optimizer's."""

    def __init__(self, inner: torch.optim.Optimizer, rho: float) -> None:
        super().__init__([], inner)
        self.rho = rho

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Take one step; returns the loss at the original weights.

        Raises:
            UsageError: there is no closure.
        """
        if closure is None or self.inner is None:
            raise UsageError("sam needs the gradient twice a step: expected step(closure), received no closure.")
        with torch.enable_grad():
            loss = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            return loss
        grads = [p.grad for p in params if p.grad is not None]
        climb = self.rho / (torch.nn.utils.get_total_norm(grads) + 1e-12)
        before = [p.clone() for p in params]
        torch._foreach_add_(params, torch._foreach_mul(grads, climb))
        with torch.enable_grad():
            closure()
        torch._foreach_copy_(params, before)  # copied back, not subtracted, to be exact
        self.inner.step()
        return loss
