"""Nearest neighbors: a classifier that stores the training images and compares with them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Model
from goodfit.core.errors import UsageError
from goodfit.core.settings import Range
from goodfit.models.blocks import named_sequential

Metric = Literal["l1", "l2", "cosine"]
MAX_DISTANCES_AT_ONCE = 2**24
TIE_BREAK = 0.1  # of a vote: the most by which the nearer of two classes with equally many votes leads


class Neighbors(nn.Module):
    """[B, ...] -> scores [B, K] from the votes of the `k` nearest memorized images; all classes score the same before there are any.

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
        """Store normalized images [N, C, H, W] and their labels [N] in place of earlier ones.

        Raises:
            UsageError: there are fewer images than votes, or the number of labels differs from that of images.
        """
        if len(images) < self.k or labels.shape != (len(images),):
            raise UsageError(
                f"nearest: expected at least {self.k} images and a label for each, received {len(images)} and {labels.numel()} labels."
            )
        self.images = images.flatten(1).to(self.images.device, torch.float32, copy=True)
        self.labels = labels.to(self.images.device, torch.int64, copy=True)

    @torch.no_grad()
    def find_neighbors(self, images: Tensor) -> Tensor:
        """The indices [B, k] of the nearest memorized images, nearest first; of equally near ones, the one memorized first comes first."""
        memorized, queries = self.images, images.flatten(1).float()
        if self.metric == "cosine":  # on the unit sphere the nearest have the smallest angle
            memorized, queries = F.normalize(memorized), F.normalize(queries)
        indices = torch.arange(len(memorized), device=memorized.device)
        nearest = []
        for chunk in torch.split(queries, max(1, MAX_DISTANCES_AT_ONCE // len(memorized))):
            power = 1.0 if self.metric == "l1" else 2.0
            distances = torch.cdist(chunk, memorized, p=power, compute_mode="donot_use_mm_for_euclid_dist")  # exact: 0 from itself
            # The bits of a non-negative float sort as it does, so distance and index fit into one number, and no two are equal.
            keys = (distances.view(torch.int32).long() << 32) + indices
            nearest.append(keys.topk(self.k, largest=False).indices)
        return torch.cat(nearest)

    def scores(self, images: Tensor) -> Tensor:
        """The logarithm of each class's votes [B, K], so that softmax gives their shares; every class starts with 1 / K of a vote.

        Among classes with equally many votes the one with the nearest neighbor leads slightly.
        """
        if not len(self.labels):
            return images.new_zeros(len(images), self.classes, dtype=torch.float32)
        ballots = F.one_hot(self.labels[self.find_neighbors(images)], self.classes)  # [B, k, K]
        votes = ballots.sum(1)
        lead = torch.where(votes > 0, self.k - ballots.argmax(1), 0) / self.k  # argmax: the rank of a class's nearest neighbor
        return torch.log(votes + TIE_BREAK * lead + 1 / self.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Score images [B, ...] -> [B, K].

        Raises:
            UsageError: it is in training mode, though it has nothing to train.
        """
        if self.training:
            raise UsageError("nearest has nothing to train: it memorizes the training images and is evaluated as it is.")
        return self.scores(images)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("images", "labels"):  # grow the buffers to the number of images that were memorized
            if (saved := state_dict.get(f"{prefix}{name}")) is not None:
                buffer = getattr(self, name)
                setattr(self, name, buffer.new_empty((len(saved), *buffer.shape[1:])))
        super()._load_from_state_dict(state_dict, prefix, *rest)


@dataclasses.dataclass(frozen=True)
class Nearest(Model):
    """The label of the most similar training image, or a vote among the `k` most similar; it learns nothing and stores every image.

    Images are compared number by number: `l1` sums absolute differences, `l2` is the Euclidean distance, `cosine` the angle.

    Helps: as a baseline that every net should beat; finds duplicates.
    Hurts: the distance between pixels says little of what is in an image: a shift of one pixel is far.
    Cost: nothing to train; each prediction compares with every training image, and the model is as large as they are.
    Source: CS231n, image classification (nearest neighbor classifier).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classes",)
    k: Annotated[int, Range(1, 100)] = 1
    metric: Metric = "l2"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return named_sequential({"neighbors": Neighbors(classes, channels * size[0] * size[1], self.k, self.metric)})
