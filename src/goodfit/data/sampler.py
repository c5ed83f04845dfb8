"""Samplers: which images an epoch shows, and in which order, as functions of the labels and of chance."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.contracts import Sampler


@dataclasses.dataclass(frozen=True)
class Shuffle(Sampler):
    """Every training image once an epoch, in a new order each time.

    Helps: the default: the data as they are.
    Hurts: rare classes, which few batches hold.
    Cost: nothing.
    Source: CS231n, mini-batch gradient descent.
    """

    def length(self, labels: Tensor) -> int:
        return len(labels)

    def __call__(self, labels: Tensor, chance: Chance) -> Tensor:
        return chance.permutation()


@dataclasses.dataclass(frozen=True)
class Balanced(Sampler):
    """Every class as often as the largest, by repeating images: an epoch is classes times the images of the largest class.

    Within a class every image comes equally often, give or take one; which ones come once more is drawn anew each epoch. Repeats are
    augmented differently, since chance depends on the place in the epoch.

    Helps: balanced accuracy when some classes are rare.
    Hurts: accuracy on test images as unbalanced as the training ones; few images repeated often are overfitted.
    Cost: longer epochs.
    Source: Buda, Maki & Mazurowski 2018.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classes",)

    def length(self, labels: Tensor) -> int:
        counts = torch.bincount(labels)
        return int(counts.max() * (counts > 0).sum())

    def __call__(self, labels: Tensor, chance: Chance) -> Tensor:
        shuffled = chance.permutation()
        by_class = shuffled[labels[shuffled].argsort(stable=True)]
        counts = torch.bincount(labels)
        counts = counts[counts > 0]
        first = counts.cumsum(0) - counts
        positions = torch.arange(int(counts.max())) % counts[:, None] + first[:, None]  # [classes, images of the largest]
        order = Chance(chance.at("mixed").key, torch.arange(positions.numel())).permutation()
        return by_class[positions.flatten()[order]]
