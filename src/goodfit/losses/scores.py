"""The precision in which losses are computed."""

from __future__ import annotations

from torch import Tensor


def at_least_fp32(logits: Tensor) -> Tensor:
    """Convert scores of fewer than 32 bits (as under autocast) to float32; return others unchanged."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
