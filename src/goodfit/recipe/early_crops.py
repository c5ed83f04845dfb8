"""Whether the crops of a pipe are cut from the original images while they are decoded, and from which windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from goodfit.augment.windows import windowed
from goodfit.core.catalog import Part, name_of
from goodfit.core.chance import of_epoch
from goodfit.core.contracts import Augment
from goodfit.data.crops import OriginalCrops
from goodfit.data.dataset import Dataset
from goodfit.data.loader import TrainingPixels
from goodfit.data.pixels import FilePixels


def cut_early(parts: Sequence[Part], data: Dataset, seed: int) -> tuple[TrainingPixels, int | None]:
    """What the loader reads, and the position of the part that it does already, if any.

    Crops are cut from the originals where those are read at every use, whole images are cropped (not padded or stretched) to the model's
    shape, and the pipe begins with a crop that shrinks. The windows are drawn from the chance that the pipe would have given the part.
    """
    found = windowed(cast(Sequence[Augment], parts))
    if found is None or not isinstance(data.pixels, FilePixels) or data.pixels.storage != "files" or data.preprocess.aspect != "crop":
        return data.pixels, None
    part, position = found
    name, pre, all_extents = name_of(part), data.preprocess, data.extents.double()

    def windows(rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        chance = of_epoch(seed, "augment", epoch, places, rows).at(name, position)
        extents = all_extents[rows]
        return part.window(chance, extents, pre.center_windows(extents), pre.size) / extents.repeat(1, 2)

    return OriginalCrops(data.pixels, pre, windows), position
