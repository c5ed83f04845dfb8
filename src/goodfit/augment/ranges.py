"""Ranges of settings that are drawn from, (low, high): their check, milder ones, and the draw."""

from __future__ import annotations

import torch
from torch import Tensor

from goodfit.core.catalog import Part, name_of
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError


def check_order(part: Part, name: str) -> None:
    """Raises:
    UsageError: the range that is the part's setting `name` has its low end above its high one.
    """
    low, high = getattr(part, name)
    if low > high:
        raise UsageError(f"{name_of(part)}: expected {name} to be (low, high) with low <= high, received {(low, high)}.")


def toward(neutral: float, ends: tuple[float, float], strength: float) -> tuple[float, float]:
    """The range shrunk toward the value that changes nothing, exactly: strength 0 is that value, 1 the range as it is."""
    low, high = (neutral * (1 - strength) + end * strength for end in ends)
    return low, high


def drawn(chance: Chance, ends: tuple[float, float], p: float = 1.0, neutral: float = 0.0) -> Tensor:
    """Numbers [B] float64 drawn evenly from the range; `neutral` for a share 1 - p of the images."""
    chosen, way = chance.double(n=2).unbind(1)  # in one call: its cost is per call
    return torch.where(chosen < p, ends[0] + way * (ends[1] - ends[0]), neutral)
