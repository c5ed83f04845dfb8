"""Healthy variations of the data."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from bench.ward.controls.control import Control
from bench.ward.fits import has_large_split, is_color, is_pretrained
from bench.ward.images import Split
from bench.ward.patient import Patient
from bench.ward.transforms import Warp, add_noise, chain, jitter, to_float, to_uint8


def augment_strongly(patient: Patient) -> Patient:
    """Strong augmentation, under which training is harder than validation."""
    return patient.but(augment=chain(Warp(shift=0.1, scale=0.8, rotate=15), jitter(0.3), add_noise(0.08)))


def keep_pixels_to_one(patient: Patient) -> Patient:
    """Pixels from -1 to 1 in place of standardized ones."""
    return patient.but(prepare=lambda x, g: 2 * x - 1)


def take_away_color(patient: Patient) -> Patient:
    """Gray images in three equal channels."""

    def gray(split: Split) -> Split:
        return split.but(split.images.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8))

    s = patient.splits
    return patient.but_splits(train=gray(s.train), validation=gray(s.validation), test=gray(s.test))


def weight_classes(patient: Patient) -> Patient:
    """Rare classes, made up for by weights in the loss."""
    train, classes = patient.splits.train, patient.splits.classes
    rare = patient.rng(61).permutation(classes)[: classes // 2]
    rows = np.flatnonzero(~np.isin(train.labels, rare) | (patient.rng(62).random(len(train)) < 0.2))
    train = train.rows(rows)
    counts = np.bincount(train.labels, minlength=classes)
    weights = torch.from_numpy(len(train) / (classes * np.maximum(counts, 1))).float()
    thinned = patient.but_splits(train=train)
    return thinned.but(loss=lambda outputs, labels: functional.cross_entropy(outputs, labels, weights))


def validate_on_hundred(patient: Patient) -> Patient:
    """A validation split of 150 images."""
    return patient.but_splits(validation=patient.splits.validation.rows(np.arange(150)))


def sort_validation(patient: Patient) -> Patient:
    """Validation images sorted by class, rightly evaluated."""
    validation = patient.splits.validation
    order = np.argsort(validation.labels, kind="stable")
    return patient.but_splits(validation=validation.rows(order))


def repeat_few_images(patient: Patient) -> Patient:
    """Half a percent of the training images twice."""
    train = patient.splits.train
    rows = np.concatenate([np.arange(len(train)), np.arange(max(1, len(train) // 200))])
    return patient.but_splits(train=train.rows(patient.rng(63).permutation(rows)))


def make_task_hard(patient: Patient) -> Patient:
    """A task with a low ceiling: the images of all splits are noisy."""
    g = torch.Generator().manual_seed(patient.seed)
    noise = add_noise(0.45)
    s = patient.splits
    train, validation, test = (x.but(to_uint8(noise(0.6 * to_float(x.images) + 0.2, g))) for x in (s.train, s.validation, s.test))
    return patient.but_splits(train=train, validation=validation, test=test)


CONTROLS = (
    Control("augment-strongly", augment_strongly, has_large_split, is_comparable=False),
    Control("keep-pixels-to-one", keep_pixels_to_one, lambda patient: not is_pretrained(patient)),
    Control("take-away-color", take_away_color, is_color, is_comparable=False),
    Control("weight-classes", weight_classes, has_large_split, is_comparable=False),
    Control("validate-on-hundred", validate_on_hundred),
    Control("sort-validation", sort_validation),
    Control("repeat-few-images", repeat_few_images, has_large_split),
    Control("make-task-hard", make_task_hard, lambda p: not is_pretrained(p), is_comparable=False),
)
