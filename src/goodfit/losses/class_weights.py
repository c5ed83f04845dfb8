"""Class weights: some classes count more than others in the mean loss."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from goodfit.core.contracts import Loss
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.facts import Facts


@dataclasses.dataclass(frozen=True)
class WeightedLoss:
    """A loss with a weight for each class.

    The losses per example are those of `loss`; `weigh` returns the weight of each. `gradient()` divides by the sum of these weights over
    the logical batch, so only the ratios of the weights matter, not their size (as in torch's CrossEntropyLoss(weight=...)).
    """

    loss: Loss
    weights: tuple[float, ...]

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss(logits, targets)

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.loss.probabilities(logits)

    def weigh(self, targets: Tensor) -> Tensor:
        """Return the weight [B] of each example: the mean weight of the classes over which its target [B, K] is spread."""
        return targets @ torch.tensor(self.weights, dtype=targets.dtype, device=targets.device)


def with_class_weights(loss: Loss, setting: str | Sequence[float], facts: Facts) -> Loss | WeightedLoss:
    """Return the loss with the class weights of a setting.

    A setting is "none", "balanced" (images / (classes * images of the class)), "cat=2, dog=0.5" (the others 1), or one number for each
    class, in the order of the classes.

    Raises:
        UsageError: a class is unknown, a weight is not above 0, or there is not one for each class.
    """
    if isinstance(setting, str) and setting.strip() in ("none", ""):
        return loss
    return WeightedLoss(loss, compute_class_weights(setting, facts.classes, facts.counts))


def compute_class_weights(setting: str | Sequence[float], classes: Sequence[str], counts: Sequence[int]) -> tuple[float, ...]:
    """Return the weight of each class; see `with_class_weights`."""
    if isinstance(setting, str):
        if setting.strip() == "balanced":
            return tuple(sum(counts) / (len(counts) * max(n, 1)) for n in counts)
        weights = {**dict.fromkeys(classes, 1.0), **_parse_weights_by_name(setting, classes)}
        return tuple(weights[name] for name in classes)
    if len(setting) != len(classes):
        raise UsageError(f"Expected class_weights to have one number for each of the {len(classes)} classes, received {len(setting)}.")
    return tuple(float(x) for x in setting)


def _parse_weights_by_name(text: str, classes: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for word in text.split(","):
        name, _, number = (x.strip() for x in word.rpartition("="))
        if not name or not re.fullmatch(r"[0-9.]+([eE][+-]?[0-9]+)?", number) or float(number) <= 0:
            raise UsageError(f'Expected class_weights to be none, balanced, or like "{classes[0]}=2", received "{text}".')
        if name not in classes:
            raise UsageError(unknown_name("class", name, list(classes)))
        weights[name] = float(number)
    return weights
