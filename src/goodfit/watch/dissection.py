"""One training step taken apart: the gradient that is due, the one that the optimizer gets, and what becomes of the weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from goodfit.watch.chance import keep_chance

LossFunction = Callable[[Tensor, Tensor], Tensor]
NAN = math.nan


@dataclasses.dataclass(frozen=True)
class StepSigns:
    """What one step did. Norms and cosines are over all parameters together; a number that could not be measured is NaN.

    - `loss`: what the step returned; `fresh_loss`: of the same images, recomputed before the step.
    - `updates`: how often the optimizer stepped.
    - `fresh_norm`, `applied_norm`: of the gradient recomputed on these images, and of the one the optimizer got.
    - `applied_cosine`: between these two. `carried_cosine`: of the second with the sum of the fresh one and what the optimizer got before.
    - `descent`: cosine between the change of the weights and the direction down the fresh gradient.
    - `update_ratio`: norm of the change over that of the weights.
    - `unmoved`: names of the parameters that did not change; `without_gradient`: of those that got none, or only zeros.
    - `lost`: share of the numbers with a gradient that did not change, though their parameter did or has a gradient.
    - `half`: share of the parameters stored in half precision; `is_finite`: whether loss and weights are.
    """

    loss: float
    fresh_loss: float
    updates: int
    fresh_norm: float
    applied_norm: float
    applied_cosine: float
    carried_cosine: float
    descent: float
    update_ratio: float
    unmoved: tuple[str, ...]
    without_gradient: tuple[str, ...]
    lost: float
    half: float
    is_finite: bool


class StepDissector:
    """Takes steps apart without changing what they do: buffers, gradients and random numbers are put back after each look."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossFunction) -> None:
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self._applied: list[Tensor] | None = None  # by the last update

    def dissect(self, images: Tensor, labels: Tensor, take_step: Callable[[], Tensor]) -> tuple[Tensor, StepSigns]:
        """Take a step on images [B, C, H, W] and labels [B] by calling `take_step`; returns its result and what it did."""
        parameters = dict(self.model.named_parameters())
        fresh_loss, fresh = self.compute_fresh_gradient(images, labels)
        before = [p.detach().clone() for p in parameters.values()]
        carried, seen = self._applied, []

        def see(when: str, optimizer: torch.optim.Optimizer, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            has_closure = any(callable(x) for x in (*args[1:], *kwargs.values()))  # which makes the gradient within the step
            if has_closure == (when == "after"):
                seen.append([torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters.values()])

        hooks = (
            self.optimizer.register_step_pre_hook(functools.partial(see, "before")),
            self.optimizer.register_step_post_hook(functools.partial(see, "after")),
        )
        try:
            result = take_step()
        finally:
            for hook in hooks:
                hook.remove()
        self._applied = seen[-1] if seen else None
        changes = [p.detach() - old for p, old in zip(parameters.values(), before, strict=True)]
        applied = seen[-1] if len(seen) == 1 else None
        has_changed = [bool((change != 0).any()) for change in changes]
        with_gradient = [g != 0 for g in (applied if applied is not None else fresh)]
        kept = [m & (c == 0) for m, c, p in zip(with_gradient, changes, parameters.values(), strict=True) if p.requires_grad]
        numbers = sum(p.numel() for p in parameters.values())
        return result, StepSigns(
            loss=float(result.detach()) if isinstance(result, Tensor) else float(result),
            fresh_loss=fresh_loss,
            updates=len(seen),
            fresh_norm=norm(fresh),
            applied_norm=NAN if applied is None else norm(applied),
            applied_cosine=NAN if applied is None else cosine(applied, fresh),
            carried_cosine=NAN
            if applied is None or carried is None
            else cosine(applied, [a + b for a, b in zip(carried, fresh, strict=True)]),
            descent=-cosine(changes, fresh),
            update_ratio=norm(changes) / max(norm(before), 1e-30),
            unmoved=tuple(name for name, moved in zip(parameters, has_changed, strict=True) if not moved),
            without_gradient=tuple(name for name, mask in zip(parameters, with_gradient, strict=True) if not mask.any()),
            lost=sum(int(m.sum()) for m in kept) / max(sum(int(m.sum()) for m in with_gradient), 1),
            half=sum(p.numel() for p in parameters.values() if p.dtype in (torch.float16, torch.bfloat16)) / max(numbers, 1),
            is_finite=all(bool(torch.isfinite(p).all()) for p in parameters.values())
            and bool(torch.isfinite(torch.as_tensor(result)).all()),
        )

    def compute_fresh_gradient(self, images: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
        """The loss of images [B, C, H, W] at the current weights in training mode, and its gradient, a tensor for each parameter."""
        parameters = list(self.model.parameters())
        with untouched(self.model), keep_chance(), torch.enable_grad():
            self.model.train()
            loss = self.loss(self.model(images), labels)
            if not loss.requires_grad:
                return float(loss), [torch.zeros_like(p) for p in parameters]
            inputs = [p for p in parameters if p.requires_grad]
            got = dict(zip(map(id, inputs), torch.autograd.grad(loss, inputs, allow_unused=True), strict=True))
        return float(loss.detach()), [torch.zeros_like(p) if (g := got.get(id(p))) is None else g for p in parameters]


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put the buffers and modes of a model back after the block."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode


def norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all numbers of some tensors together."""
    return math.sqrt(sum(float(x.double().square().sum()) for x in tensors))


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The cosine between two lists of tensors, each taken as one vector; NaN where one of them is zero."""
    scale = norm(a) * norm(b)
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True)) / scale if scale > 0 else NAN
