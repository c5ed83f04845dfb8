"""Mean, standard deviation and covariance of the training pixels, exact."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from goodfit.core.chance import Chance
from goodfit.core.files import write_atomic
from goodfit.data.pixels import Pixels, Rows
from goodfit.data.store import hash_fields

MAX_EXACT_VALUES = 1_000_000_000  # beyond it a seeded sample of the rows will do: its error is far below what training can notice
CHUNK_VALUES = 8_000_000


@dataclasses.dataclass(frozen=True)
class PixelStatistics:
    """Per channel `mean` and `std` [C] and `covariance` [C][C] of the pixels, on a scale of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]


def measure_statistics(pixels: Pixels, rows: Rows, cache: Path | None = None) -> PixelStatistics:
    """Measure the statistics of rows, which must be the training split's; they are kept in the folder `cache` for the next time."""
    sample = _sample_rows(np.asarray(rows), int(np.prod(pixels.shape[1:])))
    path = cache / f"statistics-{hash_fields(sample.tobytes())}.json" if cache else None
    if path is not None and path.is_file():
        content = json.loads(path.read_text())
        return PixelStatistics(tuple(content["mean"]), tuple(content["std"]), tuple(tuple(row) for row in content["covariance"]))
    statistics = _compute(pixels, sample)
    if path is not None:
        write_atomic(path, json.dumps(dataclasses.asdict(statistics)))
    return statistics


def _sample_rows(rows: NDArray[np.int64], values_per_image: int) -> NDArray[np.int64]:
    n = max(1, MAX_EXACT_VALUES // values_per_image)
    if len(rows) <= n:
        return rows
    order = Chance.of(0, torch.arange(len(rows)), "statistics").permutation()[:n].numpy()
    return np.sort(rows[order])


def _compute(pixels: Pixels, rows: NDArray[np.int64]) -> PixelStatistics:
    """Sum values and products as float64: they are integers below 2^53, so no digit is lost until the last division."""
    channels = pixels.shape[3]
    step = max(1, CHUNK_VALUES // int(np.prod(pixels.shape[1:])))
    sums, products, n = np.zeros(channels), np.zeros((channels, channels)), 0
    for start in range(0, len(rows), step):
        values = pixels.read(rows[start : start + step]).numpy().reshape(-1, channels).astype(np.float64)
        sums += values.sum(axis=0)
        products += values.T @ values
        n += len(values)
    mean = sums / n
    covariance = (products / n - np.outer(mean, mean)) / 255**2
    std = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    return PixelStatistics(tuple((mean / 255).tolist()), tuple(std.tolist()), tuple(tuple(row) for row in covariance.tolist()))
