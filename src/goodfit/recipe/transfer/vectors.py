"""Features in a file of their own, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from goodfit.core.files import writing
from goodfit.data.dataset import Dataset
from goodfit.data.index import SplitName
from goodfit.recipe.transfer.features import Net, features


def save(net: Net, data: Dataset, stage: str, out: Path, splits: Sequence[SplitName]) -> tuple[int, ...]:
    """Write features [N, D] float32, labels [N], names [N], splits [N] and classes [K] to an .npz file; returns (N, D).

    Raises:
        UsageError: the stage is not there.
        GoodfitError: the file cannot be written.
    """
    parts = [data.rows(split) for split in splits]
    found = [features(net, data, rows, [stage])[stage] for rows in parts if len(rows)]
    rows = torch.cat(parts)
    vectors = np.concatenate(found)
    with writing(out) as file:
        np.savez(
            file,
            features=vectors,
            labels=data.labels[rows].numpy(),
            names=np.array([data.names[row] for row in rows.tolist()]),
            splits=np.repeat(np.array(splits), [len(part) for part in parts]),
            classes=np.array(data.classes),
        )
    return vectors.shape
