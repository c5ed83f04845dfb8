"""What a network puts out: the scores of its head, and those of auxiliary heads where it has them."""

from __future__ import annotations

from torch import Tensor


def heads(output: Tensor | tuple[Tensor, list[tuple[Tensor, float]]]) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """The logits, and the (logits, weight) pairs of auxiliary heads where a model has them."""
    return output if isinstance(output, tuple) else (output, [])
