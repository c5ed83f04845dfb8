"""Penalties on the size of the weights, added to the mean loss."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Penalty
from goodfit.core.errors import UsageError
from goodfit.core.parameters import weight_parameters
from goodfit.core.settings import NonNegative
from goodfit.core.words import list_some

Layers = str | tuple[str, ...]  # starts of the names of weights, "head" or ("stem", "stage1"); none given: all


def chosen(model: nn.Module, layers: Layers = ()) -> list[Tensor]:
    """The weights of a model that belong to these layers (or to parts of them): never biases, never norms.

    Raises:
        UsageError: a layer has no weights; the sentence lists those that have.
    """
    wanted = (layers,) if isinstance(layers, str) else layers
    named = weight_parameters(model)
    for layer in wanted:
        if not any(_in(name, layer) for name in named):
            raise UsageError(
                f'Expected the penalty\'s layers to have weights, found none in "{layer}". There is: {list_some(list(named), 12)}.'
            )
    return [w for name, w in named.items() if not wanted or any(_in(name, layer) for layer in wanted)]


def _in(name: str, layer: str) -> bool:
    return f"{name}.".startswith(f"{layer}.")


def _squares(found: list[Tensor]) -> Tensor:
    return torch.stack([w.square().sum() for w in found]).sum()


def _sizes(found: list[Tensor]) -> Tensor:
    return torch.stack([w.abs().sum() for w in found]).sum()


@dataclasses.dataclass(frozen=True)
class L2(Penalty):
    """strength times the sum of the squared weights, of all layers or of those named; its gradient is 2 strength W.

    Helps: against overfitting; spreads the weight over many inputs. For plain sgd the same as weight_decay = 2 strength.
    Hurts: together with weight decay it counts twice; adaptive optimizers rescale it (adamw decays instead).
    Cost: one pass over the weights.
    Source: CS231n, regularization (without the factor 1/2).
    """

    strength: NonNegative = 2.5e-4
    layers: Layers = ()

    def __call__(self, model: nn.Module) -> Tensor:
        return self.strength * _squares(chosen(model, self.layers))


@dataclasses.dataclass(frozen=True)
class L1(Penalty):
    """strength times the sum of the absolute weights, of all layers or of those named.

    Helps: drives weights toward zero, so that few inputs count.
    Hurts: usually behind L2 in accuracy.
    Cost: one pass over the weights.
    Source: CS231n, regularization.
    """

    strength: NonNegative = 1e-5
    layers: Layers = ()

    def __call__(self, model: nn.Module) -> Tensor:
        return self.strength * _sizes(chosen(model, self.layers))


@dataclasses.dataclass(frozen=True)
class ElasticNet(Penalty):
    """strength times the sum of beta W^2 + |W|, over all layers or those named: L1 and L2 together.

    Helps: sparse weights among correlated inputs, where L1 alone picks one at random.
    Hurts: two numbers to choose.
    Cost: two passes over the weights.
    Source: Zou & Hastie 2005; CS231n, regularization.
    """

    strength: NonNegative = 1e-5
    beta: NonNegative = 1.0
    layers: Layers = ()

    def __call__(self, model: nn.Module) -> Tensor:
        found = chosen(model, self.layers)
        return self.strength * (self.beta * _squares(found) + _sizes(found))
