"""Rectified activations that end at a bound."""

from __future__ import annotations

import dataclasses

from torch import nn

from goodfit.core.contracts import Activation


@dataclasses.dataclass(frozen=True)
class Relu6(Activation):
    """min(max(0, x), 6): a relu that stops at 6.

    Helps: nets that will run with few bits a number, such as mobilenet_v2, whose published weights expect it.
    Hurts: saturates above, where the gradient is zero.
    Cost: as relu.
    Source: Krizhevsky 2010 (convolutional deep belief networks); Sandler et al. 2018.
    """

    def __call__(self) -> nn.Module:
        return nn.ReLU6()
