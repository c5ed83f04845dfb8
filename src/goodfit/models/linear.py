"""The linear classifier."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

from goodfit.core.contracts import Init, Model
from goodfit.layers.init import He, initialize
from goodfit.models.blocks import named_sequential


@dataclasses.dataclass(frozen=True)
class Linear(Model):
    """One linear layer on the pixels: a template per class.

    Helps: as a baseline that every report should beat; trains in seconds; its weights can be looked at.
    Hurts: one template per class can not follow shifts, poses or backgrounds.
    Cost: pixels times classes.
    Source: CS231n, linear classification.
    """

    init: Init = He()

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        head = nn.Linear(channels * math.prod(size), classes)
        net = named_sequential({"flatten": nn.Flatten(), "head": head})
        initialize(net, self.init, head)
        return net
