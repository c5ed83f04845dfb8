"""A batch: images with their targets and ids."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from goodfit.core.chance import Chance


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images with their targets; every image op takes one and returns another.

    `images` [B, C, H, W]: uint8 0..255 as stored, or float 0..1 once an op needs it (in memory the channels come last).
    `targets` [B, K]: each row a distribution over the K classes, so that mixing and smoothing are ordinary ops; of other tasks each row
    0 or 1 for K labels, or K numbers of deviation 1.
    `ids` [B]: int64 rows in the data's table, which name an image wherever it goes.
    `chance`: where a training batch draws its random numbers from; None for batches that are only evaluated.
    """

    images: Tensor
    targets: Tensor
    ids: Tensor
    chance: Chance | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        chance = None if self.chance is None else self.chance[rows]
        return Batch(self.images[rows], self.targets[rows], self.ids[rows], chance)

    def but(self, **changes: Any) -> Batch:
        """The same batch with some of its fields replaced."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`; `non_blocking` lets pinned memory travel meanwhile."""
        images, targets, ids = (x.to(device, non_blocking=non_blocking) for x in (self.images, self.targets, self.ids))
        return Batch(images, targets, ids, self.chance)


def make_targets(labels: Tensor, classes: int) -> Tensor:
    """Targets [B, K] float32 for integer labels [B] of classes; those of labels and numbers [B, K] are targets already."""
    return one_hot(labels, classes) if labels.ndim == 1 else labels


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Targets [B, K] float32 for integer labels [B]."""
    return torch.nn.functional.one_hot(labels.long(), classes).float()
