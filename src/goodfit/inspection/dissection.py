"""One training step taken apart: the gradient that is due, the one that the optimizer gets, and what becomes of the weights."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from goodfit.inspection.chance import OwnChance, keep_chance
from goodfit.inspection.updates import HALVES, StepWatch, each_update

LossFunction = Callable[[Tensor, Tensor], Tensor]
NAN = math.nan
UPHILL = 0.3  # cosine between the change of a parameter and its gradient from which on it goes up along it


@dataclasses.dataclass(frozen=True)
class StepSigns:
    """What one step did. Norms and cosines are over all parameters together; a number that could not be measured is NaN.

    - `loss`: what the step returned; `fresh_loss`: of the same images, recomputed before the step.
    - `updates`: how often an optimizer stepped; 0 with `applied_norm` where weights were changed by other means.
    - `fresh_norm`, `applied_norm`: of the gradient recomputed on these images, and of the one the optimizer got for its parameters.
    - `applied_cosine`: between these two. `accumulated_cosine`: of the second with the sum of the fresh one and that of the step before.
    - `descent`: cosine between the change of the weights and the direction down the fresh gradient.
    - `uphill`: share of the fresh gradient's norms that lies on parameters which moved up along it.
    - `update_ratio`: norm of the change over that of the weights.
    - `lost`: share of the numbers with a gradient that did not change, though their parameter did or has a gradient.
    - `half`: share of the parameters stored in half precision; `is_finite`: whether loss and weights are.
    - `gradient_ratio`: norm of the fresh gradient over that of the weights; `gradient_spread`: the largest over the smallest such ratio of
      a weight of two or more dimensions, of those that have a gradient.
    - `coarse`: share of the numbers that moved which half precision can hold exactly; `underflow`: share of the numbers of the fresh
      gradient that are zero in the applied one alone; `halves`: the kinds of half precision in which the step computed.
    - `norm_images`: from how few images a batch norm took its statistics; 0 where none did.
    """

    loss: float
    fresh_loss: float
    updates: int
    fresh_norm: float
    applied_norm: float
    applied_cosine: float
    accumulated_cosine: float
    descent: float
    update_ratio: float
    lost: float
    half: float
    is_finite: bool
    gradient_ratio: float = NAN
    gradient_spread: float = NAN
    coarse: float = 0.0
    underflow: float = 0.0
    halves: tuple[str, ...] = ()
    norm_images: int = 0
    uphill: float = 0.0


class StepDissector:
    """Takes steps apart without changing what they do: buffers, gradients and random numbers are put back after each look.

    With `keeps_modes`, a network that is in training mode keeps the modes of its parts, some of which may be frozen in evaluation mode.
    """

    def __init__(self, model: nn.Module, loss: LossFunction, keeps_modes: bool = False) -> None:
        self.model, self.loss, self.keeps_modes = model, loss, keeps_modes
        self.applied: list[Tensor] | None = None  # the gradient that the last step taken apart applied

    def dissect(
        self, images: Tensor, labels: Tensor, take_step: Callable[[], Tensor], chance: OwnChance | None = None
    ) -> tuple[Tensor, StepSigns]:
        """Take a step on images [B, C, H, W] and labels [B] by calling `take_step`, which draws from `chance`, if that is given; returns
        its result and what it did.
        """
        dissection = Dissection(self)
        with chance.preview() if chance else contextlib.nullcontext():
            dissection.add(images, labels)
        with dissection.seeing(), StepWatch() as watched:
            result = take_step()
        return result, dissection.describe(result, watched)

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
        self.steppers: set[int] = set()  # the optimizers that made an update
        self.held: set[int] = set()  # their parameters
        self.versions: set[int] = set()  # of the weights, for which a closure ran the network

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Compute the fresh gradient of a batch; the gradients of several are accumulated."""
        loss, self.last = self.dissector.compute_fresh_gradient(images, labels)
        self.losses.append(loss)
        self.total = [a + b for a, b in zip(self.total, self.last, strict=True)] if self.total else self.last

    @contextlib.contextmanager
    def seeing(self) -> Iterator[None]:
        """Keep the gradients that optimizers get within the block, whichever optimizers they are."""
        hook = self.dissector.model.register_forward_pre_hook(self._see_forward)
        try:
            with each_update(self._see, self._see_closure):
                yield
        finally:
            hook.remove()

    def _see(self, optimizer: torch.optim.Optimizer) -> None:
        self.steppers.add(id(optimizer))
        self.held.update(id(p) for group in optimizer.param_groups for p in group["params"])
        self.seen.append(copy_gradients(self.parameters.values()))
        self.versions = set()

    def _see_forward(self, *arguments: object) -> None:
        self.versions.add(sum(p._version for p in self.parameters.values()))

    def _see_closure(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the gradient that a closure has computed, if it was called for one state of the weights, unlike that of a line search."""
        if self.seen and self.versions:
            self.seen[-1] = copy_gradients(self.parameters.values()) if len(self.versions) == 1 else None

    def describe(self, result: Tensor | float, watched: StepWatch | None = None) -> StepSigns:
        """What the step did that returned `result`, its loss."""
        previous, changes = self.dissector.applied, [p.detach() - b for p, b in zip(self.parameters.values(), self.before, strict=True)]
        if not self.seen and norm(changes) > 0 and any(p.grad is not None for p in self.parameters.values()):
            self.seen = [copy_gradients(self.parameters.values())]  # whoever moved the weights, it was no optimizer
            self.held = set(map(id, self.parameters.values()))
        is_plain = len(self.seen) in range(1, max(len(self.steppers), 1) + 1) and not self.held.isdisjoint(
            map(id, self.parameters.values())
        )
        applied = self._of_held(self.seen[-1]) if is_plain and self.seen[-1] is not None else None
        self.dissector.applied = applied
        fresh = self._choose_fresh(applied)
        due = self._of_held(fresh) if applied is not None else fresh
        accumulated = None if previous is None else [a + b for a, b in zip(previous, due, strict=True)]
        value = torch.as_tensor(result).detach()
        signs = compare(self.parameters, self.before, (fresh, due), applied)
        return dataclasses.replace(
            signs,
            loss=float(value),
            fresh_loss=sum(self.losses) / len(self.losses),
            updates=len(self.seen) if self.steppers else 0,
            accumulated_cosine=NAN if applied is None or accumulated is None else cosine(applied, accumulated),
            is_finite=signs.is_finite and bool(torch.isfinite(value).all()),
            halves=tuple(sorted(watched.halves)) if watched else (),
            norm_images=watched.norm_images if watched else 0,
        )

    def _of_held(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of the parameters that the optimizers hold, zeros for the others."""
        return [g if id(p) in self.held else torch.zeros_like(g) for g, p in zip(gradients, self.parameters.values(), strict=True)]

    def _choose_fresh(self, applied: list[Tensor] | None) -> list[Tensor]:
        """The mean gradient of the batches; that of the last one where the optimizer got it alone, as after an update that was skipped."""
        n = len(self.losses)
        mean = [g / n for g in self.total] if n > 1 else self.total
        if n > 1 and applied is not None and cosine(applied, self.last) > cosine(applied, mean):
            return self.last
        return mean


def compare(
    parameters: Mapping[str, Tensor],
    before: Sequence[Tensor],
    gradients: tuple[Sequence[Tensor], Sequence[Tensor]],
    applied: Sequence[Tensor] | None,
) -> StepSigns:
    """What became of parameters by name since `before`, against the fresh gradient, what of it an optimizer should have got, and what it
    got, if that was seen.
    """
    fresh, due = gradients
    now = [p.detach() for p in parameters.values()]
    changes = [p - old for p, old in zip(now, before, strict=True)]
    moved = [bool((change != 0).any()) for change in changes]
    with_gradient = [g != 0 for g in (applied if applied is not None else fresh)]
    kept = [m & (c == 0) for m, c, p in zip(with_gradient, changes, parameters.values(), strict=True) if p.requires_grad]
    numbers = sum(p.numel() for p in now)
    ratios = [norm([g]) / max(norm([w]), 1e-30) for g, w in zip(fresh, before, strict=True) if w.ndim >= 2 and bool((g != 0).any())]
    return StepSigns(
        loss=NAN,
        fresh_loss=NAN,
        updates=0,
        fresh_norm=norm(fresh),
        applied_norm=NAN if applied is None else norm(applied),
        applied_cosine=NAN if applied is None else cosine(applied, due),
        accumulated_cosine=NAN,
        descent=-cosine(changes, fresh),
        uphill=measure_uphill(changes, fresh),
        update_ratio=norm(changes) / max(norm(before), 1e-30),
        lost=sum(int(m.sum()) for m in kept) / max(sum(int(m.sum()) for m in with_gradient), 1),
        half=sum(p.numel() for p in now if p.dtype in HALVES) / max(numbers, 1),
        is_finite=all(bool(torch.isfinite(p).all()) for p in now),
        gradient_ratio=norm(fresh) / max(norm(before), 1e-30),
        gradient_spread=max(ratios) / min(ratios) if ratios else NAN,
        coarse=measure_coarse([p for p, has_moved in zip(now, moved, strict=True) if has_moved]),
        underflow=NAN if applied is None else measure_underflow(due, applied),
    )


def copy_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of some parameters, zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters]


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


def measure_coarse(tensors: Sequence[Tensor]) -> float:
    """The largest share of the numbers of some tensors, zeros aside, that a kind of half precision can hold exactly."""
    numbers = torch.cat([x.flatten().float() for x in tensors]) if tensors else torch.zeros(0)
    numbers = numbers[numbers != 0]
    return max(float((numbers.to(half).float() == numbers).float().mean()) for half in HALVES) if len(numbers) else 0.0


def measure_uphill(changes: Sequence[Tensor], fresh: Sequence[Tensor]) -> float:
    """The share of the norms of the gradients of some parameters that belongs to those which moved up along them."""
    sizes = [norm([f]) for f in fresh]
    wrong = [size for size, change, f in zip(sizes, changes, fresh, strict=True) if cosine([change], [f]) > UPHILL]
    return sum(wrong) / max(sum(sizes), 1e-30)


def measure_underflow(fresh: Sequence[Tensor], applied: Sequence[Tensor]) -> float:
    """The share of the numbers of the fresh gradient, zeros aside, that are zero in the applied one."""
    lost = sum(int(((f != 0) & (a == 0)).sum()) for f, a in zip(fresh, applied, strict=True))
    return lost / max(sum(int((f != 0).sum()) for f in fresh), 1)


def norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all numbers of some tensors together."""
    return math.sqrt(sum(float(x.double().square().sum()) for x in tensors))


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The cosine between two lists of tensors, each taken as one vector; NaN where one of them is zero."""
    scale = norm(a) * norm(b)
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True)) / scale if scale > 0 else NAN
