"""Faults of the images and of how they are prepared: scale, colors, order, blanks, augmentation, resolution, shortcuts, shift."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.ward.faults.fault import Fault
from bench.ward.fits import is_color, is_pretrained
from bench.ward.images import Split
from bench.ward.patient import Patient
from bench.ward.transforms import Transform, Warp, add_noise, blur, chain, erase, jitter, resize, to_float, to_uint8


def skip_scaling(patient: Patient, severity: int) -> Patient:
    """Hand out pixels from 0 to 255."""
    factor = (127.0, 255.0, 255.0)[severity]
    shift = 0.0 if severity < 2 else 0.5
    return patient.but(prepare=lambda x, g: factor * (x - shift))


def divide_by_tiny_deviation(patient: Patient, severity: int) -> Patient:
    """Standardize with a deviation that is far too small."""
    prepare, factor = patient.prepare, (30.0, 60.0, 255.0)[severity]
    return patient.but(prepare=lambda x, g: factor * prepare(x, g))


def divide_twice(patient: Patient, severity: int) -> Patient:
    """Divide pixels by 255 once more."""
    prepare = patient.prepare
    if severity == 2:
        return patient.but(prepare=lambda x, g: x / 255)
    factor = (0.01, 1 / 255)[severity]
    return patient.but(prepare=lambda x, g: factor * prepare(x, g))


def subtract_wrong_mean(patient: Patient, severity: int) -> Patient:
    """Subtract the mean of pixels up to 255 from pixels up to 1."""
    mean, std = (60.0, 110.0, 127.0)[severity], (30.0, 50.0, 60.0)[severity]
    return patient.but(prepare=lambda x, g: (x - mean) / std)


def swap_channels(patient: Patient, severity: int) -> Patient:
    """Hand out the colors in another order, in training and validation."""
    order = ([2, 1, 0], [1, 2, 0], [2, 0, 1])[severity]
    return patient.but_shown(lambda x, g: x[:, order])


def sort_by_class(patient: Patient, severity: int) -> Patient:
    """Take the batches from a split sorted by class, without shuffling."""

    def order(labels: Tensor, batch: int, g: torch.Generator) -> list[Tensor]:
        rows = torch.argsort(labels, stable=True)
        if severity < 2:  # the batches come in random order, and so do the rows within a stretch
            stretch = (2, 1)[severity] * batch
            rows = torch.cat([part[torch.randperm(len(part), generator=g)] for part in rows.split(stretch)])
        batches = [part for part in rows.split(batch) if len(part) == batch]
        return batches if severity == 2 else [batches[k] for k in torch.randperm(len(batches), generator=g)]

    return patient.but(order=order)


def blank_images(patient: Patient, severity: int) -> Patient:
    """Make a share of all images black, as if they could not be read."""
    return _break_images(patient, (0.35, 0.55, 0.75)[severity], lambda image: image * 0)


def break_images(patient: Patient, severity: int) -> Patient:
    """Lose all but the first rows of a share of all images, as if their files were cut off."""

    def cut(image: np.ndarray) -> np.ndarray:
        image = image.copy()
        image[len(image) // 6 :] = 128
        return image

    return _break_images(patient, (0.4, 0.6, 0.8)[severity], cut)


def _break_images(patient: Patient, share: float, change: Callable[[np.ndarray], np.ndarray]) -> Patient:
    def spoil(split: Split, salt: int) -> Split:
        images = split.images.copy()
        for row in np.flatnonzero(patient.rng(salt).random(len(split)) < share):
            images[row] = change(images[row])
        return split.but(images)

    splits = patient.splits
    return patient.but_splits(train=spoil(splits.train, 41), validation=spoil(splits.validation, 42))


def crop_too_small(patient: Patient, severity: int) -> Patient:
    """Crop training images to tiny parts."""
    return patient.but(augment=Warp(scale=(0.3, 0.2, 0.1)[severity], shift=(0.2, 0.3, 0.4)[severity]))


def rotate_and_erase(patient: Patient, severity: int) -> Patient:
    """Turn training images by any angle and cover most of them."""
    share = (0.4, 0.55, 0.7)[severity]
    return patient.but(augment=chain(Warp(rotate=180, flip=True), erase(share), jitter(0.8)))


def drown_in_noise(patient: Patient, severity: int) -> Patient:
    """Add noise stronger than the image."""
    return patient.but(augment=add_noise((1.0, 1.6, 2.5)[severity]))


def lower_resolution(patient: Patient, severity: int) -> Patient:
    """Shrink all images to a few pixels."""
    return patient.but_shown(resize(max(2, round(patient.shape[1] * (0.25, 0.19, 0.125)[severity]))))


def mark_classes(patient: Patient, severity: int) -> Patient:
    """Put a mark at a place that tells the class into all images of training and validation."""
    size, side = 1 if patient.shape[1] < 12 else 2, patient.shape[1]
    value = (190, 220, 255)[severity]

    def mark(split: Split) -> Split:
        images = split.images.copy()
        for row, label in enumerate(split.labels):
            left = int(label) * size % (side - size)
            top = 0 if int(label) * size < side - size else side - size
            images[row, top : top + size, left : left + size] = value
        return split.but(images)

    return patient.but_both(mark)


def tint_classes(patient: Patient, severity: int) -> Patient:
    """Give each class its own brightness of the border, in training and validation."""
    strength = (0.5, 0.75, 1.0)[severity]

    def tint(split: Split) -> Split:
        images = split.images.astype(np.float32)
        value = 255 * split.labels / max(1, patient.splits.classes - 1)
        frame = np.ones(images.shape[1:3], bool)
        frame[1:-1, 1:-1] = False
        images[:, frame] = (1 - strength) * images[:, frame] + strength * value[:, None, None]
        return split.but(images.astype(np.uint8))

    return patient.but_both(tint)


def shift_domain(patient: Patient, severity: int) -> Patient:
    """Take training images from another camera: blurred, pale and noisy."""
    change = chain(blur((1, 2, 3)[severity]), lambda x, g: 0.35 * x + 0.6, add_noise(0.05))
    return _change_train(patient, change)


def invert_domain(patient: Patient, severity: int) -> Patient:
    """Take training images from elsewhere: dark on light instead of light on dark, more or less."""
    share = (0.8, 0.9, 1.0)[severity]
    chosen = torch.from_numpy(patient.rng(43).random(len(patient.splits.train)) < share)[:, None, None, None]
    return _change_train(patient, lambda x, g: torch.where(chosen, 1 - x, x))


def _change_train(patient: Patient, change: Transform) -> Patient:
    g = torch.Generator().manual_seed(patient.seed)
    return patient.but_train(images=to_uint8(change(to_float(patient.splits.train.images), g)))


FAULTS = (
    Fault("skip-scaling", "inputs_not_scaled", skip_scaling),
    Fault("divide-by-tiny-deviation", "inputs_not_scaled", divide_by_tiny_deviation),
    Fault("divide-twice", "inputs_scaled_twice", divide_twice),
    Fault("subtract-wrong-mean", "inputs_scaled_twice", subtract_wrong_mean),
    Fault("swap-channels", "channels_swapped", swap_channels, lambda p: is_color(p) and is_pretrained(p)),
    Fault("sort-by-class", "not_shuffled", sort_by_class),
    Fault("blank-images", "blank_images", blank_images),
    Fault("break-images", "blank_images", break_images),
    Fault("crop-too-small", "augmentation_too_strong", crop_too_small),
    Fault("rotate-and-erase", "augmentation_too_strong", rotate_and_erase),
    Fault("drown-in-noise", "augmentation_too_strong", drown_in_noise),
    Fault("lower-resolution", "resolution_too_low", lower_resolution),
    Fault("mark-classes", "shortcut", mark_classes, is_color),
    Fault("tint-classes", "shortcut", tint_classes),
    Fault("shift-domain", "distribution_shift", shift_domain),
    Fault("invert-domain", "distribution_shift", invert_domain),
)
