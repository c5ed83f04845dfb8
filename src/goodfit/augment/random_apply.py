"""The base of augments that change a share of the images, each on its own, and leave the others as they are."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from goodfit.core.batch import Batch
from goodfit.core.chance import Chance
from goodfit.core.contracts import Augment


class RandomApply(Augment):
    """An augment that changes a share `p` of the images; only their pixels are touched.

    With `keeps_uint8`, uint8 images stay uint8; otherwise all images become float 0..1, whichever are chosen.
    """

    keeps_uint8: ClassVar[bool] = False
    p: float

    @abstractmethod
    def change(self, images: Tensor, chance: Chance) -> Tensor:
        """Return images [K, C, H, W], uint8 or float 0..1, changed, in new memory: in their own dtype if `keeps_uint8`, else float."""

    def __call__(self, batch: Batch, chance: Chance, t: float) -> Batch:
        images = batch.images
        rows = chance.at("p").chosen(self.p).nonzero()[:, 0]
        if 0 < len(rows) == len(images):
            return batch.but(images=self.change(images, chance))
        pixels = images.permute(0, 2, 3, 1).contiguous()
        out = pixels.clone() if self.keeps_uint8 or images.is_floating_point() else pixels.float().div_(255)
        if len(rows):
            device_rows = rows.to(images.device)
            selected = pixels.index_select(0, device_rows).permute(0, 3, 1, 2)
            changed = self.change(selected, Chance(chance.key, chance.places[rows]))
            out.index_copy_(0, device_rows, changed.permute(0, 2, 3, 1).contiguous())
        return batch.but(images=out.permute(0, 3, 1, 2))


def keep_alpha(images: Tensor, changed: Tensor) -> Tensor:
    """Join the changed colors [B, C up to 3, H, W] of images [B, C, H, W] with their original alpha, if there is a fourth channel."""
    if images.shape[1] < 4:
        return changed
    alpha = images[:, 3:]
    return torch.cat([changed, alpha if alpha.dtype == changed.dtype else alpha.float().div_(255)], dim=1)
