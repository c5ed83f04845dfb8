"""Two sets of images against each other: can a classifier tell them apart, and how their colors differ."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from goodfit.core.chance import Chance
from goodfit.core.interval import Z_95
from goodfit.data.index import IntArray
from goodfit.doctor.audit.features import FloatArray, reduce_pixels
from goodfit.doctor.probe import tell_apart

MAX_IMAGES = 2000  # of each set: with so many the error of the AUC is below 0.01
MIN_IMAGES = 50  # of each set: fewer do not say how well a classifier of so many features tells others apart


@dataclasses.dataclass(frozen=True)
class TwoSamples:
    """How well a classifier tells two sets of images apart: `auc`, 0.5 where it cannot, and its 95 % `interval`; for each set the `means`
    and `stds` of each channel, from 0 to 1.
    """

    auc: float
    interval: tuple[float, float]
    means: tuple[tuple[float, ...], tuple[float, ...]]
    stds: tuple[tuple[float, ...], tuple[float, ...]]


def compare_sets(
    first: NDArray[np.uint8], second: NDArray[np.uint8], labels: tuple[IntArray, IntArray] | None = None, seed: int = 0
) -> TwoSamples:
    """Compare two sets of images [N, H, W, C] of the same channels.

    With the `labels` of both, as many images of each class are taken from both, so that other class counts do not count as a difference.
    """
    rows = draw_alike(labels or (np.zeros(len(first), dtype=np.int64), np.zeros(len(second), dtype=np.int64)), seed, labels is not None)
    images = [np.ascontiguousarray(x[r]) for x, r in zip((first, second), rows, strict=True)]
    measured = [_measure_channels(x) for x in images]
    means, stds = (measured[0][0], measured[1][0]), (measured[0][1], measured[1][1])
    n = [len(x) for x in images]
    if min(n) < MIN_IMAGES:
        return TwoSamples(0.5, (0.0, 1.0), means, stds)
    side = [min(x.shape[axis] for x in images) for axis in (1, 2)]
    pixels = np.concatenate([x if list(x.shape[1:3]) == side else _resize(x, side) for x in images])
    simple = np.concatenate([describe_simply(x) for x in images])
    features = torch.from_numpy(np.concatenate([simple, reduce_pixels(pixels)], axis=1))
    auc = tell_apart(features[: n[0]], features[n[0] :])
    error = auc_error(auc, n[0], n[1])
    return TwoSamples(auc, (max(0.0, auc - Z_95 * error), min(1.0, auc + Z_95 * error)), means, stds)


def _measure_channels(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel of images, from 0 to 1; those of each image are float64."""
    if not len(images):
        return (), ()
    flat = torch.from_numpy(images).flatten(1, 2)
    sums, squares = flat.sum(1, dtype=torch.float64).sum(0), torch.zeros(flat.shape[2], dtype=torch.float64)
    for block in range(0, len(flat), 512):
        squares += flat[block : block + 512].float().square().sum(1).double().sum(0)
    mean = sums / flat[..., 0].numel()
    std = (squares / flat[..., 0].numel() - mean.square()).clamp(min=0).sqrt()
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def draw_alike(labels: tuple[IntArray, IntArray], seed: int, is_balanced: bool) -> tuple[IntArray, IntArray]:
    """Draw rows of two sets, at most MAX_IMAGES of each; when balanced, so that each class has the same share of both."""
    orders = [Chance.of(seed, torch.arange(len(x)), "two samples").permutation().numpy() for x in labels]
    if not is_balanced:
        return orders[0][:MAX_IMAGES], orders[1][:MAX_IMAGES]
    classes = int(max(x.max(initial=0) for x in labels)) + 1
    counts = np.stack([np.bincount(x, minlength=classes) for x in labels])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wanted = shares.min(axis=0)
    chosen = []
    for order, x, count in zip(orders, labels, counts, strict=True):
        total = min(MAX_IMAGES, *(int(c // s) for c, s in zip(count.tolist(), wanted.tolist(), strict=True) if s > 0), len(x))
        most = np.floor(wanted * total + 1e-9).astype(np.int64)
        places = np.empty(len(x), dtype=np.int64)
        by_class = order[np.argsort(x[order], kind="stable")]
        places[by_class] = np.arange(len(x)) - np.repeat(np.cumsum(count) - count, count)
        chosen.append(np.flatnonzero(places < most[x]))
    return chosen[0], chosen[1]


def _resize(images: NDArray[np.uint8], side: list[int]) -> NDArray[np.uint8]:
    moved = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(moved, size=side, mode="area").round_().to(torch.uint8)
    result: NDArray[np.uint8] = small.permute(0, 2, 3, 1).numpy()
    return result


def describe_simply(images: NDArray[np.uint8]) -> FloatArray:
    """Mean, deviation, extremes and share of extremes of each channel, and the strength of edges across and down: float32 [N, D]."""
    parts = [np.zeros((0, 8 * images.shape[3]), dtype=np.float32)]
    for start in range(0, len(images), 256):
        x = torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).permute(0, 3, 1, 2).float()
        flat = x.flatten(2)
        edges = [(x[..., 1:] - x[..., :-1]).abs().mean((2, 3)), (x[:, :, 1:] - x[:, :, :-1]).abs().mean((2, 3))]
        extremes = [(flat <= 0).float().mean(2), (flat >= 255).float().mean(2)]
        parts.append(torch.cat([flat.mean(2), flat.std(2), flat.amin(2), flat.amax(2), *extremes, *edges], dim=1).numpy())
    return np.concatenate(parts)


def auc_error(auc: float, zeros: int, ones: int) -> float:
    """The standard error of an area under the curve of so many images of each group (Hanley and McNeil 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    return float(np.sqrt((auc * (1 - auc) + (ones - 1) * (q1 - auc**2) + (zeros - 1) * (q2 - auc**2)) / max(ones * zeros, 1)))
