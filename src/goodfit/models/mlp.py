"""The multilayer perceptron, a fully connected net."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.core.settings import Count
from goodfit.layers import noise, norm
from goodfit.layers.activation import Relu
from goodfit.layers.init import He, initialize
from goodfit.models.blocks import NormAct, Order, linear_norm_act, named_sequential


@dataclasses.dataclass(frozen=True)
class Mlp(Model):
    """Fully connected layers on the pixels, one for each width in `hidden`.

    Helps: small images with the object in one place, such as digits; fast to train.
    Hurts: it ignores which pixels are neighbors, so it needs far more data than a conv net.
    Cost: most of its parameters are in the first layer.
    Source: CS231n, neural networks.
    """

    hidden: tuple[Count, ...] = (256,)
    act: Activation = Relu()
    norm: Norm = norm.None_()
    init: Init = He()
    drop: Noise = noise.None_()
    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        widths = (channels * math.prod(size), *self.hidden)
        norm_act = NormAct(self.norm, self.act, self.order)
        layers = {f"layer{i}": linear_norm_act(widths[i - 1], widths[i], norm_act, self.drop) for i in range(1, len(widths))}
        head = nn.Linear(widths[-1], classes)
        net = named_sequential({"flatten": nn.Flatten(), **layers, "head": head})
        initialize(net, self.init, head)
        return net
