"""Class weights: some classes count more than others in the mean loss."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from goodfit.core.contracts import Facts, Loss
from goodfit.core.errors import UsageError, unknown_name


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A loss with a weight for each class.

    The losses per example stay those of `loss`; `weigh` says how much each counts. `gradient()` divides by the sum of these weights over
    the logical batch, so the size of the weights does not matter, only their ratios (as torch's CrossEntropyLoss(weight=...) does).
    """

    loss: Loss
    weights: tuple[float, ...]

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss(logits, targets)

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.loss.probabilities(logits)

    def weigh(self, targets: Tensor) -> Tensor:
        """How much each example counts [B]: the mean weight of the classes its target [B, K] is spread over."""
        return targets @ torch.tensor(self.weights, dtype=targets.dtype, device=targets.device)


def weighted(loss: Loss, given: str | Sequence[float], facts: Facts) -> Loss | Weighted:
    """The loss with class weights: "none", "balanced" (images / (classes * images of the class)), "cat=2, dog=0.5" (the others 1),
    or one number for each class, in the order of the classes.

    Raises:
        UsageError: a class is unknown, a weight is not above 0, or there is not one for each class.
    """
    if isinstance(given, str) and given.strip() in ("none", ""):
        return loss
    return Weighted(loss, class_weights(given, facts.classes, facts.counts))


def class_weights(given: str | Sequence[float], classes: Sequence[str], counts: Sequence[int]) -> tuple[float, ...]:
    """The weight of each class; see `weighted`."""
    if isinstance(given, str):
        if given.strip() == "balanced":
            return tuple(sum(counts) / (len(counts) * max(n, 1)) for n in counts)
        made = {**dict.fromkeys(classes, 1.0), **_named(given, classes)}
        return tuple(made[name] for name in classes)
    if len(given) != len(classes):
        raise UsageError(f"Expected class_weights to have one number for each of the {len(classes)} classes, received {len(given)}.")
    return tuple(float(x) for x in given)


def _named(text: str, classes: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in text.split(","):
        name, _, number = (x.strip() for x in word.rpartition("="))
        if not name or not re.fullmatch(r"[0-9.]+([eE][+-]?[0-9]+)?", number) or float(number) <= 0:
            raise UsageError(f'Expected class_weights to be none, balanced, or like "{classes[0]}=2", received "{text}".')
        if name not in classes:
            raise UsageError(unknown_name("class", name, list(classes)))
        found[name] = float(number)
    return found
