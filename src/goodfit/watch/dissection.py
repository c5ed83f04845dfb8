"""One training step taken apart: the gradient that is due, the one that the optimizer gets, and what becomes of the weights."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from goodfit.watch.chance import OwnChance, keep_chance
from goodfit.watch.operations import takes_statistics
from goodfit.watch.updates import each_update

LossFunction = Callable[[Tensor, Tensor], Tensor]
NAN = math.nan
UPHILL = 0.3  # cosine between the change of a parameter and its gradient from which on it goes up along it
HALVES = (torch.float16, torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class StepSigns:
    """What one step did. Norms and cosines are over all parameters together; a number that could not be measured is NaN.

    - `loss`: what the step returned; `fresh_loss`: of the same images, recomputed before the step.
    - `updates`: how often an optimizer stepped; 0 with `applied_norm` where weights were changed by other means.
    - `fresh_norm`, `applied_norm`: of the gradient recomputed on these images, and of the one the optimizer got for its parameters.
    - `applied_cosine`: between these two. `carried_cosine`: of the second with the sum of the fresh one and what the optimizer got before.
    - `descent`: cosine between the change of the weights and the direction down the fresh gradient.
    - `uphill`: share of the fresh gradient's norms that lies on parameters which moved up along it.
    - `update_ratio`: norm of the change over that of the weights.
    - `unmoved`: names of the parameters that did not change; `without_gradient`: of those that got none, or only zeros.
    - `lost`: share of the numbers with a gradient that did not change, though their parameter did or has a gradient.
    - `half`: share of the parameters stored in half precision; `is_finite`: whether loss and weights are.
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
    carried_cosine: float
    descent: float
    update_ratio: float
    unmoved: tuple[str, ...]
    without_gradient: tuple[str, ...]
    lost: float
    half: float
    is_finite: bool
    coarse: float = 0.0
    underflow: float = 0.0
    halves: tuple[str, ...] = ()
    norm_images: int = 0
    uphill: float = 0.0


class StepDissector:
    """Takes steps apart without changing what they do: buffers, gradients and random numbers are put back after each look."""

    def __init__(self, model: nn.Module, loss: LossFunction) -> None:
        self.model, self.loss = model, loss
        self._applied: list[Tensor] | None = None  # by the last update

    def dissect(
        self, images: Tensor, labels: Tensor, take_step: Callable[[], Tensor], chance: OwnChance | None = None
    ) -> tuple[Tensor, StepSigns]:
        """Take a step on images [B, C, H, W] and labels [B] by calling `take_step`, which draws from `chance`, if that is given; returns
        its result and what it did.
        """
        parameters = list(self.model.parameters())
        with chance.preview() if chance else contextlib.nullcontext():
            fresh_loss, fresh = self.compute_fresh_gradient(images, labels)
        before = [p.detach().clone() for p in parameters]
        carried, seen, steppers = self._applied, [], set()
        held: set[int] = set()

        def see(optimizer: torch.optim.Optimizer) -> None:
            steppers.add(id(optimizer))
            held.update(id(p) for group in optimizer.param_groups for p in group["params"])
            seen.append(copy_gradients(parameters))

        with each_update(see), StepWatch() as watched:
            result = take_step()
        changes = [p.detach() - old for p, old in zip(parameters, before, strict=True)]
        if not seen and norm(changes) > 0 and any(p.grad is not None for p in parameters):
            seen, held = [copy_gradients(parameters)], set(map(id, parameters))  # whoever moved the weights, it was no optimizer
        is_plain = bool(seen) and len(seen) <= max(len(steppers), 1) and not held.isdisjoint(map(id, parameters))
        applied = [g if id(p) in held else torch.zeros_like(g) for g, p in zip(seen[-1], parameters, strict=True)] if is_plain else None
        self._applied = applied
        due = [f if not is_plain or id(p) in held else torch.zeros_like(f) for f, p in zip(fresh, parameters, strict=True)]
        signs = compare(dict(self.model.named_parameters()), before, (fresh, due), applied)
        value = torch.as_tensor(result).detach()
        return result, dataclasses.replace(
            signs,
            loss=float(value),
            fresh_loss=fresh_loss,
            updates=len(seen) if steppers else 0,
            carried_cosine=NAN
            if applied is None or carried is None
            else cosine(applied, [a + b for a, b in zip(carried, due, strict=True)]),
            is_finite=signs.is_finite and bool(torch.isfinite(value).all()),
            halves=tuple(sorted(watched.halves)),
            norm_images=watched.norm_images,
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
    return StepSigns(
        loss=NAN,
        fresh_loss=NAN,
        updates=0,
        fresh_norm=norm(fresh),
        applied_norm=NAN if applied is None else norm(applied),
        applied_cosine=NAN if applied is None else cosine(applied, due),
        carried_cosine=NAN,
        descent=-cosine(changes, fresh),
        uphill=measure_uphill(changes, fresh),
        update_ratio=norm(changes) / max(norm(before), 1e-30),
        unmoved=tuple(name for name, has_moved in zip(parameters, moved, strict=True) if not has_moved),
        without_gradient=tuple(name for name, mask in zip(parameters, with_gradient, strict=True) if not mask.any()),
        lost=sum(int(m.sum()) for m in kept) / max(sum(int(m.sum()) for m in with_gradient), 1),
        half=sum(p.numel() for p in now if p.dtype in HALVES) / max(numbers, 1),
        is_finite=all(bool(torch.isfinite(p).all()) for p in now),
        coarse=measure_coarse([p for p, has_moved in zip(now, moved, strict=True) if has_moved]),
        underflow=NAN if applied is None else measure_underflow(due, applied),
    )


def copy_gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of some parameters, zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters]


class StepWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes within a `with` block in which kinds of half precision tensors are computed, and how few images a batch norm sees."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.halves: set[str] = set()
        self.norm_images = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype in HALVES:
            self.halves.add(str(out.dtype).removeprefix("torch."))
        if takes_statistics(func._schema.name.rpartition("::")[2], args):
            self.norm_images = min(self.norm_images or len(args[0]), len(args[0]))
        return out

    def __enter__(self) -> StepWatch:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self


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
