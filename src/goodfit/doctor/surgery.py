"""Change what a network computes without touching it: its functions are replaced as they are called, for modules and functions alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Structure = Literal["own", "relu", "bent", "centered", "skips", "group_norm"]

WEIGHTS = frozenset(("conv1d", "conv2d", "linear", "matmul", "mm", "__matmul__", "addmm"))
ACTIVATION_NAMES = (
    "sigmoid sigmoid_ tanh tanh_ relu relu_ relu6 hardtanh hardtanh_ leaky_relu elu gelu silu softplus hardsigmoid softsign logsigmoid"
)
DROPOUT_NAMES = (
    "dropout dropout_ dropout1d dropout2d dropout3d feature_dropout feature_dropout_ alpha_dropout feature_alpha_dropout native_dropout"
)

ACTIVATIONS = frozenset(ACTIVATION_NAMES.split())
DROPOUTS = frozenset(DROPOUT_NAMES.split())
MIN_GROUP = 4  # units that share their statistics when group norm takes the place of batch norm


class Surgery(TorchFunctionMode):
    """Within a `with` block, torch's functions do what a changed network would do; gradients and all.

    - "relu": every activation is ReLU. "centered": what enters an activation has its mean over images and places taken away.
    - "bent": what enters a weight goes through ReLU first, but for the images.
    - "skips": a weight adds its input to its output where their shapes agree.
    - "group_norm": batch norm takes its statistics from each image, by groups of channels.
    """

    def __init__(self, structure: Structure, without_dropout: bool) -> None:
        super().__init__()
        self.structure, self.without_dropout = structure, without_dropout
        self.weights_passed = 0  # since the network was called

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.without_dropout and name in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if self.structure == "relu" and name in ACTIVATIONS and args:
            return torch.relu(args[0])
        if self.structure == "centered" and name in ACTIVATIONS and args and args[0].ndim > 1:
            x = args[0]
            return func(x - x.mean([d for d in range(x.ndim) if d != 1], keepdim=True), *args[1:], **kwargs)
        if self.structure == "group_norm" and func is F.batch_norm:
            return norm_by_groups(args[0], kwargs.get("weight"), kwargs.get("bias"))
        if name not in WEIGHTS or not args or not isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        self.weights_passed += 1
        if self.structure == "bent" and self.weights_passed > 1:
            args = (torch.relu(args[0]), *args[1:])
        out = func(*args, **kwargs)
        return out + args[0] if self.structure == "skips" and out.shape == args[0].shape else out


@contextlib.contextmanager
def operated(model: nn.Module, structure: Structure, without_dropout: bool) -> Iterator[None]:
    """Let a network compute otherwise within the block; without dropout, modules with no statistics of their own are in evaluation mode."""
    if structure == "own" and not without_dropout:
        yield
        return
    surgery = Surgery(structure, without_dropout)

    def begin(root: nn.Module, _: Any) -> None:
        surgery.weights_passed = 0
        for module in root.modules() if without_dropout else ():
            module.training = module.training and any(True for _ in module.buffers(recurse=False))

    hook = model.register_forward_pre_hook(begin)
    try:
        with surgery:
            yield
    finally:
        hook.remove()


def norm_by_groups(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Normalize x [B, C, ...] within each image by up to eight groups of channels."""
    channels = x.shape[1]
    groups = next(g for g in range(max(min(channels // MIN_GROUP, 8), 1), 0, -1) if channels % g == 0)
    return F.group_norm(x, groups, weight, bias)
