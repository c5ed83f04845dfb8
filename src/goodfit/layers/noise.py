"""Noise layers: random in training, their average in evaluation; they draw from torch's default generator."""

from __future__ import annotations

import dataclasses

from torch import nn

from goodfit.core.contracts import Noise
from goodfit.core.settings import Share


@dataclasses.dataclass(frozen=True)
class None_(Noise):  # noqa: N801  spelled `none`
    """No noise.

    Helps: when the net does not overfit, and for optimizers that need a deterministic loss.
    Hurts: large nets on little data overfit.
    Cost: none.
    Source: CS231n, regularization.
    """

    def __call__(self) -> nn.Module:
        return nn.Identity()


@dataclasses.dataclass(frozen=True)
class Dropout(Noise):
    """Sets each number to zero with probability p and divides the others by 1 - p (inverted dropout: nothing to do in evaluation).

    Helps: wide fully connected layers on little data.
    Hurts: slows training; between conv layers with batch norm it often costs accuracy.
    Cost: one random number per unit.
    Source: Srivastava et al. 2014; CS231n, dropout (in its code p is the share kept).
    """

    p: Share = 0.5

    def __call__(self) -> nn.Module:
        return nn.Dropout(self.p)
