"""What a network computes, operation by operation: it sees functions and modules alike, whatever they are called."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal["weights", "activation", "norm", "dropout", "pool", "softmax", "sum", "other"]

NAMES: dict[Kind, str] = {
    "weights": "convolution _convolution conv1d conv2d conv3d addmm mm matmul bmm linear baddbmm",
    "activation": "relu relu_ relu6 gelu silu silu_ mish mish_ tanh tanh_ sigmoid sigmoid_ hardtanh hardtanh_ hardsigmoid hardswish"
    " hardswish_ elu elu_ leaky_relu leaky_relu_ prelu _prelu_kernel rrelu_with_noise softplus clamp_min clamp clamp_ clamp_min_ maximum"
    " threshold threshold_ log_sigmoid_forward abs celu selu erf sin cos exp square pow where softshrink hardshrink glu",
    "norm": "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm cudnn_batch_norm"
    " _batch_norm_with_update _batch_norm_no_update native_layer_norm layer_norm native_group_norm group_norm rms_norm _fused_rms_norm"
    " instance_norm",
    "dropout": "bernoulli bernoulli_ native_dropout dropout feature_dropout",
    "pool": "max_pool2d max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d mean amax",
    "softmax": "_softmax softmax _log_softmax log_softmax",
    "sum": "add add_",
}
KIND_OF: dict[str, Kind] = {name: kind for kind, names in NAMES.items() for name in names.split()}
BATCH_NORMS = frozenset(name for name in NAMES["norm"].split() if "batch" in name)
BOUNDED = {"tanh": (-1.0, 1.0), "tanh_": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "sigmoid_": (0.0, 1.0), "hardtanh": (-1.0, 1.0)}
FLAT_SHARE = 0.015  # of the range of a bounded activation, at each end, that counts as flat: tanh has a slope below 0.06 there


@dataclasses.dataclass(frozen=True)
class Signal:
    """A tensor [B, ...] in numbers: its root mean square; the share of its units (channels of images, or features) that are zero for every
    image and place (`dead`); the share of numbers below zero; and how far it differs between images, in its root mean square.
    """

    rms: float
    dead: float
    negative: float
    difference: float

    @classmethod
    def measure(cls, x: Tensor) -> Signal:
        """Measure a tensor whose first dimension is the images and whose second, if there is one, the units."""
        x = x.detach().float()
        if not 0 < float(torch.linalg.vector_norm(x)) < math.inf:  # whose squares float32 does not hold
            x = x.double()
        rms = float(torch.linalg.vector_norm(x)) / math.sqrt(x.numel())
        largest = x.abs().amax([dim for dim in range(x.ndim) if dim != 1]) if x.ndim > 1 else x.abs().amax(0, keepdim=True)  # of each unit
        difference = float(torch.linalg.vector_norm(x - x.mean(0, keepdim=True))) / math.sqrt(x.numel()) / rms if rms > 0 else 0.0
        return cls(rms, float((largest == 0).float().mean()), int(torch.count_nonzero(x < 0)) / x.numel(), difference)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation: its name in ATen, its kind, the name of the parameter that is its weight, and what goes in and comes out.

    `flat` is the share of outputs at the flat ends of a bounded activation; `rate` the rate of a dropout; `training` whether a batch norm
    takes its statistics from the batch; `skips` whether a sum joins two tensors that were both computed from images.
    """

    name: str
    kind: Kind
    weight: str = ""
    entering: Signal | None = None
    leaving: Signal | None = None
    flat: float = 0.0
    rate: float = 0.0
    training: bool = False
    skips: bool = False


class OperationTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of a network within a `with` block; with `signals` also what flows, which costs a pass or two."""

    def __init__(self, model: nn.Module, signals: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.signals = signals
        self.operations: list[Operation] = []
        self._last: tuple[Tensor, int, Signal] | None = None  # what was measured last, its version and its numbers
        self._names = {_key(p): name for name, p in model.named_parameters() if p.ndim >= 2}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (kind := KIND_OF.get(name := func._schema.name.rpartition("::")[2])) is not None:
            self._record(name, kind, args, out)
        return out

    def __enter__(self) -> OperationTrace:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def of_kind(self, *kinds: Kind) -> list[Operation]:
        """The operations of some kinds, in the order in which they ran."""
        return [operation for operation in self.operations if operation.kind in kinds]

    def _record(self, name: str, kind: Kind, args: Any, out: Any) -> None:
        tensors = [x for x in args if isinstance(x, Tensor)]
        result = out[0] if isinstance(out, tuple) else out
        if not tensors or not isinstance(result, Tensor) or not result.is_floating_point():
            return
        weight = ""
        if kind == "weights":
            weight = next((self._names[_key(x)] for x in tensors if _key(x) in self._names), "")
        is_measured = self.signals and result.ndim >= 2 and kind in ("weights", "activation", "norm")
        entering = next((x for x in tensors if kind != "weights" or (_key(x) not in self._names and x.ndim >= 2)), None)
        self.operations.append(
            Operation(
                name,
                kind,
                weight,
                self._measure(entering) if is_measured and entering is not None and entering.ndim >= 2 else None,
                self._measure(result) if is_measured else None,
                _measure_flat(name, result) if is_measured else 0.0,
                _dropout_rate(name, args) if kind == "dropout" else 0.0,
                name in BATCH_NORMS and any(x is True for x in args[:8]),
                kind == "sum" and len(tensors) == 2 and tensors[0].shape == tensors[1].shape and tensors[0].ndim >= 2,
            )
        )

    def _measure(self, x: Tensor) -> Signal:
        """Measure a tensor; what leaves one operation and enters the next is measured once."""
        last = self._last
        if last is None or last[1] != x._version or last[0].data_ptr() != x.data_ptr() or last[0].shape != x.shape:
            last = self._last = (x, x._version, Signal.measure(x))
        return last[2]


def _key(x: Tensor) -> tuple[int, int]:
    """What a parameter and its views have in common."""
    return x.untyped_storage().data_ptr(), x.numel()


def _measure_flat(name: str, x: Tensor) -> float:
    """The share of the outputs of a bounded activation at its flat ends."""
    if name not in BOUNDED:
        return 0.0
    low, high = BOUNDED[name]
    margin = FLAT_SHARE * (high - low)
    return float(((x < low + margin) | (x > high - margin)).float().mean())


def _dropout_rate(name: str, args: Any) -> float:
    """The share of numbers that a dropout sets to zero; a Bernoulli draw is of those it keeps."""
    rate = next((float(x) for x in args[1:] if isinstance(x, float | int) and not isinstance(x, bool)), 0.0)
    return 1 - rate if name.startswith("bernoulli") else rate


def trace(model: nn.Module, images: Tensor, signals: bool = False) -> tuple[OperationTrace, Any]:
    """Run a network on images [B, C, H, W] as it stands, in its mode and without a gradient; returns its operations and its output."""
    operations = OperationTrace(model, signals)
    with torch.no_grad(), operations:
        output = model(images)
    return operations, output
