"""One-vs-all binary cross-entropy."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from goodfit.core.contracts import Loss
from goodfit.losses.scores import at_least_fp32


@dataclasses.dataclass(frozen=True)
class Binary(Loss):
    """Sum over the classes of the binary cross-entropy of sigmoid(s_k) against t_k: each class against all others.

    Helps: the default for labels, of which an image has any number; classes that overlap or occur together; images of none of the classes.
    Hurts: many classes: most of the loss is about the classes that the image is not.
    Cost: next to nothing.
    Source: CS231n, loss functions; Wightman et al. 2021 for ImageNet.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classes", "labels")

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        return F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype), reduction="none").sum(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Divide the sigmoids by their sum, in the logarithm so that a row of tiny ones still sums to 1."""
        return F.logsigmoid(at_least_fp32(logits)).softmax(dim=1)
