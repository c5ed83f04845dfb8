"""What training and validation images teach about each other's labels, as the network gets them and as they lie on disk."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from goodfit.doctor.patient import Patient
from goodfit.doctor.pixels import hash_images, spread, to_images
from goodfit.doctor.probe import PatchFeatures, Ridge, Share, count_right, tell_apart
from goodfit.doctor.sample import Sample

MAX_TRAIN, MAX_VALIDATION = 2400, 1200  # images on which probes are fitted
MAX_TOLD_APART = 600  # images of each split


@dataclasses.dataclass(frozen=True, eq=False)
class LabeledImages:
    """Some images [N, C, H, W] of a split in one form, with whole labels [N] in range, in the order in which they came."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def chance(self) -> float:
        """The share of the largest class."""
        return float(torch.bincount(self.labels).max()) / max(len(self), 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Both splits in one form, and the probes fitted on each."""

    train: LabeledImages
    validation: LabeledImages
    classes: int

    @cached_property
    def _extract(self) -> PatchFeatures:
        return PatchFeatures(self.train.images)

    @cached_property
    def train_features(self) -> Tensor:
        return self._extract(self.train.images)

    @cached_property
    def validation_features(self) -> Tensor:
        return self._extract(self.validation.images)

    @cached_property
    def train_fit(self) -> Ridge:
        return Ridge(self.train_features, self.train.labels, self.classes)

    @cached_property
    def validation_fit(self) -> Ridge:
        return Ridge(self.validation_features, self.validation.labels, self.classes)

    @cached_property
    def validation_scores(self) -> Tensor:
        """The scores of the validation images by the fit on the training images."""
        return self.train_fit.predict(self.validation_features)

    @cached_property
    def train_scores(self) -> Tensor:
        """The scores of the training images by the fit on the validation images."""
        return self.validation_fit.predict(self.train_features)

    def predict(self, images: Tensor) -> Tensor:
        """The scores [N, K] of other images [N, C, H, W] by the fit on the training images."""
        return self.train_fit.predict(self._extract(images))

    @cached_property
    def within_train(self) -> Share:
        """Training images whose label the fit on all other training images gets right."""
        return count_right(self.train_fit.scores, self.train.labels)

    @cached_property
    def within_validation(self) -> Share:
        return count_right(self.validation_fit.scores, self.validation.labels)

    @cached_property
    def across(self) -> Share:
        """Validation images whose label the fit on the training images gets right."""
        return count_right(self.validation_scores, self.validation.labels)

    @cached_property
    def across_back(self) -> Share:
        return count_right(self.train_scores, self.train.labels)

    @cached_property
    def domain_area(self) -> float:
        """How well the splits are told apart by their images: area under the curve of a probe, 0.5 by chance."""
        n = min(len(self.train), len(self.validation), MAX_TOLD_APART)
        return tell_apart(self.train_features[spread(len(self.train), n)], self.validation_features[spread(len(self.validation), n)])


class Comparison:
    """The splits of a patient compared: `inputs`, as the network gets them, and `raw`, as they lie on disk, where that is known."""

    def __init__(self, patient: Patient, sample: Sample) -> None:
        self.patient, self.sample, self.classes = patient, sample, patient.classes

    @cached_property
    def inputs(self) -> Pair:
        train, validation = self.sample.train, self.sample.validation
        return Pair(
            take_labeled(train.images, train.labels, self.classes, MAX_TRAIN),
            take_labeled(validation.images, validation.labels, self.classes, MAX_VALIDATION),
            self.classes,
        )

    @cached_property
    def raw(self) -> Pair | None:
        if not self.patient.raw or {"train", "validation"} - set(self.patient.raw):
            return None
        splits = []
        for (pixels, labels), limit in ((self.patient.raw["train"], MAX_TRAIN), (self.patient.raw["validation"], MAX_VALIDATION)):
            rows = spread(len(labels), 2 * limit)
            splits.append(take_labeled(to_images(pixels[rows]), torch.as_tensor(labels[rows]), self.classes, limit))
        return Pair(splits[0], splits[1], self.classes)

    @cached_property
    def best(self) -> Pair:
        """The images on disk, where known, for nothing blurs what they teach; else the inputs of the network."""
        return self.raw or self.inputs

    @cached_property
    def is_augmented(self) -> bool:
        """Whether training images come otherwise in each epoch: many of the next epoch's are not in this one."""
        return self.recurring < (0.6 if self.sample.train.is_whole else 0.02)

    @cached_property
    def recurring(self) -> float:
        """The share of the next epoch's first images that are among this epoch's, number for number."""
        known = set(hash_images(self.sample.train.images.numpy()))
        again = hash_images(self.sample.next_epoch.images.numpy())
        return sum(image in known for image in again) / max(len(again), 1)


def take_labeled(images: Tensor, labels: Tensor, classes: int, limit: int) -> LabeledImages:
    """Up to `limit` images [N, C, H, W] that differ, evenly spread, of whole labels [N] in range; of soft labels [N, K] the largest."""
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    labels = labels.long()
    rows = ((labels >= 0) & (labels < classes)).nonzero()[:, 0]
    rows = rows[spread(len(rows), 2 * limit)]
    first: dict[bytes, int] = {}
    rows = rows[[i for i, image in enumerate(hash_images(images[rows].numpy())) if first.setdefault(image, i) == i]]
    rows = rows[spread(len(rows), limit)]
    return LabeledImages(images[rows], labels[rows])
