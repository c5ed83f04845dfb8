"""Features of images for tests of labels and splits: their pixels, made few by principal components."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from goodfit.data.index import IntArray
from goodfit.doctor.pixels import blocks, to_tensor

SIDE, COMPONENTS = 16, 64  # pixels a side that are looked at, and components kept: more make neighbors of photos no better
MAX_FITTED = 20_000  # images to which the components are fitted
ROWS_AT_ONCE = 1024

FloatArray = NDArray[np.float32]


def reduce_pixels(images: NDArray[np.uint8]) -> FloatArray:
    """The principal components of the pixels of images [N, H, W, C]: float32 [N, D], the first ones of the largest variance.

    Each component is divided by the fourth root of its variance: halfway between pixels, where the brightness of the ground outweighs what
    stands on it, and whitened ones, where noise counts as much as anything.
    """
    if not len(images):
        return np.zeros((0, 1), dtype=np.float32)
    small = to_tensor(images, SIDE)
    pixels = torch.cat([small[rows].float().flatten(1) for rows in blocks(len(small))]) / 255
    step = -(-len(pixels) // MAX_FITTED)
    mean = pixels[::step].mean(0)
    pixels -= mean
    fitted = pixels[::step]
    values, vectors = torch.linalg.eigh(fitted.T @ fitted / max(len(fitted), 1))
    values, vectors = values.flip(0)[:COMPONENTS], vectors.flip(1)[:, :COMPONENTS]
    kept = values > 1e-6 * values[0].clamp(min=1e-12)
    result: FloatArray = (pixels @ (vectors[:, kept] / values[kept] ** 0.25)).numpy()
    return result


def find_neighbors(features: FloatArray, k: int, gallery: FloatArray | None = None) -> IntArray:
    """The rows of the k nearest of a `gallery` [M, D] for each of `features` [N, D]: int64 [N, k], the nearest first.

    Without a gallery it is the features themselves, and no image is its own neighbor.
    """
    queries, others = torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(gallery if gallery is not None else features)
    halves = others.square().sum(1) / 2
    found = []
    for start in range(0, len(queries), ROWS_AT_ONCE):
        block = queries[start : start + ROWS_AT_ONCE]
        near = torch.addmm(halves, block, others.T, alpha=-1)
        if gallery is None:
            near[torch.arange(len(block)), torch.arange(start, start + len(block))] = torch.inf
        found.append(near.topk(min(k, len(others) - (gallery is None)), dim=1, largest=False).indices)
    result: IntArray = torch.cat(found).numpy() if found else np.zeros((0, k), dtype=np.int64)
    return result


def standardize(features: FloatArray) -> FloatArray:
    """Features [N, D] with mean 0 and standard deviation 1; those that never change are 0."""
    mean, std = features.mean(axis=0), features.std(axis=0)
    return np.where(std > 1e-6 * (1 + np.abs(mean)), (features - mean) / np.where(std > 0, std, 1), 0).astype(np.float32)
