"""The memory that a training step takes, found by running one on the meta device and counting the tensors that are alive."""

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
    """The memory of a training step in bytes, by purpose, at its peak.

    `weights` include the buffers, `gradients` are those that exist at that moment, `state` is the optimizer's, `activations` are stored
    for the backward pass and include the images, and `workspace` is everything else that is alive: gradients of activations, copies that
    the optimizer makes. `saved_by_module` is the bytes of each module's tensors (and, outside of all modules, of images and loss) at the
    end of the forward pass. Not counted are what kernels allocate internally, the data, augmentation, and a running average of the
    weights, which is as large as the weights. A process on a CPU also holds a fifth to a half more than is alive, because malloc keeps
    freed memory.
    """

    batch: int
    optimizer: str
    weights: int
    gradients: int
    state: int
    activations: int
    workspace: int
    saved_by_module: dict[str, int]

    @property
    def peak(self) -> int:
        """The sum of all purposes."""
        return self.weights + self.gradients + self.state + self.activations + self.workspace

    def to_dict(self) -> dict[str, Any]:
        """The bytes by purpose and their sum, the peak, ready for JSON."""
        return {**{key: value for key, value in dataclasses.asdict(self).items() if key != "saved_by_module"}, "peak": self.peak}


def measure_training_step(module: nn.Module, channels: int, size: tuple[int, int], batch: int, optimizer: Optimizer) -> StepMemory:
    """Measure the memory that a training step of any module takes in float32, from the second step on; the module itself is not touched.

    Raises:
        UsageError: the model has nothing to learn, or the optimizer's step depends on values, which the meta device does not have.
    """
    net = to_meta(module).train()
    trainable = [p for p in net.parameters() if p.requires_grad]
    if not trainable:
        raise UsageError("the model has nothing to learn")
    if getattr(optimizer, "full_batch", False):
        raise UsageError(f'the steps of "{optimizer}" depend on the values of the loss')
    recorder, images = MemoryRecorder(net), torch.empty(batch, channels, *size, device="meta")
    groups, steps = parameter_groups(net, optimizer), optimizer(parameter_groups(net, optimizer))
    for p in trainable:
        p.grad = torch.empty_like(p)
    no_loss: Any = torch.zeros((), device="meta")
    record_peak_rates(steps).step(lambda: no_loss)  # creates the state, which every later step has
    steps.zero_grad(set_to_none=True)
    for x in [*net.parameters(), *net.buffers()]:
        recorder.track(x, "weights")
    for x in _tensors_in(steps.state):
        recorder.track(x, "state")
    recorder.track(images, "activations")
    for p in trainable:
        p.register_post_accumulate_grad_hook(recorder.mark_gradient)  # type: ignore[no-untyped-call]
    fused = _is_fused(optimizer, groups)

    def closure() -> Tensor:
        steps.zero_grad(set_to_none=True)
        recorder.purpose, recorder.counting = "activations", True
        loss = _loss(net(images))
        recorder.end_forward()
        loss.backward()  # type: ignore[no-untyped-call]
        recorder.counting = not fused
        return loss.detach()

    with recorder:
        steps.step(closure)  # type: ignore[arg-type]
    return StepMemory(batch, str(optimizer), **recorder.peak, saved_by_module=recorder.saved_by_module)


class MemoryRecorder(OperationRecorder):  # type: ignore[no-untyped-call]
    """Tracks the storages that are alive, their purposes, and the bytes of each purpose when their sum was largest."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.purpose: Purpose = "activations"  # of new tensors
        self.counting = True
        self.now: dict[Purpose, int] = dict.fromkeys(("weights", "gradients", "state", "activations", "workspace"), 0)
        self.peak = dict(self.now)
        self.saved_by_module: dict[str, int] = {}
        self.alive: dict[int, tuple[Purpose, str, int, Any]] = {}  # by address: purpose, module, bytes, weak reference

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Track what an operation created."""
        if self.counting:
            for x in tree_leaves(out):
                if isinstance(x, Tensor):
                    self.track(x, self.purpose)

    def track(self, x: Tensor, purpose: Purpose) -> None:
        """Count a tensor's storage until it is freed."""
        storage = x.untyped_storage()
        key, n = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def on_free(_: Any) -> None:
            last_purpose, *_rest = self.alive.pop(key)
            self.now[last_purpose] -= n

        self.alive[key] = purpose, self.running[-1], n, weakref.ref(storage, on_free)
        self.now[purpose] += n
        if sum(self.now.values()) > sum(self.peak.values()):
            self.peak = dict(self.now)

    def mark_gradient(self, parameter: Tensor) -> None:
        """Count a parameter's finished gradient, which was workspace until now, as a gradient."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self.alive:
            purpose, name, n, reference = self.alive[key]
            self.alive[key] = "gradients", name, n, reference
            self.now[purpose] -= n
            self.now["gradients"] += n

    def end_forward(self) -> None:
        """Record what the forward pass has left for the backward pass; new tensors are workspace from here on."""
        self.purpose = "workspace"
        if not self.saved_by_module:
            for purpose, name, n, _ in self.alive.values():
                if purpose == "activations":
                    self.saved_by_module[name] = self.saved_by_module.get(name, 0) + n


def _tensors_in(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves([*tree.values()]) if isinstance(x, Tensor)]


def _loss(output: Any) -> Tensor:
    """The cross-entropy of the scores, plus that of the auxiliary heads' scores."""
    scores = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
    losses = [F.cross_entropy(x.flatten(1), torch.empty_like(x.flatten(1))) for x in scores]
    return torch.stack(losses).sum()


def _is_fused(optimizer: Optimizer, groups: list[dict[str, Any]]) -> bool:
    """Whether one kernel does the whole update on the CPU, without copies; torch never fuses on the meta device, so a tiny one is built."""
    tiny = optimizer([{**group, "params": [nn.Parameter(torch.zeros(1, device="cpu"))]} for group in groups])
    return type(tiny).__module__.startswith("torch.optim") and all(group.get("fused") for group in tiny.param_groups)
