"""Penalties on the size of the weights, added to the mean loss."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Penalty
from goodfit.core.errors import UsageError
from goodfit.core.parameters import weight_parameters
from goodfit.core.settings import NonNegative
from goodfit.core.words import list_some

Layers = str | tuple[str, ...]  # prefixes of weights' names, "head" or ("stem", "stage1"); empty: all


def select_weights(model: nn.Module, layers: Layers = ()) -> dict[str, Tensor]:
    """Return the weights of a model, by name, that belong to these layers (or to modules inside them): never biases, never norms.

    Raises:
        UsageError: the model or a layer has no weights; the message lists those that have.
    """
    prefixes = (layers,) if isinstance(layers, str) else layers
    named = weight_parameters(model)
    if not named:
        raise UsageError("Expected a model with weights for a penalty, received one that learns none: leave the penalty out.")
    for layer in prefixes:
        if not any(_belongs_to(name, layer) for name in named):
            raise UsageError(f'Expected layers with weights for a penalty, received "{layer}". There is: {list_some(list(named), 12)}.')
    return {name: w for name, w in named.items() if not prefixes or any(_belongs_to(name, layer) for layer in prefixes)}


def _belongs_to(name: str, layer: str) -> bool:
    return f"{name}.".startswith(f"{layer}.")


def _sum_squares(weights: Iterable[Tensor]) -> Tensor:
    return torch.stack([w.square().sum() for w in weights]).sum()


def _sum_absolutes(weights: Iterable[Tensor]) -> Tensor:
    return torch.stack([w.abs().sum() for w in weights]).sum()


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
        return self.strength * _sum_squares(select_weights(model, self.layers).values())


@dataclasses.dataclass(frozen=True)
class L1(Penalty):
    """strength times the sum of the absolute weights, of all layers or of those named.

    Helps: drives weights to zero, so that few inputs count.
    Hurts: usually behind L2 in accuracy.
    Cost: one pass over the weights.
    Source: CS231n, regularization.
    """

    strength: NonNegative = 1e-5
    layers: Layers = ()

    def __call__(self, model: nn.Module) -> Tensor:
        return self.strength * _sum_absolutes(select_weights(model, self.layers).values())


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
        weights = select_weights(model, self.layers).values()
        return self.strength * (self.beta * _sum_squares(weights) + _sum_absolutes(weights))


class StartPenalty(Penalty):
    """A penalty that needs the pretrained weights that training starts from; build gives them to it."""

    @abstractmethod
    def with_start(self, start: Mapping[str, Tensor]) -> Self:
        """The same penalty, knowing the pretrained weights by name, without those that are new."""


@dataclasses.dataclass(frozen=True)
class L2Sp(StartPenalty):
    """alpha / 2 times the squared distance of the pretrained weights from their start, plus beta / 2 times the sum of the squared new ones.

    New are the weights of the head, even where the classes are those of the source. It needs pretrained weights (--from).

    Helps: fine-tuning on few images: what was learned before is pulled back to where it was, not to zero.
    Hurts: images far from those of the pretraining; together with weight decay, which pulls the same weights to zero.
    Cost: one pass over the weights, and one more copy of them.
    Source: Li, Grandvalet & Davoine 2018 (explicit inductive bias for transfer learning).
    """

    alpha: NonNegative = 0.01
    beta: NonNegative = 0.01
    layers: Layers = ()
    _start: Mapping[str, Tensor] | None = dataclasses.field(default=None, repr=False, compare=False)

    def with_start(self, start: Mapping[str, Tensor]) -> Self:
        return dataclasses.replace(self, _start=start)

    def __call__(self, model: nn.Module) -> Tensor:
        if self._start is None:
            raise UsageError("l2_sp: expected pretrained weights to stay near to, received none: give --from, or choose the penalty l2.")
        terms = []
        for name, w in select_weights(model, self.layers).items():
            is_pretrained = name in self._start
            distance = w - self._start[name] if is_pretrained else w
            terms.append((self.alpha if is_pretrained else self.beta) / 2 * distance.square().sum())
        return torch.stack(terms).sum()
