"""Softmax cross-entropy."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from goodfit.core.contracts import Loss
from goodfit.losses.scores import at_least_fp32


@dataclasses.dataclass(frozen=True)
class Softmax(Loss):
    """-sum_k t_k log p_k with p the softmax of the scores; for a hard target -log p of the right class.

    Helps: the default; it always rewards more probability of the right class.
    Hurts: wrong labels, which it fits with growing confidence; smooth the targets then.
    Cost: next to nothing.
    Source: CS231n, loss functions (one slide prints 0.89 for the cat: that is the logarithm to base 10; in nats it is 2.04).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classes",)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = at_least_fp32(logits)
        return F.cross_entropy(scores, targets.to(scores.dtype), reduction="none")
