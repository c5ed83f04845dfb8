"""All that training needs of the data in one place: images, labels, splits, statistics and notes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.errors import DataError
from goodfit.core.facts import Facts
from goodfit.core.progress import Lengths
from goodfit.core.reporter import Reporter
from goodfit.core.task import TASKS, Numbers, Task
from goodfit.core.words import count_of, list_some
from goodfit.data.headers import ImageHeaders
from goodfit.data.index import Index, IntArray, SplitName, count_outputs
from goodfit.data.pack import CacheLimit, pack_images
from goodfit.data.packed import PackedImages
from goodfit.data.pixels import Pixels
from goodfit.data.preprocess import Aspect, Preprocess, choose_box_size
from goodfit.data.splits import SplitRule, Splits, make_splits
from goodfit.data.statistics import PixelStatistics, measure_statistics
from goodfit.data.store import Store


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The prepared images of one data source.

    `labels` [N] int64, `names` and `extents` [N, 2] int64 (height, width of the originals when upright) cover all N rows, which `store`
    reads; broken rows are in no split. `originals` [N] are the first rows with the same bytes. `preprocess` has the training split's
    mean and std, `digest` hashes the content, names and labels of all good images, `broken` gives the reason by name.

    Of another `task` than classes, `classes` are the names of the labels or numbers, and `labels` [N, K] float32 the targets as the network
    learns them; `truth` has the labels, or the numbers in their own units, as float64.

    `local_train`, of streamed data, are the training rows whose pixels are on this machine throughout.
    """

    name: str
    classes: tuple[str, ...]
    labels: Tensor
    names: Sequence[str]
    extents: Tensor
    store: Store
    pixels: Pixels
    splits: Splits
    originals: IntArray
    statistics: PixelStatistics
    preprocess: Preprocess
    digest: str
    notes: tuple[str, ...]
    broken: dict[str, str]
    task: Task
    truth: Tensor
    local_train: IntArray | None = None

    def rows(self, split: SplitName) -> Tensor:
        """int64 rows of a split."""
        rows: np.ndarray[tuple[int], np.dtype[np.int64]] = getattr(self.splits, split)
        return torch.from_numpy(rows)

    def local_rows(self, split: SplitName) -> Tensor:
        """int64 rows of a split that are read at once, in any order: all of them, but for those of streamed training images a sample."""
        return self.rows(split) if self.local_train is None or split != "train" else torch.from_numpy(self.local_train)

    def spread_rows(self, split: SplitName, n: int) -> Tensor:
        """int64 rows of a split that are read at once, at most `n` of them and evenly spread."""
        rows = self.local_rows(split)
        return rows[torch.linspace(0, len(rows) - 1, min(n, len(rows))).long()]

    def sample_rows(self, split: SplitName, n: int) -> Tensor:
        """int64 rows of a split that are read at once, in ascending order, at most `n` of them and drawn at random, always the same."""
        rows = self.local_rows(split)
        return rows[Chance.of(0, rows, "sample").permutation()[:n].sort().values]

    def class_counts(self, split: SplitName = "train") -> tuple[int, ...]:
        """Images [K] of each class, or with each label, of a split; of numbers all of them."""
        return tuple(count_outputs(self.task.name, self.truth[self.rows(split)].numpy(), len(self.classes)).tolist())

    def facts(self, lengths: Lengths) -> Facts:
        """What parts may know of the data when they are bound."""
        pre, measured = self.preprocess, self.statistics
        return Facts(self.classes, self.class_counts(), pre.channels, pre.size, measured.mean, measured.std, measured.covariance, lengths)


def load_dataset(
    headers: ImageHeaders,
    size: tuple[int, int],
    aspect: Aspect,
    split_rule: SplitRule,
    cache: CacheLimit,
    workers: int = 0,
    reporter: Reporter | None = None,
) -> Dataset:
    """Pack, split and measure the images for a model with the input (height, width) `size`.

    `split_rule` says how splits that the data lacks are made; the packing, and what in the cache is damaged, are reported.

    Raises:
        DataError: every image is broken, or a class has no training image.
        GoodfitError: no space is left.
    """
    index, preprocess = headers.index, choose_preprocess(headers, size, aspect)
    packed = pack_images(headers, preprocess, cache, workers, reporter)
    decodable = np.ones(len(index), dtype=bool)
    decodable[list(packed.broken)] = False
    splits = make_splits(index, decodable, split_rule, packed.originals)
    statistics = measure_statistics(packed.sums, splits.train, math.prod(preprocess.box))
    return join_dataset(headers, preprocess, packed, splits, statistics)


def choose_preprocess(headers: ImageHeaders, size: tuple[int, int], aspect: Aspect) -> Preprocess:
    """How images are prepared for a model with the input (height, width) `size`, without normalization, which is not known yet."""
    box = choose_box_size(size, aspect, headers.widths[headers.usable], headers.heights[headers.usable])
    return Preprocess(size, box, headers.model_channels, aspect, headers.white_level)


def join_dataset(
    headers: ImageHeaders, preprocess: Preprocess, packed: PackedImages, splits: Splits, statistics: PixelStatistics
) -> Dataset:
    """The data set of prepared images with their splits and statistics.

    Raises:
        DataError: all training images have the same number.
    """
    index = headers.index
    task = make_task(index, splits.train)
    truth = torch.from_numpy(index.labels if index.targets is None else index.targets)
    std = tuple(x or 1.0 for x in statistics.std)  # a constant channel, such as alpha that is never used, stays as it is
    return Dataset(
        name=index.name,
        classes=index.classes,
        labels=truth if index.targets is None else task.to_targets(truth),
        names=index.names,
        extents=torch.from_numpy(np.stack([headers.heights, headers.widths], axis=1)),
        store=index.store,
        pixels=packed.pixels,
        splits=splits,
        originals=packed.originals,
        statistics=statistics,
        preprocess=preprocess.but(mean=statistics.mean, std=std),
        digest=packed.digest,
        notes=(*index.notes, *headers.notes, *_broken_note(headers, packed), *packed.notes, *splits.notes),
        broken={index.names[row]: reason for row, reason in packed.broken.items()},
        task=task,
        truth=truth,
    )


def make_task(index: Index, train: IntArray) -> Task:
    """The task of an index; the scale of numbers is that of the training images.

    Raises:
        DataError: all training images have the same number.
    """
    if index.task != "numbers":
        return TASKS[index.task](index.classes)
    assert index.targets is not None
    mean, std = index.targets[train].mean(0), index.targets[train].std(0)
    if not std.all():
        name = index.classes[int(np.flatnonzero(std == 0)[0])]
        raise DataError(f"All training images have the same {name}: there is nothing to learn.")
    return Numbers(index.classes, tuple(mean.tolist()), tuple(std.tolist()))


def _broken_note(headers: ImageHeaders, packed: PackedImages) -> list[str]:
    if not packed.broken:
        return []
    images = [f"{headers.index.names[row]} ({reason})" for row, reason in packed.broken.items()]
    return [f"{count_of(len(images), 'broken image')} left out: {list_some(images, 3)}."]
