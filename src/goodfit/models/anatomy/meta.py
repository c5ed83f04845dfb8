"""A model without numbers, on which a pass costs next to nothing, and what watches every operation of that pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

OUTSIDE = "(outside)"  # no module's name: where images come from and losses are taken


def to_meta(module: nn.Module) -> nn.Module:
    """A copy on the meta device: shapes, types and hooks of a module without its numbers, which are not copied on the way either."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(x): _tensor_to_meta(x) for x in tensors}
    return copy.deepcopy(module, memo)


def _tensor_to_meta(x: Tensor) -> Tensor:
    bare = torch.empty_like(x, device="meta", requires_grad=False)
    return nn.Parameter(bare, x.requires_grad) if isinstance(x, nn.Parameter) else bare


class OperationRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of a ghost, and which module it belongs to: the innermost one whose call it is part of.

    Tensors that a module makes elsewhere, or keeps without telling torch, are taken to the meta device on the way.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = [OUTSIDE]  # names of the modules that are running, the innermost last
        for name, m in module.named_modules():
            m.register_forward_pre_hook(self._entering(name))
            m.register_forward_hook(self._leaving(name))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if len({x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}) > 1:
            args, kwargs = tree_map_only(Tensor, lambda x: x if x.is_meta else torch.empty_like(x, device="meta"), (args, kwargs))
        out = func(*args, **kwargs)
        self.note(func, args, kwargs, out)
        return out

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Look at an operation that has been done."""

    def enter(self, name: str, module: nn.Module) -> None:
        """Look at a module that is about to run."""

    def leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Look at a module that has run."""

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            self.calls.append(name)
            self.enter(name, module)

        return hook

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.leave(name, module, inputs, output)
            self.calls.pop()

        return hook
