"""Penalties on the size of the weights, added to the mean loss."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Penalty
from goodfit.core.settings import NonNegative
from goodfit.core.weights import weights


def _squares(model: nn.Module) -> Tensor:
    return torch.stack([w.square().sum() for w in weights(model).values()]).sum()


def _sizes(model: nn.Module) -> Tensor:
    return torch.stack([w.abs().sum() for w in weights(model).values()]).sum()


@dataclasses.dataclass(frozen=True)
class L2(Penalty):
    """strength times the sum of the squared weights; its gradient is 2 strength W.

    Helps: against overfitting; spreads the weight over many inputs. For plain sgd the same as weight_decay = 2 strength.
    Hurts: together with weight decay it counts twice; adaptive optimizers rescale it (adamw decays instead).
    Cost: one pass over the weights.
    Source: CS231n, regularization (without the factor 1/2).
    """

    strength: NonNegative = 2.5e-4

    def __call__(self, model: nn.Module) -> Tensor:
        return self.strength * _squares(model)


@dataclasses.dataclass(frozen=True)
class L1(Penalty):
    """strength times the sum of the absolute weights.

    Helps: drives weights toward zero, so that few inputs count.
    Hurts: usually behind L2 in accuracy.
    Cost: one pass over the weights.
    Source: CS231n, regularization.
    """

    strength: NonNegative = 1e-5

    def __call__(self, model: nn.Module) -> Tensor:
        return self.strength * _sizes(model)


@dataclasses.dataclass(frozen=True)
class ElasticNet(Penalty):
    """strength times the sum of beta W^2 + |W|: L1 and L2 together.

    Helps: sparse weights among correlated inputs, where L1 alone picks one at random.
    Hurts: two numbers to choose.
    Cost: two passes over the weights.
    Source: Zou & Hastie 2005; CS231n, regularization.
    """

    strength: NonNegative = 1e-5
    beta: NonNegative = 1.0

    def __call__(self, model: nn.Module) -> Tensor:
        return self.strength * (self.beta * _squares(model) + _sizes(model))
