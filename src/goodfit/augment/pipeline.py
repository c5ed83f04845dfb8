"""The augmentation pipeline: augments applied in order, neighboring geometry sampled once and neighboring colors multiplied once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from goodfit.augment.color import Color, apply_color_matrix, compose_colors
from goodfit.augment.coordinate_map import Border, CoordinateMap, Frame, center_crop_map
from goodfit.augment.geometry import Geometry
from goodfit.augment.sampling import sample
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import DataError
from goodfit.core.parts import part_name


class PipePart(NamedTuple):
    """A part with its position in the pipe; its random numbers depend on its name and position."""

    part: Augment
    position: int

    def own_chance(self, chance: Chance) -> Chance:
        return chance.at(part_name(self.part), self.position)


class Pipeline:
    """Applies augments in order to stored images [B, C, H, W] no smaller than `size`; returns images of exactly `size`, channels last.

    Neighboring geometry with the same border is composed and sampled once; neighboring color ops are composed and multiplied once. Parts
    that crop give frames of `size`, other geometry keeps its frame. Where the last geometry of the pipe leaves a larger frame, its middle
    is taken in the same sampling; a pipe without geometry begins by cropping the middle. Images stay uint8 as long as pixels are only moved
    or replaced; otherwise they become float 0..1.

    Each part draws its random numbers by its name and position, image by image, so a batch may be cut into pieces (of whole blocks of 16
    where images are mixed) without changing a bit. The part at position `early_crop` is skipped: that crop was done when the images were
    read.
    """

    def __init__(self, parts: tuple[Augment, ...], size: Frame, early_crop: int | None = None) -> None:
        self.parts, self.size, self.early_crop = parts, size, early_crop

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        """Return the batch augmented at progress `t`; its own tensors are left as they are.

        Raises:
            DataError: the images are smaller than `size`.
        """
        height, width = batch.images.shape[2:]
        if height < self.size[0] or width < self.size[1]:
            raise DataError(f"Expected images of at least {self.size[0]}x{self.size[1]} to augment, received {height}x{width}.")
        groups = _group_parts(tuple(part.at_progress(t) for part in self.parts), self.early_crop)
        last = max((k for k, group in enumerate(groups) if isinstance(group[0].part, Geometry)), default=-1)
        if last < 0:
            batch = batch.but(images=self._crop_center(batch))
        for k, group in enumerate(groups):
            match group[0].part:
                case Geometry():
                    batch = self._transform(group, batch, chance, t, last=k == last)
                case Color():
                    matrices = [member.part.draw(member.own_chance(chance), t) for member in group if isinstance(member.part, Color)]
                    batch = batch.but(images=apply_color_matrix(batch.images, functools.reduce(compose_colors, matrices)))
                case part:
                    batch = part(batch, group[0].own_chance(chance), t)
        return batch.but(images=batch.images.contiguous(memory_format=torch.channels_last))

    def _crop_center(self, batch: Batch) -> torch.Tensor:
        (height, width), (h, w) = batch.images.shape[2:], self.size
        top, left = (height - h) // 2, (width - w) // 2
        return batch.images[..., top : top + h, left : left + w]

    def _transform(self, group: list[PipePart], batch: Batch, chance: Chance, t: float, last: bool) -> Batch:
        """Apply a group of geometry by sampling the images once."""
        frame: Frame = (batch.images.shape[2], batch.images.shape[3])
        maps: list[CoordinateMap] = []
        border: Border | None = None
        fill: tuple[float, ...] = (0.0,)
        is_exact = True
        for member in group:
            assert isinstance(member.part, Geometry)
            maps.append(member.part.draw(member.own_chance(chance), t, frame, self.size))
            if member.part.border and not border:
                border, fill = member.part.border, member.part.fill
            frame, is_exact = maps[-1].size, is_exact and member.part.is_exact
        if last and frame != self.size:
            maps.append(center_crop_map(len(batch), frame, self.size))
        return batch.but(images=sample(batch.images, maps, border, fill, is_exact))


def _group_parts(parts: tuple[Augment, ...], early_crop: int | None) -> list[list[PipePart]]:
    """Split a pipe, without the part at position `early_crop`, into groups of neighbors that are applied at once."""
    groups: list[list[PipePart]] = []
    for position, part in enumerate(parts):
        if position == early_crop:
            continue
        if not (groups and _can_join(part, [member.part for member in groups[-1]])):
            groups.append([])
        groups[-1].append(PipePart(part, position))
    return groups


def _can_join(part: Augment, group: list[Augment]) -> bool:
    """Whether a part can be applied together with the group before it."""
    if isinstance(part, Geometry) and isinstance(group[0], Geometry):
        return len({p.border for p in (*group, part) if isinstance(p, Geometry) and p.border}) < 2
    return isinstance(part, Color) and isinstance(group[0], Color)
