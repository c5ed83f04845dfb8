"""A sample of what a training gets to see: batches of an epoch, of the next one, and of two passes over the validation images."""

from __future__ import annotations

import dataclasses
import itertools
import time
from functools import cached_property

import torch
from torch import Tensor

from goodfit.core.batch import one_hot
from goodfit.doctor.patient import Batches, Patient, PatientSource
from goodfit.inspection.chance import OwnChance

MAX_TRAIN_IMAGES, MAX_VALIDATION_IMAGES, MAX_AGAIN = 6144, 3072, 512
PROBE_IMAGES = 256  # of each split, by which a training is followed


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """A pass over a split: images [N, C, H, W], labels [N], the length of each batch, and how many seconds it took to come."""

    images: Tensor
    labels: Tensor
    lengths: tuple[int, ...]
    seconds: float
    is_whole: bool

    @classmethod
    def read(cls, batches: Batches, limit: int) -> Pass:
        """Read batches until there are `limit` images."""
        start, images, labels, n, is_whole = time.perf_counter(), [], [], 0, True
        for x, y in batches:
            images.append(x.detach().float().clone())
            labels.append(torch.as_tensor(y).detach().clone())
            if (n := n + len(x)) >= limit:
                is_whole = False
                break
        if len({label.ndim for label in labels}) > 1:  # as where only some batches are mixed
            classes = next(label.shape[1] for label in labels if label.ndim == 2)
            labels = [label if label.ndim == 2 else one_hot(label, classes) for label in labels]
        return cls(torch.cat(images), torch.cat(labels), tuple(map(len, images)), time.perf_counter() - start, is_whole)

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, n: int) -> tuple[Tensor, Tensor]:
        """Up to n images, evenly spread over the pass, with their labels."""
        rows = torch.linspace(0, len(self) - 1, min(n, len(self))).round().long()
        return self.images[rows], self.labels[rows]

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The batches as they came."""
        ends = list(itertools.accumulate(self.lengths))
        return [(self.images[end - length : end], self.labels[end - length : end]) for end, length in zip(ends, self.lengths, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """What a training gets to see. `train`: epoch 0; `next_epoch`: the start of epoch 1; `validation`, `validation_again`: two passes."""

    source: PatientSource

    @cached_property
    def train(self) -> Pass:
        return self._read_train(0, MAX_TRAIN_IMAGES)

    @cached_property
    def next_epoch(self) -> Pass:
        return self._read_train(1, MAX_AGAIN)

    @cached_property
    def validation(self) -> Pass:
        return self._read_validation(MAX_VALIDATION_IMAGES, 0)

    @cached_property
    def validation_again(self) -> Pass:
        """The start of another pass by the same patient, which may keep random numbers of its own, and by other random numbers of torch."""
        assert len(self.validation)
        return self._read_validation(MAX_AGAIN, 1)

    @cached_property
    def _validating(self) -> Patient:
        return self.source.make()

    @cached_property
    def train_probe(self) -> tuple[Tensor, Tensor]:
        return self.train.spread(PROBE_IMAGES)

    @cached_property
    def validation_probe(self) -> tuple[Tensor, Tensor]:
        return self.validation.spread(PROBE_IMAGES)

    def _read_train(self, epoch: int, limit: int) -> Pass:
        with OwnChance(self.source.seed + epoch).active():
            return Pass.read(self.source.make().train(epoch), limit)

    def _read_validation(self, limit: int, again: int) -> Pass:
        with OwnChance(self.source.seed + 1000 + again).active():
            return Pass.read(self._validating.validation(), limit)
