"""Mixing: two images in one, their targets mixed alike; and smoothed targets."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from goodfit.augment.erase import centered, paste
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.settings import NonNegative, Share


@dataclasses.dataclass(frozen=True)
class Mixup(Augment):
    """Each image becomes share * itself + (1 - share) * its partner, and so do the targets; the share is of Beta(alpha, alpha).

    Partners come from the same block of 16 consecutive places, each image has a share of its own. alpha 0 mixes nothing.

    Helps: overfitting and overconfidence, over many epochs.
    Hurts: underfitting and short budgets; fine detail.
    Cost: one pass over the pixels.
    Source: Zhang et al. 2018, mixup: beyond empirical risk minimization; CS231n, training neural networks II (mixup).
    """

    alpha: NonNegative = 0.2
    p: Share = 1.0

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        share = _share(chance, self.alpha, self.p)
        partners = chance.at("partners").partners()
        images = batch.images.float().div(255) if batch.images.dtype == torch.uint8 else batch.images
        own = share.to(images.device)[:, None, None, None]
        return batch.but(
            images=images * own + images[partners.to(images.device)] * (1 - own),
            targets=_mixed_targets(batch.targets, partners, share),
        )


@dataclasses.dataclass(frozen=True)
class Cutmix(Augment):
    """A rectangle of each image is replaced by its partner's, and the targets are mixed by the area it takes.

    The rectangle covers 1 - share of the image with share of Beta(alpha, alpha), centered anywhere and cut at the border; what counts for
    the targets is what is left of it. Partners come from the same block of 16 consecutive places. alpha 0 mixes nothing.

    Helps: overfitting, over many epochs; unlike mixup the pixels stay natural.
    Hurts: small centered objects (the rectangle may miss the partner's); short budgets.
    Cost: almost none.
    Source: Yun et al. 2019, CutMix; CS231n, training neural networks II (cutmix).
    """

    alpha: NonNegative = 1.0
    p: Share = 0.5

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        n, channels, height, width = batch.images.shape
        side = (1 - _share(chance, self.alpha, self.p).double()).sqrt()
        box = centered(chance, (height, width), (side * height).floor(), (side * width).floor())
        partners = chance.at("partners").partners()
        cover = batch.images.permute(0, 2, 3, 1)[partners.to(batch.images.device)].reshape(n, height, width * channels)
        share = (1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)).float()
        return batch.but(images=paste(batch.images, cover, box), targets=_mixed_targets(batch.targets, partners, share))


@dataclasses.dataclass(frozen=True)
class Smooth(Augment):
    """Label smoothing: targets * (1 - epsilon) + epsilon / K.

    Helps: overconfidence and wrong labels; usually a little accuracy.
    Hurts: when the probabilities themselves, or distilling from them, matter.
    Cost: none.
    Source: Szegedy et al. 2016, Rethinking the Inception architecture.
    """

    dial: ClassVar[str] = "epsilon"
    epsilon: Share = 0.1

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        return batch.but(targets=batch.targets * (1 - self.epsilon) + self.epsilon / batch.targets.shape[1])


def _share(chance: Chance, alpha: float, p: float) -> Tensor:
    """What each image keeps of itself [B], float32: 1 where nothing is to be mixed."""
    if not alpha:
        return torch.ones(len(chance.places))
    return torch.where(chance.at("p").chosen(p), chance.at("share").beta(alpha, alpha), 1.0)


def _mixed_targets(targets: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    own = share.to(targets.device)[:, None]
    return targets * own + targets[partners.to(targets.device)] * (1 - own)
