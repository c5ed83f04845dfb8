"""Traits that augments share: applied to a share of the images, drawn from a range, or filled with the mean color."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import UsageError
from goodfit.core.parts import part_name
from goodfit.core.settings import settings_of


class RandomApply(Augment):
    """An augment that changes a share `p` of the images; only their pixels are touched.

    With `keeps_uint8`, uint8 images stay uint8; otherwise all images become float 0..1, whichever are chosen.
    """

    keeps_uint8: ClassVar[bool] = False
    p: float

    @abstractmethod
    def change(self, images: Tensor, chance: Chance) -> Tensor:
        """Return images [K, C, H, W], uint8 or float 0..1, changed, in new memory: in their own dtype if `keeps_uint8`, else float."""

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        images = batch.images
        rows = chance.at("p").chosen(self.p).nonzero()[:, 0]
        if 0 < len(rows) == len(images):
            return batch.but(images=self.change(images, chance))
        pixels = images.permute(0, 2, 3, 1).contiguous()
        out = pixels.clone() if self.keeps_uint8 or images.is_floating_point() else pixels.float().div_(255)
        if len(rows):
            device_rows = rows.to(images.device)
            selected = pixels.index_select(0, device_rows).permute(0, 3, 1, 2)
            changed = self.change(selected, Chance(chance.key, chance.places[rows]))
            out.index_copy_(0, device_rows, changed.permute(0, 2, 3, 1).contiguous())
        return batch.but(images=out.permute(0, 3, 1, 2))


def keep_alpha(images: Tensor, changed: Tensor) -> Tensor:
    """Join the changed colors [B, C up to 3, H, W] of images [B, C, H, W] with their original alpha, if there is a fourth channel."""
    if images.shape[1] < 4:
        return changed
    alpha = images[:, 3:]
    return torch.cat([changed, alpha if alpha.dtype == changed.dtype else alpha.float().div_(255)], dim=1)


class RangedAugment(Augment):
    """An augment whose first setting is a range, (low, high), that a number is drawn from for each image.

    `neutral` is the value that changes nothing; None where there is no such value. A plain number says how far the range reaches to either
    side of the neutral value, though never below `min_value`; without a neutral value it is both ends of the range.

    Raises:
        UsageError: the low end is above the high one.
    """

    neutral: ClassVar[float | None] = 0.0
    min_value: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        name = self._range_name
        if type(reach := getattr(self, name)) in (int, float):
            ends = (reach, reach) if self.neutral is None else (max(self.min_value, self.neutral - reach), self.neutral + reach)
            object.__setattr__(self, name, ends)
        super().__post_init__()
        low, high = getattr(self, name)
        if low > high:
            raise UsageError(f"{part_name(self)}: expected {name} to be (low, high) with low <= high, received {(low, high)}.")

    def scaled(self, strength: float) -> Self:
        """Return the same part with its range shrunk toward the neutral value, exactly: 0 is that value, 1 this part.

        Without a neutral value, `p` is multiplied instead.
        """
        if self.neutral is None:
            return super().scaled(strength)
        ends = tuple(self.neutral * (1 - strength) + end * strength for end in getattr(self, self._range_name))
        return dataclasses.replace(self, **{self._range_name: ends})  # type: ignore[type-var]

    @property
    def _range_name(self) -> str:
        return settings_of(type(self))[0].name


def draw_from_range(chance: Chance, ends: tuple[float, float], p: float = 1.0, neutral: float = 0.0) -> Tensor:
    """Draw numbers [B] float64 uniformly from the range; a share 1 - p of the images get `neutral`."""
    chosen, position = chance.double(n=2).unbind(1)  # in one call: its cost is per call
    return torch.where(chosen < p, ends[0] + position * (ends[1] - ends[0]), neutral)


@dataclasses.dataclass(frozen=True)
class MeanFilled(Augment):
    """An augment that may fill pixels with the training images' mean color, `_mean` [C] in 0..1 (one number serves every channel)."""

    _mean: tuple[float, ...] = dataclasses.field(default=(0.5,), repr=False, compare=False, kw_only=True)

    def bind(self, facts: Any) -> Self:
        """Return the part with the training images' mean color."""
        return dataclasses.replace(super().bind(facts), _mean=tuple(facts.mean))
