"""Mean, standard deviation and covariance of the training pixels, exact: each image's sums are kept while it is packed."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

VALUES_AT_ONCE = 1_000_000  # eight megabytes as float64


@dataclasses.dataclass(frozen=True)
class PixelStatistics:
    """Per channel `mean` and `std` [C] and `covariance` [C][C] of the pixels, on a scale of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]


def sum_images(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum the values of each image [N, H, W, C] by channel, and their products by pair of channels: int64 [N, C + C (C + 1) / 2].

    Whole numbers below 2^53 are exact as float64, for which NumPy's sums are several times as fast.
    """
    step = max(1, VALUES_AT_ONCE // max(1, images[0].size)) if len(images) else 1
    if len(images) > step:
        return np.concatenate([sum_images(images[start : start + step]) for start in range(0, len(images), step)])
    planes = np.ascontiguousarray(images.reshape(len(images), -1, images.shape[3]).transpose(2, 0, 1)).astype(np.float64)
    products = [np.einsum("np,np->n", planes[i], planes[j]) for i, j in _pairs(len(planes))]
    return np.stack([*planes.sum(axis=2), *products], axis=1).astype(np.int64)


def measure_statistics(sums: NDArray[np.int64], rows: NDArray[np.int64], pixels: int) -> PixelStatistics:
    """Compute the statistics of rows, which must be the training split's, from the sums of all images, of `pixels` pixels each."""
    channels = next(c for c in itertools.count(1) if c + c * (c + 1) // 2 == sums.shape[1])
    total, n = sums[rows].sum(axis=0).astype(np.float64), len(rows) * pixels
    mean, products = total[:channels] / n, np.empty((channels, channels))
    for value, (i, j) in zip(total[channels:], _pairs(channels), strict=True):
        products[i, j] = products[j, i] = value
    covariance = (products / n - np.outer(mean, mean)) / 255**2
    std = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    return PixelStatistics(tuple((mean / 255).tolist()), tuple(std.tolist()), tuple(tuple(row) for row in covariance.tolist()))


def _pairs(channels: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(channels), 2))
