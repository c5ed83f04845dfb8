"""Models that nothing is to be trained in: they memorize the training images, or are judged as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from goodfit.core.catalog import Part, spell
from goodfit.core.words import count
from goodfit.data.dataset import Dataset
from goodfit.data.loader import iterate_batches
from goodfit.training.loop import learns

AT_ONCE = 256  # images read at once
# What auto chooses beside such a model: a field, its value, and why.
CHOICES = (
    ("augment", "none", "the training images are memorized as they are"),
    ("batch_size", "all", "all training images are memorized at once"),
    ("schedule", "constant", "none is needed"),
    ("optimizer", "sgd", "none is needed: it is never asked"),
    ("pieces", 1, "there is no step to be cut"),
    ("precision", "fp32", "images are compared exactly"),
    ("layout", "contiguous", "images are compared number by number"),
    ("budget", "1 epoch", "no steps are made, so that it is not used"),
    ("evaluate_every", "1 epoch", "it is judged once"),
)


def memorize(part: Part, model: nn.Module, data: Dataset) -> tuple[str, ...]:
    """Hand a model without parameters all training images, normalized and without augmentation, where one of its modules has a method
    `memorize(images [N, C, H, W], labels [N])`. Returns what to say of it; nothing for a model that learns by steps.
    """
    if learns(model):
        return ()
    eager: Any = next((module for module in model.modules() if hasattr(module, "memorize")), None)
    if eager is None:
        return (f"{spell(part)} has nothing to train: it is judged as it is",)
    pre, rows = data.preprocess, data.rows("train")
    images, first = torch.empty(len(rows), pre.channels, *pre.size), 0
    for batch in iterate_batches(data.pixels, data.labels, rows, len(data.classes), AT_ONCE):
        images[first : first + len(batch)] = pre.normalize(pre.center_crop(batch.images))
        first += len(batch)
    eager.memorize(images, data.labels[rows])
    return (f"{spell(part)} has memorized {count(len(rows), 'training image')}; nothing is to be trained, so no steps are made",)
