"""Muon: orthogonalized momentum for the weights that are matrices."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from goodfit.core.contracts import Optimizer
from goodfit.core.settings import Count, NonNegative, Positive
from goodfit.optim.first_order import Adamw, Decay, Groups, keep_layout_on_load
from goodfit.optim.formulas import Closure, WrapperOptimizer, evaluate_closure, refuse_nested

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # x -> a x + b x^3 + c x^5 five times brings 0.01..1 to about 0.7..1.2
SETTINGS_OF_REST = ("lr", "peak", "weight_decay")  # which the rest takes from its own optimizer


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """The momentum of each weight matrix, replaced by the nearest orthogonal matrix: all its directions get a step of the same length.

    Filters of a conv count as rows of a matrix [out, in * height * width]. Everything else is updated by `rest`: biases, norms, and, if
    `hidden_only`, the weights of the first and the last layer of nets that have others between them.

    Helps: fewer epochs than tuned sgd or adamw to the same loss, on conv nets too.
    Hurts: very thin or small layers; steps never shrink by themselves, so anneal the learning rate.
    Cost: one number per weight, and five rounds of three matrix products per matrix and step.
    Source: Jordan et al. 2024 (Muon).
    """

    lr: Positive = 0.02
    momentum: Decay = 0.95
    nesterov: bool = True
    weight_decay: NonNegative = 0.0
    rounds: Count = 5
    rest: Optimizer = dataclasses.field(default_factory=Adamw)
    hidden_only: bool = False

    @property
    def separates_ends(self) -> bool:
        return self.hidden_only

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_nested("muon", self.rest)

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        own, others = [], []
        settings = {name: getattr(self, name) for name in ("lr", "momentum", "nesterov", "weight_decay", "rounds")}
        for group in groups:
            is_own = group.get("weights", True) and group.get("hidden", True)
            matrices = [p for p in group["params"] if is_own and p.ndim >= 2]
            rest = [p for p in group["params"] if not any(p is m for m in matrices)]
            if matrices:
                own.append({**settings, **group, "params": matrices})
            if rest:
                others.append(_group_for_rest(group, rest))
        return keep_layout_on_load(MuonOptimizer(own, self.rest(others) if others else None))


def _group_for_rest(group: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """A group of the other parameters, with the learning rate and decay of their own optimizer; norms and biases still do not decay."""
    shared = {name: value for name, value in group.items() if name not in SETTINGS_OF_REST}
    decay = {} if group.get("weights", True) else {"weight_decay": 0.0}
    return {**shared, **decay, "params": params}


class MuonOptimizer(WrapperOptimizer):
    """The torch optimizer of `muon`."""

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step, after evaluating the closure where there is one; returns its loss."""
        loss = evaluate_closure(closure)
        for group in self.param_groups[: self.n_own]:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                matrix = ahead.reshape(len(p), -1)
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                bf16 = matrix.is_cuda or group.get("precision") == "bf16"
                p.add_(orthogonalize(matrix, group["rounds"], bf16).reshape(p.shape), alpha=-group["lr"] * scale)
        if self.inner is not None:
            self.inner.step()
        return loss


def orthogonalize(matrix: Tensor, rounds: int = 5, bf16: bool = False) -> Tensor:
    """The matrix [n, m] with the same singular vectors and singular values near 1, by Newton-Schulz iterations, in bfloat16 if asked."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrix.bfloat16() if bf16 else matrix
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    upright: Tensor = x.T if matrix.shape[0] > matrix.shape[1] else x
    return upright.to(matrix.dtype)
