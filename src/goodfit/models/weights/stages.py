"""The stages of any model, first to last, and its head: the units of freezing, probing, learning rates and accounts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn

from goodfit.core.errors import UsageError


class Stage(NamedTuple):
    """A stage: its name, and the dotted names of its modules; what the last of them puts out is what the stage puts out."""

    name: str
    modules: tuple[str, ...]


def find_head(module: nn.Module) -> tuple[str, nn.Linear]:
    """The head by its dotted name: the last linear layer.

    Raises:
        UsageError: the model has no linear layer.
    """
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    if not found:
        raise UsageError(f"Expected {type(module).__name__} to end in a linear layer, which would be its head, found none.")
    return found[-1]


def find_stages(module: nn.Module) -> list[Stage]:
    """The stages of a model, first to last, without the head and without what learns nothing.

    A model may say them itself by an attribute `stage_groups`, {name: names of modules}, in which names that it lacks are passed over.
    Otherwise each child is a stage of its own name; one that holds the head among others is looked through.
    """
    return list(_stages_below(module, find_head(module)[1], ""))


def _stages_below(module: nn.Module, last: nn.Linear, prefix: str) -> Iterator[Stage]:
    groups = getattr(module, "stage_groups", None)
    if isinstance(groups, Mapping):
        there = {name for name, _ in module.named_modules()}
        for name, names in groups.items():
            members = [member for member in names if member in there]
            if any(_has_parameters(module.get_submodule(member)) for member in members):
                yield Stage(f"{prefix}{name}", tuple(f"{prefix}{member}" for member in members))
        return
    for name, child in module.named_children():
        if any(m is last for m in child.modules()):
            if child is not last:
                yield from _stages_below(child, last, f"{prefix}{name}.")
        elif _has_parameters(child):
            yield Stage(f"{prefix}{name}", (f"{prefix}{name}",))


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
