"""What a part may know of the data and the budget."""

from __future__ import annotations

import dataclasses

from goodfit.core.progress import Lengths


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a part may know of the data and the budget when it is bound.

    `size` is (height, width) of what the model sees; `mean` [C], `std` [C] and `covariance` [C, C] are of the training split, on a
    scale of 0 to 1; `counts` [K] are training images per class; `lengths` turns "10 epochs" into a share of the budget.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    lengths: Lengths
