"""Parameters of a model: whether there are any, and which are weights, which decay, penalties and initialization act on."""

from __future__ import annotations

from torch import nn
from torch.nn import Parameter

NORM_CLASSES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization, torch's or another by its name."""
    return isinstance(module, NORM_CLASSES) or "norm" in type(module).__name__.lower()


def weight_parameters(model: nn.Module) -> dict[str, Parameter]:
    """The weights of a model by name, in the model's order: parameters of two or more dimensions that belong to no normalization."""
    of_norms = {id(p) for module in model.modules() if is_norm(module) for p in module.parameters(recurse=False)}
    return {name: p for name, p in model.named_parameters() if p.ndim >= 2 and id(p) not in of_norms}


def has_parameters(model: nn.Module) -> bool:
    """Whether a model has anything to train."""
    return next(model.parameters(), None) is not None
