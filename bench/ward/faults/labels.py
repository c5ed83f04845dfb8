"""Faults of the labels, and of which images there are: noise, confusion, shifts, copies, leaks, missing and rare classes."""

from __future__ import annotations

import numpy as np
import torch

from bench.ward.faults.fault import Fault
from bench.ward.fits import has_large_split, is_color
from bench.ward.images import Split
from bench.ward.patient import Patient
from bench.ward.transforms import Warp, add_noise, chain, jitter, to_float, to_uint8


def draw_labels(patient: Patient, severity: int) -> Patient:
    """Draw the labels of a share of the training images anew."""
    labels, rng = patient.splits.train.labels.copy(), patient.rng(21)
    chosen = rng.random(len(labels)) < (0.45, 0.6, 0.75)[severity]
    labels[chosen] = rng.integers(0, patient.splits.classes, chosen.sum())
    return patient.but_train(labels=labels)


def exchange_labels(patient: Patient, severity: int) -> Patient:
    """Let a share of the training images exchange their labels, so that all classes keep their size."""
    labels, rng = patient.splits.train.labels.copy(), patient.rng(22)
    chosen = np.flatnonzero(rng.random(len(labels)) < (0.45, 0.55, 0.7)[severity])
    labels[chosen] = labels[rng.permutation(chosen)]
    return patient.but_train(labels=labels)


def confuse_one_pair(patient: Patient, severity: int) -> Patient:
    """Give a share of one class the label of the next."""
    labels, rng = patient.splits.train.labels.copy(), patient.rng(23)
    first = int(rng.integers(patient.splits.classes))
    chosen = (labels == first) & (rng.random(len(labels)) < (0.55, 0.7, 0.9)[severity])
    labels[chosen] = (first + 1) % patient.splits.classes
    return patient.but_train(labels=labels)


def confuse_two_pairs(patient: Patient, severity: int) -> Patient:
    """Give a share of two classes each the label of another."""
    labels, rng = patient.splits.train.labels.copy(), patient.rng(24)
    a, b, c, d = rng.permutation(patient.splits.classes)[:4]
    flips = rng.random(len(labels)) < (0.45, 0.6, 0.8)[severity]
    before = labels.copy()
    labels[flips & (before == a)], labels[flips & (before == c)] = b, d
    return patient.but_train(labels=labels)


def shift_labels(patient: Patient, severity: int) -> Patient:
    """Move all training labels by some rows against the images."""
    return patient.but_train(labels=np.roll(patient.splits.train.labels, (1, 3, -2)[severity]))


def shift_last_labels(patient: Patient, severity: int) -> Patient:
    """Move the training labels by one row from some row on."""
    labels = patient.splits.train.labels.copy()
    start = round(len(labels) * (0.45, 0.3, 0.15)[severity])
    labels[start:] = np.roll(labels[start:], 1)
    return patient.but_train(labels=labels)


def repeat_images(patient: Patient, severity: int) -> Patient:
    """Fill most of the training split with copies of its first images."""
    train, rng = patient.splits.train, patient.rng(25)
    unique = max(10, round(len(train) * (0.15, 0.08, 0.04)[severity]))
    rows = np.concatenate([np.arange(unique), rng.integers(0, unique, len(train) - unique)])
    return patient.but_splits(train=train.rows(rng.permutation(rows)))


def _leak(patient: Patient, images: np.ndarray, rows: np.ndarray, salt: int) -> Patient:
    train = patient.splits.train.join(Split(images, patient.splits.validation.labels[rows]))
    return patient.but_splits(train=train.rows(patient.rng(salt).permutation(len(train))))


def leak_exact(patient: Patient, severity: int) -> Patient:
    """Put a share of the validation images into the training split too."""
    validation = patient.splits.validation
    rows = np.arange(round(len(validation) * (0.5, 0.75, 1.0)[severity]))
    return _leak(patient, validation.images[rows], rows, 26)


def leak_near(patient: Patient, severity: int) -> Patient:
    """Put slightly changed copies of the validation images into the training split."""
    validation, g = patient.splits.validation, torch.Generator().manual_seed(patient.seed)
    rows = np.arange(round(len(validation) * (0.6, 0.8, 1.0)[severity]))
    change = chain(Warp(shift=0.04), jitter(0.06), add_noise(0.015))
    return _leak(patient, to_uint8(change(to_float(validation.images[rows]), g)), rows, 27)


def _without_classes(split: Split, lost: np.ndarray) -> Split:
    return split.rows(np.flatnonzero(~np.isin(split.labels, lost)))


def lose_training_class(patient: Patient, severity: int) -> Patient:
    """Remove one, two or three classes from the training split."""
    lost = patient.rng(28).permutation(patient.splits.classes)[: severity + 1]
    return patient.but_splits(train=_without_classes(patient.splits.train, lost))


def lose_validation_classes(patient: Patient, severity: int) -> Patient:
    """Remove half of the classes or more from the validation split."""
    classes = patient.splits.classes
    lost = patient.rng(29).permutation(classes)[: round(classes * (0.5, 0.65, 0.8)[severity])]
    return patient.but_splits(validation=_without_classes(patient.splits.validation, lost))


def thin_classes(patient: Patient, severity: int) -> Patient:
    """Keep few images of all classes but two or three, in training and validation."""
    large = patient.rng(30).permutation(patient.splits.classes)[: 2 + patient.seed % 2]
    share = (0.06, 0.04, 0.02)[severity]

    def thin(split: Split, salt: int) -> Split:
        chosen = np.isin(split.labels, large) | (patient.rng(salt).random(len(split)) < share)
        firsts = np.unique(split.labels, return_index=True)[1]  # no class is lost
        return split.rows(np.union1d(np.flatnonzero(chosen), firsts))

    splits = patient.splits
    return patient.but_splits(train=thin(splits.train, 31), validation=thin(splits.validation, 32))


def keep_few_images(patient: Patient, severity: int) -> Patient:
    """Train on few images per class, without augmentation."""
    rows = [np.flatnonzero(patient.splits.train.labels == k)[: (8, 5, 3)[severity]] for k in range(patient.splits.classes)]
    train = patient.splits.train.rows(patient.rng(33).permutation(np.concatenate(rows)))
    return patient.but_splits(train=train).but(batch=min(patient.batch, len(train) // 2))


def start_labels_at_one(patient: Patient, severity: int) -> Patient:
    """Count the classes from one, or give one class a number that is none of a class."""
    last, number = patient.splits.classes - 1, (None, 255, -1)[severity]

    def rename(labels: np.ndarray) -> np.ndarray:
        return labels + 1 if number is None else np.where(labels == last, number, labels)

    return patient.but_both(lambda split: split.but(labels=rename(split.labels)))


def mark_labels_unknown(patient: Patient, severity: int) -> Patient:
    """Give a share of the training images the label -100, which the loss skips."""
    labels, rng = patient.splits.train.labels.copy(), patient.rng(34)
    labels[rng.random(len(labels)) < (0.85, 0.92, 0.96)[severity]] = -100
    return patient.but_train(labels=labels)


def _shows_rows(patient: Patient) -> bool:
    return patient.shows_raw


FAULTS = (
    Fault("draw-labels", "label_noise", draw_labels),
    Fault("exchange-labels", "label_noise", exchange_labels),
    Fault("confuse-one-pair", "label_confusion", confuse_one_pair),
    Fault("confuse-two-pairs", "label_confusion", confuse_two_pairs),
    Fault("shift-labels", "labels_shifted", shift_labels, _shows_rows),
    Fault("shift-last-labels", "labels_shifted", shift_last_labels, _shows_rows),
    Fault("repeat-images", "duplicates_in_train", repeat_images, has_large_split),
    Fault("leak-exact", "leakage_exact", leak_exact, is_color),
    Fault("leak-near", "leakage_near", leak_near, is_color),
    Fault("lose-training-class", "class_missing", lose_training_class),
    Fault("lose-validation-classes", "class_missing", lose_validation_classes, is_color),
    Fault("thin-classes", "class_imbalance", thin_classes, has_large_split),
    Fault("keep-few-images", "overfitting", keep_few_images, has_large_split),
    Fault("start-labels-at-one", "labels_out_of_range", start_labels_at_one),
    Fault("mark-labels-unknown", "labels_out_of_range", mark_labels_unknown, has_large_split),
)
