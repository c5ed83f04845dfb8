"""What a training step takes in memory, found by making one with a model without numbers and counting what is alive."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.models.anatomy.meta import OperationRecorder, to_meta
from goodfit.optim.groups import parameter_groups, record_peak_rates

Purpose = Literal["weights", "gradients", "state", "activations", "workspace"]


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """The memory of a training step in bytes, part by part, at its worst moment.

    `weights` with the buffers, `gradients` that are there by then, the `state` of the optimizer, `activations` that wait for the
    backward pass, with the images, and as `workspace` what else is alive: gradients of activations on their way, copies that the
    optimizer makes. `saved` are the bytes that each module's tensors (and, outside of all, images and loss) take up when the forward
    pass is over. Not in it: what kernels take within themselves, the data, augmentation, and a running average of the weights, which is
    as large as the weights. A process on a CPU also holds a fifth to a half more than is alive: what malloc does not give back.
    """

    batch: int
    optimizer: str
    weights: int
    gradients: int
    state: int
    activations: int
    workspace: int
    saved: dict[str, int]

    @property
    def peak(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.state + self.activations + self.workspace

    def to_dict(self) -> dict[str, Any]:
        """The same, with the peak, ready for JSON."""
        return {**{key: value for key, value in dataclasses.asdict(self).items() if key != "saved"}, "peak": self.peak}


def measure_training_step(module: nn.Module, channels: int, size: tuple[int, int], batch: int, optimizer: Optimizer) -> StepMemory:
    """The memory that a step of any module takes in float32, from the second step on; the module itself is not touched.

    Raises:
        UsageError: nothing in the model learns, or the optimizer looks at numbers, which a model without them does not have.
    """
    net = to_meta(module).train()
    moving = [p for p in net.parameters() if p.requires_grad]
    if not moving or getattr(optimizer, "full_batch", False):
        raise UsageError(f'"{optimizer}" decides by numbers how far it goes' if moving else "the model has nothing to learn")
    live, images = MemoryRecorder(net), torch.empty(batch, channels, *size, device="meta")
    asked, made = parameter_groups(net, optimizer), optimizer(parameter_groups(net, optimizer))
    for p in moving:
        p.grad = torch.empty_like(p)
    nothing: Any = torch.zeros((), device="meta")
    record_peak_rates(made).step(lambda: nothing)  # makes the state, which every later step finds
    made.zero_grad(set_to_none=True)
    for x in [*net.parameters(), *net.buffers()]:
        live.take(x, "weights")
    for x in _tensors_in(made.state):
        live.take(x, "state")
    live.take(images, "activations")
    for p in moving:
        p.register_post_accumulate_grad_hook(live.accumulated)  # type: ignore[no-untyped-call]
    fused = _is_fused(optimizer, asked)

    def closure() -> Tensor:
        made.zero_grad(set_to_none=True)
        live.what, live.counting = "activations", True
        loss = _loss(net(images))
        live.forward_is_over()
        loss.backward()  # type: ignore[no-untyped-call]
        live.counting = not fused
        return loss.detach()

    with live:
        made.step(closure)  # type: ignore[arg-type]
    return StepMemory(batch, str(optimizer), **live.worst, saved=live.saved)


class MemoryRecorder(OperationRecorder):  # type: ignore[no-untyped-call]
    """The storages that are alive, what they are for, and the sums of their bytes at the worst moment."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.what: Purpose = "activations"  # what new tensors are for
        self.counting = True
        self.now: dict[Purpose, int] = dict.fromkeys(("weights", "gradients", "state", "activations", "workspace"), 0)
        self.worst = dict(self.now)
        self.saved: dict[str, int] = {}
        self.alive: dict[int, tuple[Purpose, str, int, Any]] = {}  # by address: what for, the module, bytes, the storage

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Take in what an operation made."""
        if self.counting:
            for x in tree_leaves(out):
                if isinstance(x, Tensor):
                    self.take(x, self.what)

    def take(self, x: Tensor, what: Purpose) -> None:
        """Count a tensor's storage until it is gone."""
        storage = x.untyped_storage()
        key, n = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def gone(_: Any) -> None:
            was, *_rest = self.alive.pop(key)
            self.now[was] -= n

        self.alive[key] = what, self.calls[-1], n, weakref.ref(storage, gone)
        self.now[what] += n
        if sum(self.now.values()) > sum(self.worst.values()):
            self.worst = dict(self.now)

    def accumulated(self, parameter: Tensor) -> None:
        """A parameter has its gradient, which until now was on its way."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self.alive:
            was, name, n, reference = self.alive[key]
            self.alive[key] = "gradients", name, n, reference
            self.now[was] -= n
            self.now["gradients"] += n

    def forward_is_over(self) -> None:
        """What is still there waits for the backward pass."""
        self.what = "workspace"
        if not self.saved:
            for what, name, n, _ in self.alive.values():
                if what == "activations":
                    self.saved[name] = self.saved.get(name, 0) + n


def _tensors_in(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves([*tree.values()]) if isinstance(x, Tensor)]


def _loss(output: Any) -> Tensor:
    """A softmax loss on the scores, and on those of auxiliary heads."""
    scores = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
    losses = [F.cross_entropy(x.flatten(1), torch.empty_like(x.flatten(1))) for x in scores]
    return torch.stack(losses).sum()


def _is_fused(optimizer: Optimizer, asked: list[dict[str, Any]]) -> bool:
    """Whether on a processor one kernel does the whole update, without copies: torch has none for a ghost, so a small twin is asked."""
    twin = optimizer([{**group, "params": [nn.Parameter(torch.zeros(1, device="cpu"))]} for group in asked])
    return type(twin).__module__.startswith("torch.optim") and all(group.get("fused") for group in twin.param_groups)
