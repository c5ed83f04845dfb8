"""Apply: a pipe of augments on a batch, with neighboring geometry sampled once and neighboring colors multiplied once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from goodfit.augment.color import Color, compose, recolor
from goodfit.augment.geometry import Geometry
from goodfit.augment.maps import Border, Frame, Map, center
from goodfit.augment.sampling import sample
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.errors import DataError
from goodfit.core.parts import part_name


class Step(NamedTuple):
    """A part with its position in the pipe, which its chance is drawn for."""

    part: Augment
    position: int

    def chance(self, chance: Chance) -> Chance:
        return chance.at(part_name(self.part), self.position)


class Pipeline:
    """Augments in order, on stored images [B, C, H, W] at least `size` big; gives images of exactly `size`, channels last in memory.

    Neighbors that are geometry with the same border compose and are sampled once; neighbors that are color compose and are multiplied
    once. Parts that crop give frames of `size`, other geometry keeps its frame; where the last geometry of the pipe leaves a larger
    frame its middle is taken in the same sampling, and a pipe without geometry begins with the middle. Images stay uint8 as long as
    pixels are only moved or replaced, else they become float 0..1.

    Each part draws from the chance of its name and position, image by image, so a batch may be cut into pieces (of whole blocks of 16
    where images are mixed) without changing a bit. The part at position `cut`, a crop, is left out: it was done as the images were read.
    """

    def __init__(self, parts: tuple[Augment, ...], size: Frame, cut: int | None = None) -> None:
        self.parts, self.size, self.cut = parts, size, cut

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        """The batch augmented at progress `t`; its own tensors are left as they are."""
        height, width = batch.images.shape[2:]
        if height < self.size[0] or width < self.size[1]:
            raise DataError(f"Expected images of at least {self.size[0]}x{self.size[1]} to augment, received {height}x{width}.")
        runs = _runs(tuple(part.now(t) for part in self.parts), self.cut)
        last = max((k for k, run in enumerate(runs) if isinstance(run[0].part, Geometry)), default=-1)
        if last < 0:
            batch = batch.but(images=self._middle(batch))
        for k, run in enumerate(runs):
            match run[0].part:
                case Geometry():
                    batch = self._place(run, batch, chance, t, last=k == last)
                case Color():
                    matrices = [step.part.draw(step.chance(chance), t) for step in run if isinstance(step.part, Color)]
                    batch = batch.but(images=recolor(batch.images, functools.reduce(compose, matrices)))
                case part:
                    batch = part(batch, run[0].chance(chance), t)
        return batch.but(images=batch.images.contiguous(memory_format=torch.channels_last))

    def _middle(self, batch: Batch) -> torch.Tensor:
        (height, width), (h, w) = batch.images.shape[2:], self.size
        top, left = (height - h) // 2, (width - w) // 2
        return batch.images[..., top : top + h, left : left + w]

    def _place(self, run: list[Step], batch: Batch, chance: Chance, t: float, last: bool) -> Batch:
        """One sampling for a run of geometry."""
        frame: Frame = (batch.images.shape[2], batch.images.shape[3])
        maps: list[Map] = []
        border: Border | None = None
        fill: tuple[float, ...] = (0.0,)
        exact = True
        for step in run:
            assert isinstance(step.part, Geometry)
            maps.append(step.part.draw(step.chance(chance), t, frame, self.size))
            if step.part.border and not border:
                border, fill = step.part.border, step.part.fill
            frame, exact = maps[-1].size, exact and step.part.exact
        if last and frame != self.size:
            maps.append(center(len(batch), frame, self.size))
        return batch.but(images=sample(batch.images, maps, border, fill, exact))


def _runs(parts: tuple[Augment, ...], cut: int | None) -> list[list[Step]]:
    """Cut a pipe, without the part at position `cut`, into runs that are done at once."""
    runs: list[list[Step]] = []
    for position, part in enumerate(parts):
        if position == cut:
            continue
        if not (runs and _joins(part, [step.part for step in runs[-1]])):
            runs.append([])
        runs[-1].append(Step(part, position))
    return runs


def _joins(part: Augment, run: list[Augment]) -> bool:
    """Whether a part can be done together with the run before it."""
    if isinstance(part, Geometry) and isinstance(run[0], Geometry):
        return len({p.border for p in (*run, part) if isinstance(p, Geometry) and p.border}) < 2
    return isinstance(part, Color) and isinstance(run[0], Color)
