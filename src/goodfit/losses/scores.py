"""Scores in a precision that a loss can be computed in."""

from __future__ import annotations

from torch import Tensor


def at_least_fp32(logits: Tensor) -> Tensor:
    """The scores in float32 when they come in fewer bits (as under autocast), else as they are."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
