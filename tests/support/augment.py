"""A batch of images, and a chance, for parts that change images."""

from __future__ import annotations

import torch

from goodfit.core.batch import Batch, one_hot
from goodfit.core.chance import Chance


def batch(n: int = 83, channels: int = 3, box: tuple[int, int] = (29, 33)) -> Batch:
    generator = torch.Generator().manual_seed(channels)
    pixels = torch.randint(0, 256, (n, *box, channels), dtype=torch.uint8, generator=generator)
    return Batch(pixels.permute(0, 3, 1, 2), one_hot(torch.arange(n) % 7, 7), torch.arange(n))


def chance(n: int = 83, seed: int = 0) -> Chance:
    return Chance.of(seed, torch.arange(1000, 1000 + n), "augment", 3)
