"""Nearest neighbors: a classifier that remembers the training images and compares."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Model
from goodfit.core.errors import UsageError
from goodfit.core.settings import Range
from goodfit.models.blocks import named

Metric = Literal["l1", "l2", "cosine"]
COMPARED = 2**24  # distances at once
LEAD = 0.1  # of a vote: what the class of the nearest of two equals is ahead by, at most


class Neighbors(nn.Module):
    """[B, ...] -> scores [B, K] by the votes of the `k` nearest of the images it has memorized; before that all classes are alike.

    The images [N, D] and labels [N] are buffers, so they are saved and loaded with the model.
    """

    images: Tensor
    labels: Tensor

    def __init__(self, classes: int, values: int, k: int, metric: Metric) -> None:
        super().__init__()
        self.classes, self.k, self.metric = classes, k, metric
        self.register_buffer("images", torch.empty(0, values))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"k={self.k}, metric={self.metric}"

    @torch.no_grad()
    def memorize(self, images: Tensor, labels: Tensor) -> None:
        """Take normalized images [N, C, H, W] and their labels [N] in place of those it has.

        Raises:
            UsageError: there are fewer images than votes, or not a label for each.
        """
        if len(images) < self.k or labels.shape != (len(images),):
            raise UsageError(
                f"nearest: expected at least {self.k} images and a label for each, received {len(images)} and {labels.numel()} labels."
            )
        self.images = images.flatten(1).to(self.images.device, torch.float32, copy=True)
        self.labels = labels.to(self.images.device, torch.int64, copy=True)

    @torch.no_grad()
    def neighbors(self, images: Tensor) -> Tensor:
        """The places [B, k] of the nearest memorized images, nearest first; of equally near ones the first memorized comes first."""
        known, asked = self.images, images.flatten(1).float()
        if self.metric == "cosine":  # on the unit sphere the nearest have the smallest angle
            known, asked = F.normalize(known), F.normalize(asked)
        places = torch.arange(len(known), device=known.device)
        found = []
        for some in torch.split(asked, max(1, COMPARED // len(known))):
            power = 1.0 if self.metric == "l1" else 2.0
            far = torch.cdist(some, known, p=power, compute_mode="donot_use_mm_for_euclid_dist")  # exact: an image is at 0 from itself
            # the bits of a float that is not negative sort as it does: distance and place in one number, no two of them equal
            keys = (far.view(torch.int32).long() << 32) + places
            found.append(keys.topk(self.k, largest=False).indices)
        return torch.cat(found)

    def scores(self, images: Tensor) -> Tensor:
        """The logarithm of each class's votes [B, K], so that softmax gives their shares; 1 / K of a vote beforehand for every class.

        Among classes with equally many votes the one with the nearest neighbor leads, by a tenth of a vote at most.
        """
        if not len(self.labels):
            return images.new_zeros(len(images), self.classes, dtype=torch.float32)
        mine = F.one_hot(self.labels[self.neighbors(images)], self.classes)  # [B, k, K]
        votes = mine.sum(1)
        ahead = torch.where(votes > 0, self.k - mine.argmax(1), 0) / self.k  # argmax: the rank of a class's nearest neighbor
        return torch.log(votes + LEAD * ahead + 1 / self.classes)

    def forward(self, images: Tensor) -> Tensor:
        """The scores.

        Raises:
            UsageError: it is to be trained, though it has nothing to train.
        """
        if self.training:
            raise UsageError("nearest has nothing to train: it memorizes the training images and is judged as it is.")
        return self.scores(images)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("images", "labels"):  # there are as many as were memorized
            if (saved := state_dict.get(f"{prefix}{name}")) is not None:
                mine = getattr(self, name)
                setattr(self, name, mine.new_empty((len(saved), *mine.shape[1:])))
        super()._load_from_state_dict(state_dict, prefix, *rest)


@dataclasses.dataclass(frozen=True)
class Nearest(Model):
    """The label of the most similar training image, or of most of the `k` most similar; nothing is learned, everything remembered.

    Images are compared number by number: `l1` sums absolute differences, `l2` is the Euclidean distance, `cosine` the angle.

    Helps: as a baseline that every net should beat; finds duplicates.
    Hurts: the distance between pixels says little of what is in an image: a shift of one pixel is far.
    Cost: nothing to train; each prediction compares with every training image, and the model is as large as they are.
    Source: CS231n, image classification (nearest neighbor classifier).
    """

    k: Annotated[int, Range(1, 100)] = 1
    metric: Metric = "l2"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return named({"neighbors": Neighbors(classes, channels * size[0] * size[1], self.k, self.metric)})
