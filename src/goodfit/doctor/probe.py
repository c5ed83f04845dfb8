"""Probes: classifiers of the doctor's own on features of small patches, fitted in a second, by which images and labels are compared."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SIDE = 32  # pixels; larger images are averaged down to it
PATCH, FILTERS, LEARNED_PATCHES, ROUNDS = 6, 64, 10_000, 5
THRESHOLD = 0.25  # of a filter's response, in standard deviations of a white patch, below which it counts as none
FLAT = 0.1  # variance of a patch, where the images' is 1, up to which it counts as flat
PENALTIES = (3e-3, 3e-2, 0.1, 0.3, 1.0)  # of the squared weights, per image


class PatchFeatures:
    """Features of images: how strongly 64 patches that are typical of some images respond in each quarter, and the image in 8x8 pixels.

    The filters are found by spherical k-means on white patches. Source: Coates, Ng, Lee, An analysis of single-layer networks in
    unsupervised feature learning, 2011.
    """

    def __init__(self, images: Tensor, seed: int = 0) -> None:
        """Learn the filters from images [N, C, H, W]."""
        x = _limit_side(images)
        self.mean = x.mean((0, 2, 3), keepdim=True)
        self.std = x.std((0, 2, 3), keepdim=True) + 1e-6 * (1 + self.mean.abs())
        x = (x - self.mean) / self.std
        chance = torch.Generator().manual_seed(seed)
        self.size = min(PATCH, *x.shape[2:])
        patches = _draw_patches(x, self.size, chance)
        self.center = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - self.center).T @ (patches - self.center) / len(patches))
        whitening = vectors @ torch.diag((values + FLAT).rsqrt()) @ vectors.T
        filters = _cluster((patches - self.center) @ whitening, chance) @ whitening
        self.offset = filters @ self.center
        self.filters = filters.view(len(filters), x.shape[1], self.size, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """The features [N, D] of images [N, C, H, W]."""
        x = (_limit_side(images) - self.mean) / self.std
        stride = 2 if min(x.shape[2:]) > 12 else 1
        channels, area = x.shape[1], x.shape[1] * self.size**2
        ones = torch.full((1, channels, self.size, self.size), 1 / area)
        sums = self.filters.sum((1, 2, 3))[None, :, None, None]
        parts = []
        for part in x.split(128):  # type: ignore[no-untyped-call]
            mean = F.conv2d(part, ones, stride=stride)
            variance = (F.conv2d(part.square(), ones, stride=stride) - mean.square()).clamp_min(0) * area / max(area - 1, 1)
            response = (F.conv2d(part, self.filters, stride=stride) - sums * mean) / (variance + FLAT).sqrt()
            response = response - self.offset[None, :, None, None]
            both = torch.cat([F.relu(response - THRESHOLD), F.relu(-response - THRESHOLD)], dim=1)
            coarse = F.adaptive_avg_pool2d(part, min(8, *part.shape[2:]))
            parts.append(torch.cat([F.adaptive_avg_pool2d(both, min(2, *both.shape[2:])).flatten(1), 0.3 * coarse.flatten(1)], dim=1))
        return torch.cat(parts)


class Ridge:
    """Ridge regression of one-hot labels on features, of the penalty that predicts each image best from all others.

    `scores` [N, K] are those of each image by the fit on all others (leave-one-out, in closed form); `accuracy` the share they get right.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Fit features [N, D] to labels [N]."""
        self.classes, self.labels = classes, labels
        self._mean, self._std = features.mean(0), features.std(0, correction=0) + 1e-3
        x = self._scale(features)
        self._is_dual = len(x) < x.shape[1]
        values, vectors = torch.linalg.eigh((x @ x.T if self._is_dual else x.T @ x).double())
        values, vectors = values.clamp_min(0).float(), vectors.float()
        basis = vectors if self._is_dual else (x @ vectors) / values.clamp_min(1e-6 * float(values.max())).sqrt()
        self._back = x.T @ vectors / values.clamp_min(1e-6 * float(values.max())).sqrt() if self._is_dual else vectors
        self._basis, self._values = basis, values
        fits = [(float((self.leave_one_out(labels, p).argmax(1) == labels).float().mean()), p) for p in PENALTIES]
        self.accuracy, self.penalty = max(fits)
        self.scores = self.leave_one_out(labels, self.penalty)
        shrunk = values.sqrt() / (values + self.penalty * len(x))
        self._weights = self._back @ (shrunk[:, None] * (basis.T @ self._targets(labels)))

    def leave_one_out(self, labels: Tensor, penalty: float) -> Tensor:
        """The scores [N, K] of each image by a fit on all others, were these their labels [N]."""
        targets = self._targets(labels)
        shrunk = self._values / (self._values + penalty * len(labels))
        leverage = (self._basis.square() @ shrunk)[:, None].clamp_max(0.9999)
        fitted = self._basis @ (shrunk[:, None] * (self._basis.T @ targets))
        scores: Tensor = (fitted - leverage * targets) / (1 - leverage)
        return scores

    def predict(self, features: Tensor) -> Tensor:
        """The scores [N, K] for features [N, D]."""
        scores: Tensor = self._scale(features) @ self._weights
        return scores

    def _scale(self, features: Tensor) -> Tensor:
        x = (features - self._mean) / self._std
        return torch.cat([x, torch.ones(len(x), 1)], dim=1)

    def _targets(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.classes).float()


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of n images."""

    count: int
    n: int

    @property
    def value(self) -> float:
        return self.count / max(self.n, 1)

    def above(self, other: Share) -> float:
        """By how many standard errors this share is above another, with one success and one failure added to each."""
        p, q = (self.count + 1) / (self.n + 2), (other.count + 1) / (other.n + 2)
        return (p - q) / math.sqrt(p * (1 - p) / (self.n + 2) + q * (1 - q) / (other.n + 2))

    def above_value(self, p: float) -> float:
        """By how many standard errors it is above the share p that chance would give."""
        return (self.value - p) / math.sqrt(max(p * (1 - p), 1e-4) / max(self.n, 1))


def count_right(scores: Tensor, labels: Tensor) -> Share:
    """The share of images whose highest score [N, K] is that of their label [N]."""
    return Share(int((scores.argmax(1) == labels).sum()), len(labels))


def compare_right(right: Tensor, other: Tensor) -> tuple[float, float]:
    """How much larger a share of the same images [N] is right than in another case, and by how many standard errors (McNemar)."""
    change = right.double() - other.double()
    return float(change.mean()), float(change.sum() / change.abs().sum().clamp_min(1).sqrt())


def tell_apart(first: Tensor, second: Tensor) -> float:
    """How well a probe tells two sets of images apart by their features [N, D] and [M, D]: the area under the ROC curve of its scores for
    each image by a fit on all others; 0.5 by chance.
    """
    group = torch.tensor([0] * len(first) + [1] * len(second))
    scores = Ridge(torch.cat([first, second]), group, 2).scores
    return area_under_curve(scores[:, 1] - scores[:, 0], group)


def area_under_curve(scores: Tensor, group: Tensor) -> float:
    """The chance that an image of group 1 has a higher score [N] than one of group 0; ties count half."""
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[place]
    ones, zeros = int((group == 1).sum()), int((group == 0).sum())
    return float((ranks[group == 1].double().sum() - ones * (ones + 1) / 2) / max(ones * zeros, 1))


def _limit_side(images: Tensor) -> Tensor:
    """Finite images [N, C, H, W], averaged to at most MAX_SIDE pixels a side."""
    x = images.float().nan_to_num(0.0, 0.0, 0.0)
    size = [min(MAX_SIDE, side) for side in x.shape[2:]]
    return x if size == list(x.shape[2:]) else F.interpolate(x, size=size, mode="area")


def _draw_patches(x: Tensor, size: int, chance: torch.Generator) -> Tensor:
    """Patches of images [N, C, H, W], each without its mean and of standard deviation 1: [LEARNED_PATCHES, C size size]."""
    n, _, height, width = x.shape
    rows = torch.randint(n, (LEARNED_PATCHES,), generator=chance)
    tops = torch.randint(height - size + 1, (LEARNED_PATCHES,), generator=chance)
    lefts = torch.randint(width - size + 1, (LEARNED_PATCHES,), generator=chance)
    patches = x.unfold(2, size, 1).unfold(3, size, 1)[rows, :, tops, lefts].flatten(1)
    patches = patches - patches.mean(1, keepdim=True)
    return patches / (patches.var(1, keepdim=True) + FLAT).sqrt()


def _cluster(patches: Tensor, chance: torch.Generator) -> Tensor:
    """The directions [FILTERS, D] of white patches [N, D] by spherical k-means, a patch and its negative being one."""
    directions = F.normalize(patches[torch.randperm(len(patches), generator=chance)[:FILTERS]], dim=1)
    for _ in range(ROUNDS):
        likeness = patches @ directions.T
        nearest = likeness.abs().argmax(1)
        sums = torch.zeros_like(directions).index_add_(0, nearest, patches * likeness.gather(1, nearest[:, None]))
        directions = torch.where(sums.norm(dim=1, keepdim=True) > 1e-6, F.normalize(sums, dim=1), directions)
    return directions
