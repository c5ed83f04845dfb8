"""Policies: a few ops for each image, drawn from a list, at a level that is drawn or given."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from goodfit.augment.coordinate_map import Border, Frame
from goodfit.augment.policy_ops import OP_CODES, OPS, OPS_WITHOUT_LEVEL, BorderFill, Op, OpLimits, SlotDraws, apply_ops
from goodfit.augment.traits import MeanFilled
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.errors import UsageError
from goodfit.core.settings import Count, Range, Share

MAX_LEVEL = 30  # levels are whole numbers from 0 to this


class Policy(MeanFilled):
    """An augment that applies ops of its own to each image, one after the other.

    `strength` scales the levels; autocontrast and equalize, which have none, are applied to that share of the images that draw them.
    """

    strength_field: ClassVar[str] = "strength"
    strength: float
    p: float
    ops: tuple[Op, ...]
    border: Border

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ops:
            raise UsageError("Expected at least one op for a policy to draw from, received none.")

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many ops an image gets."""

    @abstractmethod
    def levels(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """The levels [B, slots], 0 to MAX_LEVEL, for uniform draws [B, slots] in 0..1."""

    @abstractmethod
    def limits(self, frame: Frame) -> OpLimits:
        """How far the ops go at the highest level, for images of this (height, width)."""

    def draw(self, chance: Chance) -> list[SlotDraws]:
        """Draw what is done with each image, slot after slot."""
        n, codes = self.slots, np.array([OP_CODES[op] for op in self.ops])
        chosen, *numbers = np.split(chance.double(n=1 + 4 * n).numpy(), [1 + n * k for k in range(4)], axis=1)  # cost is per call
        op = codes[(numbers[0] * len(codes)).astype(np.int64)]
        level = self.levels(numbers[1]) * (self.strength / MAX_LEVEL)
        sign = np.where(numbers[2] < 0.5, -1.0, 1.0)
        has_no_level = np.isin(op, [OP_CODES[name] for name in OPS_WITHOUT_LEVEL])
        is_active = np.where(has_no_level, numbers[3] < self.strength, level > 0) & (chosen < self.p)
        op = np.where(is_active, op, OP_CODES["identity"])
        return [SlotDraws(op[:, slot], level[:, slot], sign[:, slot]) for slot in range(n)]

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        limits, outside = self.limits((batch.images.shape[2], batch.images.shape[3])), BorderFill(self.border, self._mean)
        slots = self.draw(chance)
        images = batch.images if batch.images.dtype == torch.uint8 else (batch.images * 255).round().to(torch.uint8)
        images = apply_ops(images, slots, limits, outside)
        if batch.images.is_floating_point():
            changed = torch.from_numpy(np.any([slot.op != OP_CODES["identity"] for slot in slots], axis=0)).to(images.device)
            images = torch.where(changed[:, None, None, None], images.to(batch.images.dtype) / 255, batch.images)
        return batch.but(images=images)


@dataclasses.dataclass(frozen=True)
class TrivialAugment(Policy):
    """Applies one op to each image, drawn uniformly from `ops`, at one of 31 levels drawn uniformly: the paper's wide ranges; no tuning.

    The highest levels are slopes of 0.99, 32 pixels, 135 degrees, factors of 1 +- 0.99, 2 of 8 bits, and everything solarized; signs are
    random. Pixels are read bilinearly; `border` says what lies beyond the image. Every op gives 8 bits, so float images that are changed
    have 256 values.

    Helps: long training, as a first policy; photos.
    Hurts: short budgets and underfitting; when color, orientation or position is the answer.
    Cost: about one pass over the pixels.
    Source: Müller & Hutter 2021, TrivialAugment (Wide).
    """

    strength: Share = 1.0
    p: Share = 1.0
    ops: tuple[Op, ...] = OPS
    border: Border = "zero"

    @property
    def slots(self) -> int:
        return 1

    def levels(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.floor(draws * (MAX_LEVEL + 1))

    def limits(self, frame: Frame) -> OpLimits:
        return OpLimits(shear=0.99, x=32, y=32, degrees=135, factor=0.99, bits=6)


@dataclasses.dataclass(frozen=True)
class RandAugment(Policy):
    """Applies `n` ops to each image, one after the other, drawn uniformly from `ops`, all at level `m` of 30.

    The highest level is slopes of 0.3, 150 of 331 of the side, 30 degrees, factors of 1 +- 0.9, 4 of 8 bits, and everything solarized;
    signs are random. Pixels are read bilinearly; `border` says what lies beyond the image. Every op gives 8 bits, so float images that
    are changed have 256 values.

    Helps: photos and long training, once `m` is tuned: more for larger nets and more epochs.
    Hurts: short budgets and underfitting; when color, orientation or position is the answer.
    Cost: about one pass over the pixels for each op.
    Source: Cubuk et al. 2020, RandAugment.
    """

    n: Count = 2
    m: Annotated[float, Range(0, MAX_LEVEL)] = 9.0
    strength: Share = 1.0
    p: Share = 1.0
    ops: tuple[Op, ...] = OPS
    border: Border = "mean"

    @property
    def slots(self) -> int:
        return self.n

    def levels(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full_like(draws, self.m)

    def limits(self, frame: Frame) -> OpLimits:
        return OpLimits(shear=0.3, x=150 / 331 * frame[1], y=150 / 331 * frame[0], degrees=30, factor=0.9, bits=4)
