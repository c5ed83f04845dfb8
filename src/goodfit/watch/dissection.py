"""One training step taken apart: the gradient that is due, the one that the optimizer gets, and what becomes of the weights."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
    - `gradient_ratio`: norm of the fresh gradient over that of the weights; `gradient_spread`: the largest over the smallest such ratio of
      a weight of two or more dimensions, of those that have a gradient.
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
    gradient_ratio: float = NAN
    gradient_spread: float = NAN


class StepDissector:
    """Takes steps apart without changing what they do: buffers, gradients and random numbers are put back after each look.

    With `keeps_modes`, a network that is in training mode keeps the modes of its parts, some of which may be frozen in evaluation mode.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossFunction, keeps_modes: bool = False) -> None:
        self.model, self.optimizer, self.loss, self.keeps_modes = model, optimizer, loss, keeps_modes
        self.applied: list[Tensor] | None = None  # the gradient that the last step taken apart applied

    def dissect(self, images: Tensor, labels: Tensor, take_step: Callable[[], Tensor]) -> tuple[Tensor, StepSigns]:
        """Take a step on images [B, C, H, W] and labels [B] by calling `take_step`; returns its result and what it did."""
        dissection = Dissection(self)
        dissection.add(images, labels)
        with dissection.seeing():
            result = take_step()
        return result, dissection.describe(result)

    def compute_fresh_gradient(self, images: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
        """The loss of images [B, C, H, W] at the current weights in training mode, and its gradient, a tensor for each parameter."""
        parameters = list(self.model.parameters())
        with untouched(self.model), keep_chance(), torch.enable_grad():
            if not (self.keeps_modes and self.model.training):
                self.model.train()
            loss = self.loss(self.model(images), labels)
            if not loss.requires_grad:
                return float(loss), [torch.zeros_like(p) for p in parameters]
            inputs = [p for p in parameters if p.requires_grad]
            got = dict(zip(map(id, inputs), torch.autograd.grad(loss, inputs, allow_unused=True), strict=True))
        return float(loss.detach()), [torch.zeros_like(p) if (g := got.get(id(p))) is None else g for p in parameters]


class Dissection:
    """One step while it is taken apart: `add` each batch before it is used, use it within `seeing()`, at the end `describe` the step."""

    def __init__(self, dissector: StepDissector) -> None:
        self.dissector = dissector
        self.parameters = dict(dissector.model.named_parameters())
        self.before = [p.detach().clone() for p in self.parameters.values()]
        self.losses: list[float] = []
        self.total: list[Tensor] = []  # the fresh gradients of all batches, added up
        self.last: list[Tensor] = []  # that of the last one
        self.seen: list[list[Tensor] | None] = []  # what each update got; None where a closure had it for several states of the weights
        self.versions: set[int] = set()  # of the weights, for which a closure was called

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Compute the fresh gradient of a batch; the gradients of several are accumulated."""
        loss, self.last = self.dissector.compute_fresh_gradient(images, labels)
        self.losses.append(loss)
        self.total = [a + b for a, b in zip(self.total, self.last, strict=True)] if self.total else self.last

    @contextlib.contextmanager
    def seeing(self) -> Iterator[None]:
        """Keep the gradients that the optimizer gets within the block."""
        model, optimizer = self.dissector.model, self.dissector.optimizer
        hooks = (
            optimizer.register_step_pre_hook(self._see),
            optimizer.register_step_post_hook(self._see_closure),
            model.register_forward_pre_hook(self._see_forward),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _see(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        has_closure = any(callable(x) for x in (*args, *kwargs.values()))
        self.seen.append(None if has_closure else self._copy_gradient())
        self.versions = set()

    def _see_forward(self, *arguments: object) -> None:
        self.versions.add(sum(p._version for p in self.parameters.values()))

    def _see_closure(self, *arguments: object) -> None:
        """Keep the gradient that a closure has computed, if it was called for one state of the weights, unlike that of a line search."""
        if self.seen and self.seen[-1] is None and len(self.versions) == 1:
            self.seen[-1] = self._copy_gradient()

    def _copy_gradient(self) -> list[Tensor]:
        """The gradients, 0 where there is none."""
        return [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self.parameters.values()]

    def describe(self, result: Tensor | float) -> StepSigns:
        """What the step did that returned `result`, its loss."""
        parameters, before, carried = self.parameters, self.before, self.dissector.applied
        applied = self.seen[-1] if len(self.seen) == 1 else None
        self.dissector.applied = self.seen[-1] if self.seen else None
        fresh = self._choose_fresh(applied)
        changes = [p.detach() - old for p, old in zip(parameters.values(), before, strict=True)]
        has_changed = [bool((change != 0).any()) for change in changes]
        with_gradient = [g != 0 for g in (applied if applied is not None else fresh)]
        kept = [m & (c == 0) for m, c, p in zip(with_gradient, changes, parameters.values(), strict=True) if p.requires_grad]
        numbers = sum(p.numel() for p in parameters.values())
        carried_sum = None if carried is None else [a + b for a, b in zip(carried, fresh, strict=True)]
        ratios = [norm([g]) / max(norm([w]), 1e-30) for g, w in zip(fresh, before, strict=True) if w.ndim >= 2 and bool((g != 0).any())]
        return StepSigns(
            loss=float(result.detach()) if isinstance(result, Tensor) else float(result),
            fresh_loss=sum(self.losses) / len(self.losses),
            updates=len(self.seen),
            fresh_norm=norm(fresh),
            applied_norm=NAN if applied is None else norm(applied),
            applied_cosine=NAN if applied is None else cosine(applied, fresh),
            carried_cosine=NAN if applied is None or carried_sum is None else cosine(applied, carried_sum),
            descent=-cosine(changes, fresh),
            update_ratio=norm(changes) / max(norm(before), 1e-30),
            unmoved=tuple(name for name, moved in zip(parameters, has_changed, strict=True) if not moved),
            without_gradient=tuple(name for name, mask in zip(parameters, with_gradient, strict=True) if not mask.any()),
            lost=sum(int(m.sum()) for m in kept) / max(sum(int(m.sum()) for m in with_gradient), 1),
            half=sum(p.numel() for p in parameters.values() if p.dtype in (torch.float16, torch.bfloat16)) / max(numbers, 1),
            is_finite=all(bool(torch.isfinite(p).all()) for p in parameters.values())
            and bool(torch.isfinite(torch.as_tensor(result)).all()),
            gradient_ratio=norm(fresh) / max(norm(before), 1e-30),
            gradient_spread=max(ratios) / min(ratios) if ratios else NAN,
        )

    def _choose_fresh(self, applied: list[Tensor] | None) -> list[Tensor]:
        """The mean gradient of the batches; that of the last one where the optimizer got it alone, as after an update that was skipped."""
        n = len(self.losses)
        mean = [g / n for g in self.total] if n > 1 else self.total
        if n > 1 and applied is not None and cosine(applied, self.last) > cosine(applied, mean):
            return self.last
        return mean


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put the buffers and modes of a model back after the block, also buffers that it puts new tensors in the place of."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, name, buffer, value in buffers:
            buffer.data.copy_(value)  # by its data, so that a backward pass that is still to come does not mind
            module._buffers[name] = buffer
        for module, mode in modes:
            module.training = mode


def norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all numbers of some tensors together."""
    return math.sqrt(sum(float(x.double().square().sum()) for x in tensors))


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The cosine between two lists of tensors, each taken as one vector; NaN where one of them is zero."""
    scale = norm(a) * norm(b)
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True)) / scale if scale > 0 else NAN
