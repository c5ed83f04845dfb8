"""Initialization: how the weights of linear and conv layers start."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Init
from goodfit.core.settings import Positive

HEAD_SCORE_SCALE = 0.1  # size of the initial scores for inputs of size 1: near zero, so that the first loss is near ln K
WeightLayer = nn.Linear | nn.modules.conv._ConvNd


def weight_layers(module: nn.Module) -> Iterator[WeightLayer]:
    """Yield the linear and conv layers, in the module's order."""
    yield from (m for m in module.modules() if isinstance(m, WeightLayer))


def count_fans(layer: WeightLayer) -> tuple[int, int]:
    """Return (inputs per output, outputs per input) of a layer, taking a conv's kernel and groups into account."""
    kernel_area = math.prod(layer.weight.shape[2:])
    return layer.weight.shape[1] * kernel_area, layer.weight.shape[0] * kernel_area // getattr(layer, "groups", 1)


def calibrate_init(init: DataInit, model: nn.Module, images: Tensor) -> None:
    """Run the data-dependent part of an initialization such as lsuv once, on normalized training images [B, C, H, W].

    The model is in evaluation mode meanwhile, without noise or batch statistics; its buffers do not change.
    """
    training = model.training
    with torch.no_grad():
        init.calibrate(model.eval(), images)
    model.train(training)


def fill_normal(module: nn.Module, fan: Literal["in", "out", "average"], gain: float) -> None:
    """Fill every layer with zero-mean normal weights of variance gain / fan, and zero biases."""
    for layer in zero_biases(module):
        n_in, n_out = count_fans(layer)
        n = {"in": n_in, "out": n_out, "average": (n_in + n_out) / 2}[fan]
        nn.init.normal_(layer.weight, 0.0, math.sqrt(gain / n))


def initialize(model: nn.Module, init: Init, head: nn.Linear) -> None:
    """Initialize a whole model: every layer by `init`; then scale the head down if its scores would be larger than HEAD_SCORE_SCALE."""
    init(model)
    with torch.no_grad():
        rms = head.weight.square().mean().sqrt()
        head.weight.mul_((HEAD_SCORE_SCALE / math.sqrt(head.in_features) / rms.clamp(min=1e-30)).clamp(max=1.0))
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def zero_biases(module: nn.Module) -> Iterator[WeightLayer]:
    """Yield the linear and conv layers after setting their biases to zero."""
    for layer in weight_layers(module):
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        yield layer


class DataInit(Init):
    """An initialization that also uses training images, once the model is complete."""

    @abstractmethod
    def calibrate(self, model: nn.Module, images: Tensor) -> None:
        """Adapt the weights to normalized training images [B, C, H, W]."""


@dataclasses.dataclass(frozen=True)
class None_(Init):  # noqa: N801  spelled `none`
    """Leaves the layers as torch initializes them: uniform with variance 1 / (3 n_in), biases too.

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
        fill_normal(module, self.fan, 2.0)


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
        fill_normal(module, self.fan, 1.0)


@dataclasses.dataclass(frozen=True)
class Gaussian(Init):
    """Normal weights of one standard deviation, whatever the layer's width.

    Helps: to see what scale does: 0.01 lets the signal of a deep net die out, 1 lets it explode or saturate.
    Hurts: deep nets, for any std: what keeps a layer's signal depends on its width.
    Cost: none.
    Source: CS231n, weight initialization (small random numbers).
    """

    std: Positive = 0.01

    def __call__(self, module: nn.Module) -> None:
        for layer in zero_biases(module):
            nn.init.normal_(layer.weight, 0.0, self.std)


@dataclasses.dataclass(frozen=True)
class Constant(Init):
    """Every weight the same number.

    Helps: to see what symmetry does: all units of a layer compute the same, and their gradients keep it so.
    Hurts: everything else.
    Cost: none.
    Source: CS231n, weight initialization.
    """

    value: float = 0.01

    def __call__(self, module: nn.Module) -> None:
        for layer in zero_biases(module):
            nn.init.constant_(layer.weight, self.value)


@dataclasses.dataclass(frozen=True)
class Zero(Init):
    """Every weight zero.

    Helps: the linear classifier, whose loss is convex; in deeper nets to see that only the last biases learn.
    Hurts: every net with hidden layers.
    Cost: none.
    Source: CS231n, weight initialization.
    """

    def __call__(self, module: nn.Module) -> None:
        for layer in zero_biases(module):
            nn.init.zeros_(layer.weight)


@dataclasses.dataclass(frozen=True)
class Orthogonal(Init):
    """Weights with orthogonal rows (or columns, whichever are fewer), of length `gain`.

    Helps: keeps lengths and angles through linear layers of any depth; deep nets without normalization.
    Hurts: relu nets with gain 1: they halve the variance at every layer, as with xavier; 1.414 keeps it.
    Cost: a QR decomposition per layer, once.
    Source: Saxe et al. 2013.
    """

    gain: Positive = 1.0

    def __call__(self, module: nn.Module) -> None:
        for layer in zero_biases(module):
            nn.init.orthogonal_(layer.weight, self.gain)


@dataclasses.dataclass(frozen=True)
class Dirac(Init):
    """Makes layers pass their input channels through unchanged; outputs beyond the number of inputs start at zero.

    Helps: very deep plain nets; to look at what a net does before it learns.
    Hurts: layers with more outputs than inputs: the extra ones start slowly, and all alike.
    Cost: none.
    Source: Zagoruyko & Komodakis 2017 (DiracNets); torch.nn.init.dirac_.
    """

    def __call__(self, module: nn.Module) -> None:
        for layer in zero_biases(module):
            if isinstance(layer, nn.Linear):
                nn.init.eye_(layer.weight)
            else:
                nn.init.dirac_(layer.weight, layer.groups)
