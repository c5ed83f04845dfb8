"""Everything training needs of the data, in one place: images, labels, splits, statistics and what was noticed on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from goodfit.core.words import count_of, list_some
from goodfit.data.pack import Packed, Progress, pack
from goodfit.data.pixels import Kind, Pixels
from goodfit.data.preprocess import Aspect, Preprocess, box_size
from goodfit.data.scan import Survey
from goodfit.data.splits import Splits, split
from goodfit.data.statistics import Statistics, statistics
from goodfit.data.store import Store

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """`labels` [N] int64, `names` and `extents` [N, 2] int64 (height, width of the originals, upright) are of all N rows, which `store`
    reads; broken rows are in no split. `preprocess` has the training split's mean and std, `digest` hashes the content, names and
    labels of all good images, `broken` gives the reason by name.
    """

    name: str
    classes: tuple[str, ...]
    labels: Tensor
    names: Sequence[str]
    extents: Tensor
    store: Store
    pixels: Pixels
    splits: Splits
    statistics: Statistics
    preprocess: Preprocess
    digest: str
    notes: tuple[str, ...]
    broken: dict[str, str]

    def rows(self, split: SplitName) -> Tensor:
        """int64 rows of a split."""
        rows: np.ndarray[tuple[int], np.dtype[np.int64]] = getattr(self.splits, split)
        return torch.from_numpy(rows)

    def counts(self, split: SplitName = "train") -> tuple[int, ...]:
        """Images per class [K] of a split."""
        return tuple(torch.bincount(self.labels[self.rows(split)], minlength=len(self.classes)).tolist())


def prepare(
    survey: Survey,
    size: tuple[int, int],
    aspect: Aspect,
    validation: float,
    seed: int,
    cache: int | Kind,
    workers: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Pack, split and measure the images of a survey for a model that sees (height, width) `size`.

    `validation` is the share of the training images to hold out where the data has no validation split; `cache` is how many bytes
    may be kept, or the kind of storage; `progress` is called with (images done, images in all) while packing.

    Raises:
        DataError: every image is broken, or a class has no training image.
        GoodfitError: no space is left.
    """
    index, good = survey.index, survey.good
    box = box_size(size, aspect, survey.widths[good], survey.heights[good])
    preprocess = Preprocess(size, box, survey.model_channels, aspect, survey.white)
    packed = pack(survey, preprocess, cache, workers, progress)
    usable = np.ones(len(index), dtype=bool)
    usable[list(packed.broken)] = False
    splits = split(index, usable, validation, seed)
    measured = statistics(packed.pixels, splits.train, packed.folder)
    std = tuple(x or 1.0 for x in measured.std)  # a constant channel, such as alpha that is never used, stays as it is
    return Dataset(
        name=index.name,
        classes=index.classes,
        labels=torch.from_numpy(index.labels),
        names=index.names,
        extents=torch.from_numpy(np.stack([survey.heights, survey.widths], axis=1)),
        store=index.store,
        pixels=packed.pixels,
        splits=splits,
        statistics=measured,
        preprocess=preprocess.but(mean=measured.mean, std=std),
        digest=packed.digest,
        notes=(*index.notes, *survey.notes, *_broken_note(survey, packed), *packed.notes, *splits.made),
        broken={index.names[row]: reason for row, reason in packed.broken.items()},
    )


def _broken_note(survey: Survey, packed: Packed) -> list[str]:
    if not packed.broken:
        return []
    named = [f"{survey.index.names[row]} ({reason})" for row, reason in packed.broken.items()]
    return [f"{count_of(len(named), 'broken image')} left out: {list_some(named, 3)}."]
