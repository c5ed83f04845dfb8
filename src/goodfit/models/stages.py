"""The stages of any model, first to last, and its head: the units of freezing, probing, learning rates and accounts."""

from __future__ import annotations

from torch import nn

from goodfit.core.errors import UsageError


def head(module: nn.Module) -> tuple[str, nn.Linear]:
    """The head by its dotted name: the last linear layer.

    Raises:
        UsageError: the model has no linear layer.
    """
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    if not found:
        raise UsageError(f"Expected {type(module).__name__} to end in a linear layer, which would be its head, found none.")
    return found[-1]


def stages(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a model by their dotted names, first to last, without the head and without those that learn nothing.

    A model that only wraps another in one child is looked through.
    """
    last = head(module)[1]
    prefix = ""
    while len(children := list(module.named_children())) == 1 and children[0][1] is not last:
        prefix, module = f"{prefix}{children[0][0]}.", children[0][1]
    return [(f"{prefix}{name}", child) for name, child in children if child is not last and any(True for _ in child.parameters())]
