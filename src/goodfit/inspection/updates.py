"""Whoever makes an update of the weights: what the optimizers get, and whether they keep their state from one update to the next."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from goodfit.inspection.operations import takes_statistics

MAX_MEASURED = 8  # state tensors of an optimizer whose norms are taken
MAX_REMEMBERED = 4  # optimizers
LOST_SHARE = 0.5  # of the norm of a state, or of its tensors, below which it was lost
HALVES = (torch.float16, torch.bfloat16)
OnUpdate = Callable[[torch.optim.Optimizer], None]


@dataclasses.dataclass(frozen=True)
class StateSize:
    """How much an optimizer has in its state: tensors, the norm of some of them, and the sum of what counts steps."""

    tensors: int
    norm: float
    steps: float

    @classmethod
    def measure(cls, optimizer: torch.optim.Optimizer) -> StateSize:
        """Measure the state of an optimizer."""
        states = [state for state in optimizer.state.values() if isinstance(state, dict)]
        tensors = [x for state in states for x in state.values() if isinstance(x, Tensor) and x.numel() > 1]
        counts = [float(state["step"]) for state in states if isinstance(state.get("step"), int | float | Tensor)]
        chosen = tensors[:: max(len(tensors) // MAX_MEASURED, 1)]
        return cls(len(tensors), sum(float(x.detach().float().norm()) for x in chosen), sum(counts))

    def is_lost(self, now: StateSize) -> bool:
        """Whether this state, left by an update, is no longer there before the next."""
        had_some = self.tensors > 0 and self.norm > 0
        return had_some and (now.tensors < LOST_SHARE * self.tensors or now.norm < LOST_SHARE * self.norm or now.steps < self.steps)


class StateWatch:
    """Sees whether the state of the optimizers is kept, whichever optimizer makes an update; `losses` counts how often it was not."""

    def __init__(self) -> None:
        self.losses = 0
        self.updates = 0
        self._left: list[tuple[torch.optim.Optimizer, frozenset[int], StateSize]] = []  # the state that each optimizer left, latest last

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Watch the updates within the block."""
        with each_update(self._begin, self._end):
            yield

    def _begin(self, optimizer: torch.optim.Optimizer) -> None:
        left = next((size for known, _, size in self._left if known is optimizer), None)
        if left is None:  # a new optimizer: what did the latest one of these parameters leave?
            own = _parameters_of(optimizer)
            left = next((size for _, theirs, size in reversed(self._left) if len(own & theirs) > 0.5 * len(own)), None)
        self.losses += left is not None and left.is_lost(StateSize.measure(optimizer))

    def _end(self, optimizer: torch.optim.Optimizer) -> None:
        self.updates += 1
        others = [entry for entry in self._left if entry[0] is not optimizer][1 - MAX_REMEMBERED :]
        self._left = [*others, (optimizer, _parameters_of(optimizer), StateSize.measure(optimizer))]


@contextlib.contextmanager
def each_update(before: OnUpdate, after: OnUpdate | None = None) -> Iterator[None]:
    """Call `before` and `after` with the optimizer around every update within the block, whichever optimizer makes it."""
    depth = 0  # an optimizer may call the step of the class that it derives from, which is no update of its own

    def enter(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            before(optimizer)

    def leave(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0 and after is not None:
            after(optimizer)

    hooks = register_optimizer_step_pre_hook(enter), register_optimizer_step_post_hook(leave)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _parameters_of(optimizer: torch.optim.Optimizer) -> frozenset[int]:
    return frozenset(id(p) for group in optimizer.param_groups for p in group["params"])


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
