"""Optimizers of the lecture that torch lacks, and the base of optimizers that wrap another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from goodfit.core.errors import UsageError

Closure = Callable[[], Tensor]


def params_and_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of a group that have a gradient, and their gradients plus weight_decay times the parameters."""
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    if group["weight_decay"] and params:
        grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
    return params, grads


def evaluate_closure(closure: Closure | None) -> Tensor | None:
    """Evaluate the closure with gradients enabled and return its loss; None where there is no closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def refuse_nested(outer: str, inner: Any) -> None:
    """Refuse to wrap an optimizer that evaluates the loss itself, since the outer one already does.

    Raises:
        UsageError: the inner optimizer evaluates the loss.
    """
    if getattr(inner, "full_batch", False) or getattr(inner, "evaluates_loss", False):
        raise UsageError(f'{outer}: expected an optimizer that does not evaluate the loss itself, such as sgd, received "{inner}".')


class FormulaOptimizer(torch.optim.Optimizer):
    """An optimizer given by one formula; `state_names` are the tensors it keeps for each parameter, which start at zero."""

    state_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *states: list[Tensor]) -> None:
        """Update the parameters of a group and their states in place; each list has a tensor for each parameter."""

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step, after evaluating the closure where there is one; returns its loss."""
        loss = evaluate_closure(closure)
        for group in self.param_groups:
            params, grads = params_and_gradients(group)
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] |= {name: torch.zeros_like(p) for name in self.state_names}
            self.update(group, params, grads, *([self.state[p][name] for p in params] for name in self.state_names))
        return loss


class VelocitySgd(FormulaOptimizer):
    """Momentum with the learning rate in the velocity: v = momentum v - lr g, W = W + v; with Nesterov W = W + momentum v - lr g."""

    state_names = ("velocity",)

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, nesterov: bool, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *states: list[Tensor]) -> None:
        (velocities,) = states
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, grads, alpha=-group["lr"])
        if group["nesterov"]:
            torch._foreach_add_(params, velocities, alpha=group["momentum"])
            torch._foreach_add_(params, grads, alpha=-group["lr"])
        else:
            torch._foreach_add_(params, velocities)


class UncorrectedAdam(FormulaOptimizer):
    """Adam without bias correction: W = W - lr m / (sqrt(v) + eps)."""

    state_names = ("mean", "square")

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *states: list[Tensor]) -> None:
        means, squares = states
        first, second = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, 1 - second)
        sizes = torch._foreach_sqrt(squares)
        torch._foreach_add_(sizes, group["eps"])
        torch._foreach_addcdiv_(params, means, sizes, -group["lr"])


class WrapperOptimizer(torch.optim.Optimizer):
    """An optimizer that wraps another: it holds the groups and state of both, so learning rates and checkpoints reach the inner one too.

    Its `own` groups come first; the inner optimizer, if there is one, has the rest.
    """

    def __init__(self, own: list[dict[str, Any]], inner: torch.optim.Optimizer | None) -> None:
        super().__init__([*own, *(inner.param_groups if inner else [])], {})
        self.inner, self.n_own = inner, len(own)
        if inner is not None:
            self.state.update(inner.state)  # some optimizers create their state at once
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        if self.inner is not None:
            self.inner.state = self.state
            self.inner.param_groups = self.param_groups[self.n_own :]
            if isinstance(self.inner, WrapperOptimizer):
                self.inner._share()
