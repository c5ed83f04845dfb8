"""Models without parameters: they memorize the training images, or are evaluated as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from goodfit.core.parameters import has_parameters
from goodfit.core.parts import Part, spell
from goodfit.core.words import count_of
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches

IMAGES_READ_AT_ONCE = 256


def memorize_images(part: Part, model: nn.Module, data: Dataset) -> tuple[str, ...]:
    """Pass all training images, normalized and without augmentation, to a model without parameters, if one of its modules has a method
    `memorize(images [N, C, H, W], labels [N])`. Returns what to report; nothing for a model that is trained by steps.
    """
    if has_parameters(model):
        return ()
    memorizer: Any = next((module for module in model.modules() if hasattr(module, "memorize")), None)
    if memorizer is None:
        return (f"{spell(part)} has nothing to train: it is evaluated as it is",)
    pre, rows = data.preprocess, data.rows("train")
    images, first = torch.empty(len(rows), pre.channels, *pre.size), 0
    for batch in iterate_batches(data.pixels, data.labels, rows, len(data.classes), IMAGES_READ_AT_ONCE):
        images[first : first + len(batch)] = pre.normalize(pre.center_crop(batch.images))
        first += len(batch)
    memorizer.memorize(images, data.labels[rows])
    return (f"{spell(part)} has memorized {count_of(len(rows), 'training image')}; there is nothing to train, so no steps are made",)
