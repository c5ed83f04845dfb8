"""Squared error."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from goodfit.core.contracts import Loss
from goodfit.losses.scores import at_least_fp32


@dataclasses.dataclass(frozen=True)
class Mse(Loss):
    """Mean over the classes of (s_k - t_k)^2: the scores themselves are fitted to the targets.

    Helps: as a comparison; in regression, and for least squares with a closed solution.
    Hurts: punishes scores that are too right; with many classes the gradients are small.
    Cost: next to nothing.
    Source: CS231n, loss functions.
    """

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        return (scores - targets.to(scores.dtype)).square().mean(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution nearest to the scores: their projection on the simplex (Duchi et al. 2008)."""
        scores = at_least_fp32(logits)
        ranked = scores.sort(dim=1, descending=True).values
        excess = ranked.cumsum(dim=1) - 1
        n = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
        kept = (ranked * n > excess).sum(dim=1, keepdim=True).clamp(min=1)
        level = excess.gather(1, kept - 1) / kept
        return (scores - level).clamp(min=0)
