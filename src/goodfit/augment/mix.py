"""Mixing two images and their targets alike; and label smoothing."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from goodfit.augment.erase import draw_centered_boxes, paste_boxes
from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment
from goodfit.core.settings import NonNegative, Share


@dataclasses.dataclass(frozen=True)
class Mixup(Augment):
    """Mixes each image and its target with a partner: share * own + (1 - share) * partner, with the share drawn from Beta(alpha, alpha).

    Partners come from the same block of 16 consecutive places, and each image has its own share. alpha 0 mixes nothing.

    Helps: overfitting and overconfidence, over many epochs.
    Hurts: underfitting and short budgets; fine detail.
    Cost: one pass over the pixels.
    Source: Zhang et al. 2018, mixup: beyond empirical risk minimization; CS231n, training neural networks II (mixup).
    """

    alpha: NonNegative = 0.2
    p: Share = 1.0

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        share = _draw_shares(chance, self.alpha, self.p)
        partners = chance.at("partners").partners()
        images = batch.images.float().div(255) if batch.images.dtype == torch.uint8 else batch.images
        weight = share.to(images.device)[:, None, None, None]
        return batch.but(
            images=images * weight + images[partners.to(images.device)] * (1 - weight),
            targets=_mix_targets(batch.targets, partners, share),
        )


@dataclasses.dataclass(frozen=True)
class Cutmix(Augment):
    """Replaces a rectangle of each image by its partner's, and mixes the targets by the area replaced.

    The rectangle covers 1 - share of the image, with the share drawn from Beta(alpha, alpha); it is centered anywhere and cut at the
    border, and only what is left of it counts for the targets. Partners come from the same block of 16 consecutive places. alpha 0 mixes
    nothing.

    Helps: overfitting, over many epochs; unlike mixup the pixels stay natural.
    Hurts: small centered objects (the rectangle may miss the partner's); short budgets.
    Cost: almost none.
    Source: Yun et al. 2019, CutMix; CS231n, training neural networks II (cutmix).
    """

    alpha: NonNegative = 1.0
    p: Share = 0.5

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        n, channels, height, width = batch.images.shape
        side = (1 - _draw_shares(chance, self.alpha, self.p).double()).sqrt()
        box = draw_centered_boxes(chance, (height, width), (side * height).floor(), (side * width).floor())
        partners = chance.at("partners").partners()
        cover = batch.images.permute(0, 2, 3, 1)[partners.to(batch.images.device)].reshape(n, height, width * channels)
        share = (1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)).float()
        return batch.but(images=paste_boxes(batch.images, cover, box), targets=_mix_targets(batch.targets, partners, share))


@dataclasses.dataclass(frozen=True)
class Smooth(Augment):
    """Label smoothing: targets * (1 - epsilon) + epsilon / K.

    Helps: overconfidence and wrong labels; usually a little accuracy.
    Hurts: when the probabilities themselves, or distilling from them, matter.
    Cost: none.
    Source: Szegedy et al. 2016, Rethinking the Inception architecture.
    """

    strength_field: ClassVar[str] = "epsilon"
    tasks: ClassVar[tuple[str, ...]] = ("classes",)
    epsilon: Share = 0.1

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        return batch.but(targets=batch.targets * (1 - self.epsilon) + self.epsilon / batch.targets.shape[1])


def _draw_shares(chance: Chance, alpha: float, p: float) -> Tensor:
    """Draw the share of itself that each image keeps, [B] float32: 1 where nothing is mixed."""
    if not alpha:
        return torch.ones(len(chance.places))
    return torch.where(chance.at("p").chosen(p), chance.at("share").beta(alpha, alpha), 1.0)


def _mix_targets(targets: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    weight = share.to(targets.device)[:, None]
    return targets * weight + targets[partners.to(targets.device)] * (1 - weight)
