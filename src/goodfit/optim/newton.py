"""Newton's method: to the minimum of the loss's quadratic model, with as much damping as it takes never to go uphill."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from goodfit.core.contracts import Optimizer
from goodfit.core.settings import Count, Natural, NonNegative, Positive
from goodfit.optim.flat import FlatOptimizer, FlatParameters

MAX_DAMPINGS_TRIED = 25  # dampings in one step before it stays where it is
MIN_DAMPING_SHARE = 1e-6  # the first damping that is not zero, as a share of the curvature's scale
DAMPING_INCREASE, DAMPING_DECREASE = 8.0, 0.2  # what a refused, and a fully kept, promise multiplies the damping by
MIN_GAIN, GOOD_GAIN, POOR_GAIN = 1e-4, 0.75, 0.25  # shares of the promised fall of the loss


@dataclasses.dataclass(frozen=True)
class Newton(Optimizer):
    """W = W - lr H^-1 g with H the Hessian of the loss, to whose diagonal at least `damping` is added.

    More is added where H is not positive definite or the loss does not fall as its quadratic model promised, less as it does again
    (Levenberg and Marquardt). Up to `exact` parameters H is computed whole; above, its system is solved by at most `products`
    conjugate gradient steps, each one product of H and a vector. It has no weight decay, which is no part of the loss: write the
    penalty l2(...) instead.

    Helps: small models to full precision in a few steps: a positive definite quadratic takes one. No learning rate to choose.
    Hurts: large models and data; noise; activations with kinks, whose Hessian says little (a relu net's misses most curvature).
    Cost: whole: the square of the number of weights in memory, its cube in time. By products: two passes over the images for each.
    Source: CS231n, second-order optimization; Marquardt 1963; Nocedal & Wright 2006, chapter 7 (Newton-CG).
    """

    full_batch: ClassVar[bool] = True
    lr: Positive = 1.0
    damping: NonNegative = 0.0
    exact: Natural = 2000
    products: Count = 50

    def __call__(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return NewtonOptimizer(groups, self.lr, self.damping, self.exact, self.products)


class QuadraticModel(Protocol):
    """The quadratic model of the loss at a point."""

    scale: float

    def solve(self, damping: float) -> tuple[Tensor, Tensor] | None:
        """The step d [N] with (H + damping I) d = -g and H d [N]; None where the damped H is not positive definite."""


class NewtonOptimizer(FlatOptimizer):
    """Damped Newton over one parameter group, as a torch optimizer; a plain closure's Hessian is taken by differences of gradients."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 1.0, damping: float = 0.0, exact: int = 2000, products: int = 50
    ) -> None:
        super().__init__(groups, lr)
        self.damping, self.exact, self.products = damping, exact, products

    def move(self, closure: Any, evaluate: Callable[[], Any], loss: float, gradient: Tensor, memory: dict[str, Any]) -> None:
        """The rate multiplies the step."""
        flat, origin, rate = self.flat, self.flat.read(), self.rate
        system = self._system(closure, evaluate, gradient)
        flat.write(origin)
        damping = max(self.damping, memory.get("damping", 0.0))
        least = max(self.damping, MIN_DAMPING_SHARE * system.scale)
        for _ in range(MAX_DAMPINGS_TRIED):
            solved = system.solve(damping)
            if solved is not None:
                direction, curved = solved
                promised = -rate * float(direction @ gradient) - rate * rate / 2 * float(direction @ curved)
                if 0 < promised <= torch.finfo(gradient.dtype).eps * abs(loss):
                    break  # less than the loss can show: this is the minimum to rounding
                flat.write(origin + rate * direction)
                kept = (loss - float(evaluate())) / promised if promised > 0 else math.nan
                if kept >= MIN_GAIN:
                    damping *= DAMPING_DECREASE if kept > GOOD_GAIN else DAMPING_INCREASE if kept < POOR_GAIN else 1.0
                    memory["damping"] = damping if damping > least else self.damping
                    return
            damping = max(DAMPING_INCREASE * damping, least)
        flat.write(origin)

    def _system(self, closure: Any, evaluate: Callable[[], Any], gradient: Tensor) -> QuadraticModel:
        if hasattr(closure, "hessian") and len(self.flat) <= self.exact:
            return ExactModel(closure.hessian(), gradient)
        product = closure.hvp if hasattr(closure, "hvp") else hvp_by_differences(self.flat, evaluate)
        return HessianFreeModel(product, gradient, self.products)


class ExactModel:
    """The system of a Hessian [N, N], solved in float64 by Cholesky's factors."""

    def __init__(self, hessian: Tensor, gradient: Tensor) -> None:
        self.hessian, self.gradient = hessian.double(), gradient
        self.scale = float(hessian.diagonal().abs().mean())
        # A pivot that rounding could have made is no curvature: softmax scores, for one, may all rise together for nothing.
        self.tiny = torch.finfo(hessian.dtype).eps * float(hessian.diagonal().abs().max())

    def solve(self, damping: float) -> tuple[Tensor, Tensor] | None:
        damped = self.hessian.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) or float(factor.diagonal().min()) ** 2 <= self.tiny:
            return None
        direction = -torch.cholesky_solve(self.gradient.double()[:, None], factor)[:, 0]
        return direction.to(self.gradient.dtype), (self.hessian @ direction).to(self.gradient.dtype)


class HessianFreeModel:
    """The system of a Hessian known by its products with vectors, solved by conjugate gradients until they are good enough."""

    def __init__(self, product: Callable[[Tensor], Tensor], gradient: Tensor, most: int) -> None:
        self.product, self.gradient, self.most = product, gradient, most
        self.first = product(gradient)
        self.scale = abs(float(gradient @ self.first) / float(gradient @ gradient))

    def solve(self, damping: float) -> tuple[Tensor, Tensor] | None:
        direction, curved = torch.zeros_like(self.gradient), torch.zeros_like(self.gradient)
        residual = -self.gradient
        search, square = residual, float(residual @ residual)
        enough = min(0.25, square**0.5) * square  # superlinear: the nearer the minimum, the more exact (Nocedal & Wright, 7.2)
        for count in range(self.most):
            product = self.product(search) if count else -self.first
            curvature = float(search @ product) + damping * float(search @ search)
            if not curvature > 0:
                return (direction, curved) if count else None
            share = square / curvature
            direction, curved = direction + share * search, curved + share * product
            residual = residual - share * (product + damping * search)
            before, square = square, float(residual @ residual)
            if square <= enough:
                break
            search = residual + square / before * search
        return direction, curved


def hvp_by_differences(flat: FlatParameters, evaluate: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    """Products of the Hessian with vectors [N] by central differences of the gradient, for a closure that has no `hvp`."""
    origin = flat.read()
    reach = torch.finfo(origin.dtype).eps ** (1 / 3) * (1 + float(origin.norm()))

    def product(vector: Tensor) -> Tensor:
        length = float(vector.norm())
        if not length:
            return torch.zeros_like(vector)
        sides = []
        for side in (reach, -reach):
            flat.write(origin + side / length * vector)
            evaluate()
            sides.append(flat.gradient())
        flat.write(origin)
        curved: Tensor = (sides[0] - sides[1]) * (length / (2 * reach))
        return curved

    return product
