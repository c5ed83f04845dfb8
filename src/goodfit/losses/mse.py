"""Squared error."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from goodfit.core.contracts import Loss
from goodfit.losses.scores import at_least_fp32


@dataclasses.dataclass(frozen=True)
class Mse(Loss):
    """Mean over the classes of (s_k - t_k)^2: fits the scores themselves to the targets.

    Helps: as a comparison; in regression, and for least squares with a closed solution.
    Hurts: penalizes scores that are correct beyond the target; with many classes the gradients are small.
    Cost: next to nothing.
    Source: CS231n, loss functions.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classes", "numbers")

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        return (scores - targets.to(scores.dtype)).square().mean(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the distribution nearest to the scores: their projection onto the simplex (Duchi et al. 2008)."""
        scores = at_least_fp32(logits)
        ranked = scores.sort(dim=1, descending=True).values
        excess = ranked.cumsum(dim=1) - 1
        n = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
        support = (ranked * n > excess).sum(dim=1, keepdim=True).clamp(min=1)  # how many classes keep a probability above 0
        threshold = excess.gather(1, support - 1) / support
        return (scores - threshold).clamp(min=0)
