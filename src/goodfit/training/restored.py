"""Trials that leave no trace: what a block does to a model, or to a whole state of training, is undone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from torch import nn

from goodfit.training.state import State


@contextlib.contextmanager
def restored_state(state: State) -> Iterator[None]:
    """Restore the model and the optimizer of a state after the block. (Not every optimizer can be copied.)"""
    optimizer_state = copy.deepcopy(state.optimizer.state_dict())
    try:
        with restored_model(state.model):
            yield
    finally:
        state.optimizer.load_state_dict(optimizer_state)


@contextlib.contextmanager
def restored_model(model: nn.Module) -> Iterator[None]:
    """Restore the weights, buffers and modes of a model after the block, and which parameters learn; gradients are gone."""
    tensors = {name: x.clone() for name, x in model.state_dict().items()}
    learns, modes = {p: p.requires_grad for p in model.parameters()}, {m: m.training for m in model.modules()}
    try:
        yield
    finally:
        model.load_state_dict(tensors)
        for parameter, flag in learns.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, mode in modes.items():
            module.training = mode
