"""Cutting a network above its frozen stages: their output is computed once, and what lies above it runs alone."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from goodfit.models.branches import NetWithAuxHeads
from goodfit.models.weights.stages import find_head


class _ReachedCut(Exception):
    """Ends a forward pass at the cut; carries the features."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place in a network: after the module `place`, or before the head where that is it; `lower` are the modules that end below it."""

    place: str
    lower: frozenset[str]

    def features(self, model: nn.Module, images: Tensor) -> Tensor:
        """The features at the cut for images as the model takes them; what lies above is not computed."""
        try:
            with _stop_at(model, self.place):
                model(images)
        except _ReachedCut as reached:
            return reached.features
        raise RuntimeError(f"{self.place} was not reached")

    def upper(self, model: nn.Module) -> nn.Module:
        """The network above the cut, which takes features: its parameters, modules and their modes are those of the model itself."""
        return _replace_lower(model, "", self.lower)


@contextlib.contextmanager
def _stop_at(model: nn.Module, place: str) -> Iterator[None]:
    """End forward passes within the block at a place, by raising _ReachedCut."""

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        raise _ReachedCut(output)

    def before(module: nn.Module, inputs: Any) -> None:
        raise _ReachedCut(inputs[0])

    module = model.get_submodule(place)
    is_head = module is find_head(model)[1]
    handle = module.register_forward_pre_hook(before) if is_head else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _replace_lower(module: nn.Module, name: str, lower: frozenset[str]) -> nn.Module:
    """A module with those below the cut replaced by ones that do nothing; modules that stay whole are shared."""
    if name in lower:
        return nn.Identity()
    prefix = f"{name}." if name else ""
    if not any(other.startswith(prefix) for other in lower):
        return module
    clone = copy.copy(module)
    clone._modules = {
        key: _replace_lower(child, prefix + key, lower) if child is not None else None for key, child in module._modules.items()
    }
    return clone


@torch.no_grad()
def find_cut(model: nn.Module, place: str, images: Tensor) -> Cut | None:
    """The cut of a network at a place, or None where what lies above does not compute the model's outputs from the features alone.

    That is tried on some `images`, so that shortcuts around the place, or steps between modules, are never lost.
    """
    if isinstance(model, NetWithAuxHeads):  # its extra heads take features from below
        return None
    try:
        cut = Cut(place, _modules_below(model, place, images))
        features = cut.features(model, images)
        expected, found = model(images), cut.upper(model)(features)
    except Exception:  # whatever a network of the user raises where what runs above the cut needs more than the features
        return None
    same = isinstance(features, Tensor) and isinstance(expected, Tensor) and found.shape == expected.shape
    return cut if same and torch.allclose(found, expected, rtol=1e-4, atol=1e-5) else None


def _modules_below(model: nn.Module, place: str, images: Tensor) -> frozenset[str]:
    """The modules that have run to their end when a forward pass reaches the place, and do not run again above it."""
    events: list[str] = []
    head = find_head(model)[0]
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: events.append(name))
        for name, module in model.named_modules()
    ]
    if place == head:
        handles.append(model.get_submodule(head).register_forward_pre_hook(lambda module, inputs: events.append("")))
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    ends_at = events.index("") if place == head else events.index(place) + 1
    above = set(events[ends_at:])
    return frozenset(name for name in events[:ends_at] if name not in above)
