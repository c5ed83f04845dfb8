"""Chunks: on a CPU, float copies are made of a few images at a time, so that they stay in the cache and their memory is used again."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

VALUES = 1 << 18  # floats a chunk may hold (1 MB)


def chunks(images: Tensor) -> Iterator[slice]:
    """Slices that cover the first dimension of a batch; one for all on other devices."""
    n = len(images)
    step = max(1, VALUES // max(images[0].numel(), 1)) if n and images.device.type == "cpu" else max(n, 1)
    for start in range(0, n, step):
        yield slice(start, start + step)
