"""Noise layers as the loop and the evaluation see them: their strength follows progress, and an evaluation may keep them at work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

TORCHS = (nn.modules.dropout._DropoutNd, nn.FractionalMaxPool2d)


def noise_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that draw noise in training mode: torch's own, and those with an attribute `noisy` that is true."""
    return [m for m in model.modules() if isinstance(m, TORCHS) or getattr(m, "noisy", False)]


def set_progress(model: nn.Module, t: float) -> None:
    """Tell progress t in 0..1 to the layers that follow it: those with a method `progress`."""
    for m in model.modules():
        if callable(follow := getattr(m, "progress", None)):
            follow(t)


@contextlib.contextmanager
def evaluating(model: nn.Module, noisy: bool = False) -> Iterator[None]:
    """The model in evaluation mode; `noisy` keeps its noise layers at work, while batch norm keeps to its running statistics."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    for m in noise_layers(model) if noisy else ():
        m.training = True
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
