"""The images that are audited as plain arrays, with what their files say of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from goodfit.core.errors import UsageError
from goodfit.core.reporter import Reporter
from goodfit.data.dataset import Dataset, load_dataset
from goodfit.data.headers import ImageHeaders
from goodfit.data.index import SPLITS, UNASSIGNED, IntArray
from goodfit.data.splits import SplitRule
from goodfit.doctor.pixels import blocks, spread, to_tensor
from goodfit.recipe.parts import refuse_other_tasks
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import cache_limit, is_streamed, read_image_headers

SIDE = 64  # pixels: larger images are looked at in this size, stretched; so that near duplicates have detail to be compared by
MAX_IMAGES = 200_000  # of a table: their pixels are held in memory, 2.5 GB for so many in color


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """Small `images` uint8 [N, H, W, C], their `labels` [N] into `classes`, `splits` [N] (0 training, 1 validation, 2 test), `names` [N].

    `properties` [N] are what the files say of them: width, height, channels. `broken` gives the reason for each image that cannot be read
    and is not among the N. `rows` [N] are those of the `data` that the images were read of, where they come from files.
    """

    images: NDArray[np.uint8]
    labels: IntArray
    splits: NDArray[np.int8]
    names: Sequence[str]
    classes: tuple[str, ...]
    properties: Mapping[str, IntArray] = dataclasses.field(default_factory=dict)
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rows: IntArray | None = None
    data: Dataset | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def of_split(self, split: int) -> IntArray:
        """The places of the images of a split."""
        return np.flatnonzero(self.splits == split)

    def name(self, place: int) -> str:
        """The name of the image at a place."""
        return self.names[int(place)]

    def name_groups(self, groups: Iterable[IntArray | Sequence[int]]) -> tuple[tuple[str, ...], ...]:
        """The names of the images at the places of each group."""
        return tuple(tuple(self.names[int(place)] for place in group) for group in groups)


def open_table(recipe: Recipe, reporter: Reporter) -> ImageTable:
    """Open the images of a recipe in the splits that training would use, in a size of their own; they are packed once.

    Raises:
        DataError: there are no images, or they cannot be trained on.
    """
    refuse_other_tasks(recipe.task, "The audit")
    if is_streamed(recipe):
        raise UsageError(f'Expected images that are on this machine, for the audit compares all of them; "{recipe.data}" is streamed.')
    headers = read_image_headers(recipe, reporter)
    share = recipe.validation if isinstance(recipe.validation, float) else 0.0
    rule = SplitRule(share, recipe.split_seed, drop_duplicates=recipe.duplicates == "drop")
    data = load_dataset(headers, choose_audit_size(headers), "stretch", rule, cache_limit(recipe.but(storage="auto")), reporter=reporter)
    return make_table(data, headers)


def choose_audit_size(headers: ImageHeaders) -> tuple[int, int]:
    """The median height and width of the images, each at most SIDE."""
    heights, widths = headers.heights[headers.usable], headers.widths[headers.usable]
    return min(SIDE, int(np.median(heights))), min(SIDE, int(np.median(widths)))


def make_table(data: Dataset, headers: ImageHeaders | None = None) -> ImageTable:
    """Read the images of all splits of a dataset into memory, at most SIDE pixels a side, evenly spread ones where they are too many."""
    splits = np.full(len(data.labels), UNASSIGNED, dtype=np.int8)
    for number, split in enumerate(SPLITS):
        splits[getattr(data.splits, split)] = number
    rows = np.flatnonzero(splits != UNASSIGNED)
    if len(rows) > MAX_IMAGES:
        rows = rows[spread(len(rows), MAX_IMAGES)]
    properties = {"width": headers.widths[rows], "height": headers.heights[rows], "channels": headers.channels[rows]} if headers else {}
    parts = [to_tensor(data.pixels.read(rows[block]).numpy(), SIDE).permute(0, 2, 3, 1) for block in blocks(len(rows))]
    return ImageTable(
        torch.cat(parts).contiguous().numpy(),
        data.labels.numpy()[rows],
        splits[rows],
        [data.names[row] for row in rows.tolist()],
        data.classes,
        properties,
        data.broken,
        rows,
        data,
    )
