"""Marks by which images give their class away: places whose color is the same in nearly all images of a class, and in no others."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from goodfit.doctor.comparison import LabeledImages
from goodfit.doctor.probe import PatchFeatures, Ridge, Share, count_right

LEVELS = 12  # of a channel that count as different
MIN_TELLING = 0.55  # share of a class's images with a level at a place, beyond the next class's, for a mark
MIN_COUNTED = 10  # images of a class
MAX_MARKED = 0.35  # of an image's pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Marks:
    """Where marks are: `places` [H, W]; the median over the classes of how telling the best place of each is; and the share of labels that
    a probe gets right with these places covered, and by chance.
    """

    places: Tensor
    telling: float
    covered: Share
    chance: float


def find_marks(train: LabeledImages, classes: int) -> Marks | None:
    """Find places of images [N, C, H, W] that tell most classes from the others by a fixed color alone, though the rest shows them, too."""
    counts = torch.bincount(train.labels, minlength=classes)
    known = (counts >= MIN_COUNTED).nonzero()[:, 0]
    if len(known) < 2 or 2 * len(known) < int((counts > 0).sum()):
        return None
    telling = measure_telling(train, classes, known)
    best = telling.flatten(1).amax(1)
    if float(best.median()) < MIN_TELLING:
        return None
    places = (telling > MIN_TELLING).any(0)
    if float(places.float().mean()) > MAX_MARKED:
        return None
    covered = cover(train.images, places)
    fit = Ridge(PatchFeatures(covered)(covered), train.labels, classes)
    chance = float(counts.max()) / max(len(train), 1)
    return Marks(places, float(best.median()), count_right(fit.scores, train.labels), chance)


def measure_telling(train: LabeledImages, classes: int, known: Tensor) -> Tensor:
    """For some classes [k], by how much the most telling level at each place is more frequent in a class than in any other: [k, H, W]."""
    x = train.images.float()
    low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
    levels = ((x - low) / (high - low).clamp_min(1e-9) * (LEVELS - 1e-3)).long()
    result = torch.zeros(len(known), *x.shape[2:])
    for channel in range(x.shape[1]):
        for level in range(LEVELS):
            sums = torch.zeros(classes, *x.shape[2:]).index_add_(0, train.labels, (levels[:, channel] == level).float())
            shares = sums[known] / torch.bincount(train.labels, minlength=classes)[known][:, None, None]
            highest = shares.topk(2, dim=0).values
            result = torch.maximum(result, torch.where(shares == highest[:1], shares - highest[1:2], torch.zeros(())))
    return result


def cover(images: Tensor, places: Tensor) -> Tensor:
    """Images [N, C, H, W] with the mean color at some places [H, W] and their neighbors."""
    around = F.max_pool2d(places.float()[None, None], 3, 1, 1)[0, 0] > 0
    return torch.where(around, images.mean((0, 2, 3), keepdim=True), images)
