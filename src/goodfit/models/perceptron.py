"""The perceptron: one unit per class."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

from goodfit.core.contracts import Activation, Init, Model
from goodfit.layers.activation import Sigmoid, width_of
from goodfit.layers.init import He, initialize
from goodfit.models.blocks import named_sequential


@dataclasses.dataclass(frozen=True)
class Perceptron(Model):
    """y = f(w x + b) on the pixels, one unit per class; f is a sigmoid, where the perceptron of 1958 had a step.

    Its outputs are the scores themselves, so the loss that fits it is mse: 1 for the image's class, 0 for the others. It separates what a
    linear classifier separates.

    Helps: to see where neural nets began: it learns AND and OR.
    Hurts: anything that a line does not separate, such as XOR; softmax loss on outputs that stay between 0 and 1.
    Cost: pixels times classes.
    Source: Rosenblatt 1958; Minsky & Papert 1969; CS231n, neural networks.
    """

    act: Activation = Sigmoid()
    init: Init = He()

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        head = nn.Linear(channels * math.prod(size), classes * width_of(self.act))
        net = named_sequential({"flatten": nn.Flatten(), "units": named_sequential({"linear": head, "act": self.act()})})
        initialize(net, self.init, head)
        return net
