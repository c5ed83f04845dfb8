"""What a model returns, and the precision in which losses are computed from it."""

from __future__ import annotations

from torch import Tensor


def at_least_fp32(logits: Tensor) -> Tensor:
    """Convert scores of fewer than 32 bits (as under autocast) to float32; return others unchanged."""
    return logits.float() if logits.dtype.itemsize < 4 else logits


def split_outputs(output: Tensor | tuple[Tensor, list[tuple[Tensor, float]]]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """Split what a model returns into its logits [B, K] and the (logits, weight) pairs of its auxiliary heads, if it has any."""
    return output if isinstance(output, tuple) else (output, [])
