"""The multiclass hinge loss."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.contracts import Loss
from goodfit.core.settings import Positive
from goodfit.losses.scores import at_least_fp32


@dataclasses.dataclass(frozen=True)
class Svm(Loss):
    """Sum over the wrong classes j of max(0, s_j - s_y + delta), each term squared if `squared`; for soft targets its expectation over y.

    The sum is not divided by the number of classes, as torch's MultiMarginLoss does.

    Helps: stops pushing once the right class leads by delta, so easy images do not dominate.
    Hurts: the scores are not log-probabilities; with many classes it starts large (K - 1) and needs a smaller learning rate.
    Cost: a sort of the scores.
    Source: Weston & Watkins 1999; CS231n, loss functions (the mean of its three losses, 5.27, is printed as 5.26).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classes",)

    delta: Positive = 1.0
    squared: bool = False

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        return (targets.to(scores.dtype) * self.hinge_per_class(scores)).sum(dim=1)

    def hinge_per_class(self, scores: Tensor) -> Tensor:
        """Compute the loss [B, K] for each class as the right one.

        All K x K margins at once would need too much memory for 1000 classes; sums over the sorted scores give the same.
        """
        scores = scores - scores.amax(dim=1, keepdim=True).detach()  # margins do not change, and rounding errors are smaller
        threshold = scores - self.delta  # wrong classes above it add to the loss
        ranked = scores.sort(dim=1, descending=True).values
        above = torch.searchsorted(-ranked.detach(), -threshold.detach())  # [B, K] scores above each threshold, the class's own included
        others = above - 1
        total = _sum_of_first(ranked, above) - scores
        if not self.squared:
            return total - others * threshold
        return _sum_of_first(ranked**2, above) - scores**2 - 2 * threshold * total + others * threshold**2


def _sum_of_first(values: Tensor, counts: Tensor) -> Tensor:
    """Sum, for every count n in [B, K], the first n values of its row."""
    return F.pad(values.cumsum(dim=1), (1, 0)).gather(1, counts)
