"""A copy of a model on the meta device, where a pass costs next to nothing, and a recorder of every operation of that pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

OUTSIDE = "(outside)"  # stands for a module's name where none is running: images come from there, and losses are computed there


def to_meta(module: nn.Module) -> nn.Module:
    """Copy a module to the meta device: its shapes, types and hooks, without ever copying its values."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(x): _tensor_to_meta(x) for x in tensors}
    return copy.deepcopy(module, memo)


def _tensor_to_meta(x: Tensor) -> Tensor:
    empty = torch.empty_like(x, device="meta", requires_grad=False)
    return nn.Parameter(empty, x.requires_grad) if isinstance(x, nn.Parameter) else empty


class OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of a model on the meta device, and the module it belongs to: the innermost one that is running.

    Tensors that a module creates on another device, or keeps without registering them, are moved to the meta device.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[str] = [OUTSIDE]  # names of modules, the innermost last
        for name, m in module.named_modules():
            m.register_forward_pre_hook(self._enter_hook(name))
            m.register_forward_hook(self._exit_hook(name))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if len({x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}) > 1:
            args, kwargs = tree_map_only(Tensor, lambda x: x if x.is_meta else torch.empty_like(x, device="meta"), (args, kwargs))
        out = func(*args, **kwargs)
        self.record(func, args, kwargs, out)
        return out

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Called after each operation."""

    def on_enter(self, name: str, module: nn.Module) -> None:
        """Called before a module runs."""

    def on_exit(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Called after a module has run."""

    def _enter_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            self.running.append(name)
            self.on_enter(name, module)

        return hook

    def _exit_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.on_exit(name, module, inputs, output)
            self.running.pop()

        return hook
