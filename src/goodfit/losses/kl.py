"""Kullback-Leibler divergence."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.contracts import Loss
from goodfit.losses.scores import at_least_fp32


@dataclasses.dataclass(frozen=True)
class Kl(Loss):
    """KL(t || p) = sum_k t_k (log t_k - log p_k) with p the softmax of the scores: the cross-entropy less the entropy of the target.

    Helps: smoothed and mixed targets: its minimum is 0 whatever the target, so losses can be compared.
    Hurts: nothing against softmax, whose gradient it has; the two are equal for hard targets.
    Cost: next to nothing.
    Source: Kullback & Leibler 1951; CS231n, loss functions (a deck says that it is above 0 and equals the cross-entropy: it is 0 where both
    agree, and less by the entropy of the targets, which is 0 for hard ones).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classes",)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        targets = targets.to(scores.dtype)
        return F.cross_entropy(scores, targets, reduction="none") + torch.xlogy(targets, targets).sum(dim=1)
