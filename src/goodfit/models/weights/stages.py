"""The stages of any model, first to last, and its head: the units of freezing, probing, learning rates and cost accounts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn

from goodfit.core.errors import UsageError


class Stage(NamedTuple):
    """A stage: its name, and the dotted names of its modules; the output of the last module is the output of the stage."""

    name: str
    modules: tuple[str, ...]


def find_head(module: nn.Module) -> tuple[str, nn.Linear]:
    """Find the head, the last linear layer, with its dotted name.

    Raises:
        UsageError: the model has no linear layer.
    """
    linear_layers = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    if not linear_layers:
        raise UsageError(f"Expected {type(module).__name__} to end in a linear layer, its head; it has no linear layer.")
    return linear_layers[-1]


def find_stages(module: nn.Module) -> list[Stage]:
    """Find the stages of a model, first to last, without the head and without modules that have no parameters.

    A model may declare them by an attribute `stage_groups`, {name: names of modules}, in which names of missing modules are ignored.
    Otherwise each child is a stage with its own name; the children of a child that contains the head are stages themselves.
    """
    return list(_stages_below(module, find_head(module)[1], ""))


def _stages_below(module: nn.Module, head: nn.Linear, prefix: str) -> Iterator[Stage]:
    groups = getattr(module, "stage_groups", None)
    if isinstance(groups, Mapping):
        existing = {name for name, _ in module.named_modules()}
        for name, names in groups.items():
            members = [member for member in names if member in existing]
            if any(_has_parameters(module.get_submodule(member)) for member in members):
                yield Stage(f"{prefix}{name}", tuple(f"{prefix}{member}" for member in members))
        return
    for name, child in module.named_children():
        if any(m is head for m in child.modules()):
            if child is not head:
                yield from _stages_below(child, head, f"{prefix}{name}.")
        elif _has_parameters(child):
            yield Stage(f"{prefix}{name}", (f"{prefix}{name}",))


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
