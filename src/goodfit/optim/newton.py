"""Newton's method: a step to the minimum of the loss's quadratic model, with enough damping that the loss never rises."""

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

MAX_DAMPINGS_TRIED = 25  # in one step, before the weights stay where they are
MIN_DAMPING_SHARE = 1e-6  # of the curvature's scale: the smallest damping that is not zero
DAMPING_INCREASE, DAMPING_DECREASE = 8.0, 0.2  # factors of the damping after a rejected or poor step, and after a good one
MIN_GAIN, GOOD_GAIN, POOR_GAIN = 1e-4, 0.75, 0.25  # the actual over the predicted decrease of the loss


@dataclasses.dataclass(frozen=True)
class Newton(Optimizer):
    """W = W - lr H^-1 g with H the Hessian of the loss, to whose diagonal at least `damping` is added.

    More is added where H is not positive definite or the loss does not fall as its quadratic model predicts, less once it does again
    (Levenberg and Marquardt). Up to `exact` parameters the full H is computed; above, its system is solved by at most `products`
    conjugate gradient steps, each with one product of H and a vector. It has no weight decay, which is not part of the loss: use the
    penalty l2(...) instead.

    Helps: small models to full precision in a few steps: a positive definite quadratic takes one. No learning rate to choose.
    Hurts: large models and data; noise; activations with kinks, whose Hessian says little (a relu net's misses most curvature).
    Cost: full: the square of the number of weights in memory, its cube in time. By products: two passes over the images for each.
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
    """The quadratic model of the loss at a point; `scale` is that of its curvature."""

    scale: float

    def solve(self, damping: float) -> tuple[Tensor, Tensor] | None:
        """Solve (H + damping I) d = -g; returns d [N] and H d [N], or None where the damped H is not positive definite."""


class NewtonOptimizer(FlatOptimizer):
    """Damped Newton over one parameter group, as a torch optimizer; a plain closure's Hessian comes from differences of gradients."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 1.0, damping: float = 0.0, exact: int = 2000, products: int = 50
    ) -> None:
        super().__init__(groups, lr)
        self.damping, self.exact, self.products = damping, exact, products

    def update(self, closure: Any, evaluate: Callable[[], Any], loss: float, gradient: Tensor, memory: dict[str, Any]) -> None:
        """Try steps with more and more damping until one lowers the loss; the learning rate multiplies the step."""
        flat, origin, lr = self.flat, self.flat.read(), self.lr
        model = self._quadratic_model(closure, evaluate, gradient)
        flat.write(origin)
        damping = max(self.damping, memory.get("damping", 0.0))
        min_damping = max(self.damping, MIN_DAMPING_SHARE * model.scale)
        for _ in range(MAX_DAMPINGS_TRIED):
            solution = model.solve(damping)
            if solution is not None:
                direction, curved = solution
                predicted = -lr * float(direction @ gradient) - lr * lr / 2 * float(direction @ curved)
                if 0 < predicted <= torch.finfo(gradient.dtype).eps * abs(loss):
                    break  # less than the loss can resolve: this is the minimum to rounding
                flat.write(origin + lr * direction)
                gain = (loss - float(evaluate())) / predicted if predicted > 0 else math.nan
                if gain >= MIN_GAIN:
                    damping *= DAMPING_DECREASE if gain > GOOD_GAIN else DAMPING_INCREASE if gain < POOR_GAIN else 1.0
                    memory["damping"] = damping if damping > min_damping else self.damping
                    return
            damping = max(DAMPING_INCREASE * damping, min_damping)
        flat.write(origin)

    def _quadratic_model(self, closure: Any, evaluate: Callable[[], Any], gradient: Tensor) -> QuadraticModel:
        if hasattr(closure, "hessian") and len(self.flat) <= self.exact:
            return ExactModel(closure.hessian(), gradient)
        product = closure.hvp if hasattr(closure, "hvp") else hvp_by_differences(self.flat, evaluate)
        return HessianFreeModel(product, gradient, self.products)


class ExactModel:
    """A model with the full Hessian [N, N], solved in float64 by a Cholesky factorization."""

    def __init__(self, hessian: Tensor, gradient: Tensor) -> None:
        self.hessian, self.gradient = hessian.double(), gradient
        self.scale = float(hessian.diagonal().abs().mean())
        # A pivot as small as rounding is no curvature. Softmax scores have such a direction: they may all rise together at no cost.
        self.min_pivot = torch.finfo(hessian.dtype).eps * float(hessian.diagonal().abs().max())

    def solve(self, damping: float) -> tuple[Tensor, Tensor] | None:
        damped = self.hessian.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) or float(factor.diagonal().min()) ** 2 <= self.min_pivot:
            return None
        direction = -torch.cholesky_solve(self.gradient.double()[:, None], factor)[:, 0]
        return direction.to(self.gradient.dtype), (self.hessian @ direction).to(self.gradient.dtype)


class HessianFreeModel:
    """A model whose Hessian is known by its products with vectors, solved by conjugate gradients to the accuracy that the step needs."""

    def __init__(self, product: Callable[[Tensor], Tensor], gradient: Tensor, max_products: int) -> None:
        self.product, self.gradient, self.max_products = product, gradient, max_products
        self.gradient_product = product(gradient)
        self.scale = abs(float(gradient @ self.gradient_product) / float(gradient @ gradient))

    def solve(self, damping: float) -> tuple[Tensor, Tensor] | None:
        direction, curved = torch.zeros_like(self.gradient), torch.zeros_like(self.gradient)
        residual = -self.gradient
        search, square = residual, float(residual @ residual)
        tolerance = min(0.25, square**0.5) * square  # tighter near the minimum, for superlinear convergence (Nocedal & Wright, 7.2)
        for count in range(self.max_products):
            product = self.product(search) if count else -self.gradient_product
            curvature = float(search @ product) + damping * float(search @ search)
            if not curvature > 0:
                return (direction, curved) if count else None
            share = square / curvature
            direction, curved = direction + share * search, curved + share * product
            residual = residual - share * (product + damping * search)
            before, square = square, float(residual @ residual)
            if square <= tolerance:
                break
            search = residual + square / before * search
        return direction, curved


def hvp_by_differences(flat: FlatParameters, evaluate: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    """Return a function that multiplies the Hessian with a vector [N] by central differences of the gradient, without `hvp`."""
    origin = flat.read()
    distance = torch.finfo(origin.dtype).eps ** (1 / 3) * (1 + float(origin.norm()))

    def product(vector: Tensor) -> Tensor:
        length = float(vector.norm())
        if not length:
            return torch.zeros_like(vector)
        sides = []
        for offset in (distance, -distance):
            flat.write(origin + offset / length * vector)
            evaluate()
            sides.append(flat.gradient())
        flat.write(origin)
        curved: Tensor = (sides[0] - sides[1]) * (length / (2 * distance))
        return curved

    return product
