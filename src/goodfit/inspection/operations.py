"""What a network computes, operation by operation: it sees functions and modules alike, whatever they are called."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from goodfit.inspection.flow import Flow, FlowTracker, tensors_in

Kind = Literal["weights", "activation", "norm", "dropout", "pool", "softmax", "sum", "join", "other"]

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
    "join": "cat",
}
KIND_OF: dict[str, Kind] = {name: kind for kind, names in NAMES.items() for name in names.split()}
BATCH_NORMS = frozenset(name for name in NAMES["norm"].split() if "batch" in name)
BOUNDED = {"tanh": (-1.0, 1.0), "tanh_": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "sigmoid_": (0.0, 1.0)}
FLAT_SHARE = 0.015  # of the range of a bounded activation, at each end, that counts as flat: tanh has a slope below 0.06 there


@dataclasses.dataclass(frozen=True)
class Signal:
    """A tensor [B, ...] in numbers: its root mean square; the share of its units (channels of images, or features) that are zero for every
    image and place (`dead`); the how far it differs between images, in its root mean square; the share of
    numbers that are zero; how many units it has, and how many numbers of an image each of them.
    """

    rms: float
    dead: float
    difference: float
    zeros: float = 0.0
    units: int = 1
    places: int = 1

    @classmethod
    def measure(cls, x: Tensor) -> Signal:
        """Measure a tensor whose first dimension is the images and whose second, if there is one, the units."""
        x = x.detach().float()
        if not 0 < float(torch.linalg.vector_norm(x)) < math.inf:  # whose squares float32 does not hold
            x = x.double()
        rms = float(torch.linalg.vector_norm(x)) / math.sqrt(x.numel())
        largest = x.abs().amax([dim for dim in range(x.ndim) if dim != 1]) if x.ndim > 1 else x.abs().amax(0, keepdim=True)  # of each unit
        difference = float(torch.linalg.vector_norm(x - x.mean(0, keepdim=True))) / math.sqrt(x.numel()) / rms if rms > 0 else 0.0
        dead, n = float((largest == 0).float().mean()), x.numel()
        zeros, places = int(torch.count_nonzero(x == 0)) / n, n // max(len(x) * len(largest), 1)
        return cls(rms, dead, difference, zeros, len(largest), places)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation: its name in ATen, its kind, the name of the parameter that is its weight, and what goes in and comes out.

    `flat` is the share of outputs at the flat ends of a bounded activation; `rate` the rate of a dropout; `training` whether a batch norm
    takes its statistics from the batch; `skips` whether a sum joins two tensors that were both computed from images. `flow` says how many
    weights and nonlinearities lie on the way from the images to what comes out; None for what does not come from them.
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
    flow: Flow | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether this is a sigmoid or hyperbolic tangent."""
        return self.name in BOUNDED


class OperationTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of a network within a `with` block; with `signals` also what flows, which costs a pass or two."""

    def __init__(self, model: nn.Module, signals: bool = False, images: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.signals = signals
        self.operations: list[Operation] = []
        self._last: tuple[Tensor, int, Signal] | None = None  # what was measured last, its version and its numbers
        self._tracker = FlowTracker(model, images)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        kind = KIND_OF.get(name, "other")
        flow = self._tracker.follow(name, kind, args, out)
        if kind != "other":
            self._record(name, kind, args, out, flow)
        return out

    def close(self) -> None:
        """Let go of the tensors that were followed."""
        self._tracker.clear()

    def __enter__(self) -> OperationTrace:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def of_kind(self, *kinds: Kind) -> list[Operation]:
        """The operations of some kinds, in the order in which they ran."""
        return [operation for operation in self.operations if operation.kind in kinds]

    def _record(self, name: str, kind: Kind, args: Any, out: Any, flow: Flow | None) -> None:
        tensors = list(tensors_in(args))
        result = out[0] if isinstance(out, tuple) else out
        if not tensors or not isinstance(result, Tensor) or not result.is_floating_point():
            return
        flows = [self._tracker.of(x) for x in tensors]
        weight = next((f.weight for f in flows if f and f.weight), "") if kind == "weights" else ""
        is_measured = self.signals and result.ndim >= 2 and kind in ("weights", "activation", "norm")
        entering = next(
            (x for x, f in zip(tensors, flows, strict=True) if kind != "weights" or (x.ndim >= 2 and not (f and f.weight))), None
        )
        from_images = sum(f is not None and not f.weight for f in flows)
        self.operations.append(
            Operation(
                name,
                kind,
                weight,
                self._measure(entering) if is_measured and entering is not None and entering.ndim >= 2 else None,
                self._measure(result) if is_measured else None,
                _measure_flat(name, result) if is_measured else 0.0,
                _dropout_rate(name, args, result) if kind == "dropout" else 0.0,
                takes_statistics(name, args),
                kind == "sum" and len(tensors) == 2 and tensors[0].shape == tensors[1].shape and tensors[0].ndim >= 2 and from_images != 1,
                flow if flow and not flow.weight else None,
            )
        )

    def _measure(self, x: Tensor) -> Signal:
        """Measure a tensor; what leaves one operation and enters the next is measured once."""
        last = self._last
        if last is None or last[1] != x._version or last[0].data_ptr() != x.data_ptr() or last[0].shape != x.shape:
            last = self._last = (x, x._version, Signal.measure(x))
        return last[2]


def takes_statistics(name: str, args: Any) -> bool:
    """Whether an operation is a batch norm that takes its statistics from the batch."""
    return name in BATCH_NORMS and any(x is True for x in args[:8])


def _measure_flat(name: str, x: Tensor) -> float:
    """The share of the outputs of a bounded activation at its flat ends."""
    if name not in BOUNDED:
        return 0.0
    low, high = BOUNDED[name]
    margin = FLAT_SHARE * (high - low)
    return float(((x < low + margin) | (x > high - margin)).float().mean())


def _dropout_rate(name: str, args: Any, result: Tensor) -> float:
    """The share of numbers that a dropout sets to zero; a Bernoulli draw is of those it keeps."""
    rates = [float(x) for x in args[1:] if isinstance(x, float | int) and not isinstance(x, bool)]
    if not name.startswith("bernoulli"):
        return rates[0] if rates else 0.0
    return 1 - (rates[0] if rates else float(result.float().mean()))


def trace(model: nn.Module, images: Tensor, signals: bool = False) -> tuple[OperationTrace, Any]:
    """Run a network on images [B, C, H, W] as it stands, in its mode and without a gradient; returns its operations and its output."""
    operations = OperationTrace(model, signals, images)
    with torch.no_grad(), operations:
        output = model(images)
    operations.close()
    return operations, output
