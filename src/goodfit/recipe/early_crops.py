"""Cropping while decoding: whether the first crop of an augmentation is cut from the original images, and from which windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from goodfit.augment.crop import find_early_crop
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.parts import Part, part_name
from goodfit.data.crops import OriginalCrops
from goodfit.data.dataset import Dataset
from goodfit.data.loader import TrainingPixels
from goodfit.data.pixels import FilePixels


def crop_early(parts: Sequence[Part], data: Dataset, seed: int) -> tuple[TrainingPixels, int | None]:
    """The source the loader reads, and the position of the part that it already applies, if any.

    Crops are cut from the originals where those are read at every use, images are cropped (not padded or stretched) to the model's shape,
    and the pipe begins with a crop that shrinks. The windows are drawn from the same chance that the pipe would give the part.
    """
    match = find_early_crop(cast(Sequence[Augment], parts))
    are_originals = isinstance(data.pixels, FilePixels) and data.pixels.storage in ("files", "stream")
    if match is None or not are_originals or data.preprocess.aspect != "crop":
        return data.pixels, None
    part, position = match
    name, pre, all_extents = part_name(part), data.preprocess, data.extents.double()

    def windows(rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        chance = Chance.for_epoch(seed, "augment", epoch, places, rows).at(name, position)
        extents = all_extents[rows]
        return part.draw_windows(chance, extents, pre.center_windows(extents), pre.size) / extents.repeat(1, 2)

    return OriginalCrops(cast(FilePixels, data.pixels), pre, windows), position
