"""Losses of numbers that grow less fast than the squared error."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from goodfit.core.contracts import Loss
from goodfit.core.settings import Positive
from goodfit.losses.scores import at_least_fp32


@dataclasses.dataclass(frozen=True)
class L1(Loss):
    """Mean over the numbers of |s_k - t_k|: fits the median of what is likely, not its mean.

    Helps: wrong or extreme numbers among the right ones, which pull a squared error far.
    Hurts: R2 and RMSE where the errors are ordinary; its gradient is as large near the aim as far from it.
    Cost: next to nothing.
    Source: CS231n, loss functions (regression).
    """

    tasks: ClassVar[tuple[str, ...]] = ("numbers",)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        return (scores - targets.to(scores.dtype)).abs().mean(dim=1)


@dataclasses.dataclass(frozen=True)
class Huber(Loss):
    """Mean over the numbers of (s_k - t_k)^2 / 2 up to an error of delta, and from there on of delta (|s_k - t_k| - delta / 2).

    Errors are in deviations of the training images' numbers, so delta 1 is one of them.

    Helps: numbers with a few that are far off: small errors count as in mse, large ones as in l1.
    Hurts: numbers whose extremes matter most.
    Cost: next to nothing.
    Source: Huber 1964.
    """

    tasks: ClassVar[tuple[str, ...]] = ("numbers",)
    delta: Positive = 1.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        return F.huber_loss(scores, targets.to(scores.dtype), reduction="none", delta=self.delta).mean(dim=1)
