"""Initialization: how the weights of linear and conv layers start."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from goodfit.core.contracts import Init

HEAD = 0.1  # how large the first scores are for inputs of size 1: near zero, so that the first loss is near ln K
Layer = nn.Linear | nn.modules.conv._ConvNd


def layers(module: nn.Module) -> Iterator[Layer]:
    """The linear and conv layers, in the module's order."""
    yield from (m for m in module.modules() if isinstance(m, Layer))


def fans(layer: Layer) -> tuple[int, int]:
    """(inputs per output, outputs per input) of a layer, a conv's kernel counted."""
    field = math.prod(layer.weight.shape[2:])
    return layer.weight.shape[1] * field, layer.weight.shape[0] * field


def normal(module: nn.Module, fan: Literal["in", "out", "average"], gain: float) -> None:
    """Fill every layer with zero-mean normal weights of variance gain / fan, biases with zero."""
    for layer in layers(module):
        n_in, n_out = fans(layer)
        n = {"in": n_in, "out": n_out, "average": (n_in + n_out) / 2}[fan]
        nn.init.normal_(layer.weight, 0.0, math.sqrt(gain / n))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def start(model: nn.Module, init: Init, head: nn.Linear) -> None:
    """Initialize a whole model: every layer by `init`, then the head made small where it is not."""
    init(model)
    with torch.no_grad():
        size = head.weight.square().mean().sqrt()
        head.weight.mul_((HEAD / math.sqrt(head.in_features) / size.clamp(min=1e-30)).clamp(max=1.0))
    if head.bias is not None:
        nn.init.zeros_(head.bias)


@dataclasses.dataclass(frozen=True)
class None_(Init):  # noqa: N801  spelled `none`
    """Leaves the layers as torch made them: uniform with variance 1 / (3 n_in), biases too.

    Helps: to compare with plain torch code.
    Hurts: signals shrink in deep nets without normalization.
    Cost: none.
    Source: torch.nn.Linear, torch.nn.Conv2d.
    """

    def __call__(self, module: nn.Module) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class He(Init):
    """Normal weights of variance 2 / n, for activations that pass half of their input; n counts inputs ("in") or outputs ("out").

    Helps: keeps the size of activations ("in") or gradients ("out") through relu nets of any depth.
    Hurts: too large for tanh and sigmoid.
    Cost: none.
    Source: He et al. 2015; CS231n, weight initialization.
    """

    fan: Literal["in", "out"] = "in"

    def __call__(self, module: nn.Module) -> None:
        normal(module, self.fan, 2.0)


@dataclasses.dataclass(frozen=True)
class Xavier(Init):
    """Normal weights of variance 1 / n; n counts inputs ("in"), outputs ("out") or their mean ("average").

    Helps: keeps the size of signals through linear, tanh and sigmoid layers.
    Hurts: relu nets: the variance halves at every layer.
    Cost: none.
    Source: Glorot & Bengio 2010; CS231n, weight initialization.
    """

    fan: Literal["in", "out", "average"] = "average"

    def __call__(self, module: nn.Module) -> None:
        normal(module, self.fan, 1.0)
