"""Faults of the evaluation: another preparation, order of colors or classes, random images, training mode, dropout, too few images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.ward.faults.fault import Fault
from bench.ward.fits import has_batch_norm, has_hidden_layers, is_color
from bench.ward.loop import share_right
from bench.ward.nets import Function, last_linear, replace_layers
from bench.ward.patient import Batches, Patient
from bench.ward.transforms import Warp, add_noise, center_crop, chain, erase, jitter, resize


def swap_validation_channels(patient: Patient, severity: int) -> Patient:
    """Hand out validation images with their colors in another order."""
    order = ([2, 1, 0], [1, 2, 0], [1, 0, 2])[severity]
    return patient.but_shown_validation(lambda x, g: x[:, order])


def forget_to_standardize(patient: Patient, severity: int) -> Patient:
    """Prepare validation images with another mean and deviation."""
    prepare = patient.prepare
    others = (lambda x, g: x, lambda x, g: 255 * x, lambda x, g: (prepare(x, g) - 1) / 4)
    return patient.but(prepare_validation=others[severity])


def crop_validation(patient: Patient, severity: int) -> Patient:
    """Cut the middle out of validation images."""
    return patient.but_shown_validation(center_crop((0.7, 0.6, 0.45)[severity]))


def shrink_validation(patient: Patient, severity: int) -> Patient:
    """Resize validation images by another way, which loses their detail."""
    return patient.but_shown_validation(resize(max(2, round(patient.shape[1] * (0.4, 0.3, 0.2)[severity]))))


def flip_validation(patient: Patient, severity: int) -> Patient:
    """Turn validation images by a quarter, upside down, or to their negatives."""
    turns = (lambda x, g: x.rot90(1, (2, 3)), lambda x, g: x.transpose(2, 3).flip(2), lambda x, g: 1 - x)
    return patient.but_shown_validation(turns[severity])


def rename_validation_classes(patient: Patient, severity: int) -> Patient:
    """Give the classes other numbers in validation."""
    classes = patient.splits.classes
    table = torch.arange(classes)
    if severity == 0:  # two pairs of classes
        a, b, c, d = patient.rng(51).permutation(classes)[:4]
        table[[a, b, c, d]] = table[[b, a, d, c]]
    elif severity == 1:  # as if one folder were missing
        table = (table + 1) % classes
    else:
        table = torch.from_numpy(np.argsort([str(7 * k + 3) for k in range(classes)]))
    return patient.but_validation(labels=table.numpy()[patient.splits.validation.labels])


def augment_validation(patient: Patient, severity: int) -> Patient:
    """Augment validation images at random."""
    strength = (0.6, 1.0, 1.4)[severity]
    warp = Warp(shift=0.15 * strength, scale=1 - 0.4 * strength, rotate=25 * strength)
    return patient.but(augment_validation=chain(warp, jitter(0.4 * strength), add_noise(0.1 * strength)))


def erase_validation(patient: Patient, severity: int) -> Patient:
    """Cover a random part of each validation image."""
    return patient.but(augment_validation=erase((0.25, 0.4, 0.55)[severity]))


def validate_on_few(patient: Patient, severity: int) -> Patient:
    """Keep few validation images."""
    return patient.but_splits(validation=patient.splits.validation.rows(np.arange((20, 14, 10)[severity])))


def evaluate_in_train_mode(patient: Patient, severity: int) -> Patient:
    """Measure the accuracy without putting the model into evaluation mode, in small batches."""
    return _measure_in_train_mode(patient, (8, 4, 2)[severity])


def _measure_in_train_mode(patient: Patient, size: int) -> Patient:

    def evaluate(model: nn.Module, batches: Batches) -> float:
        parts = (pair for images, labels in batches for pair in zip(images.split(size), labels.split(size), strict=True))
        return share_right(model.train(), (part for part in parts if len(part[1]) > 1))

    return patient.but(evaluate=evaluate)


def evaluate_by_classin_train_mode(patient: Patient, severity: int) -> Patient:
    """Measure the accuracy in training mode on validation images that are sorted by class."""
    split = patient.splits.validation
    by_class = patient.but_splits(validation=split.rows(np.argsort(split.labels, kind="stable")))
    return _measure_in_train_mode(by_class, (64, 32, 8)[severity])


def keep_dropout_on(patient: Patient, severity: int) -> Patient:
    """Drop features before the last layer, in evaluation too."""
    p = (0.5, 0.7, 0.85)[severity]

    def surgery(model: nn.Module) -> nn.Module:
        last = last_linear(model)
        return replace_layers(
            model, nn.Linear, lambda layer: nn.Sequential(Function(lambda x: functional.dropout(x, p)), layer) if layer is last else layer
        )

    return patient.operate(surgery)


def evaluate_with_dropout(patient: Patient, severity: int) -> Patient:
    """Train with dropout, and put every layer but those of dropout into evaluation mode."""
    patient = patient.but_net(dropout=(0.5, 0.65, 0.8)[severity])

    def evaluate(model: nn.Module, batches: Batches) -> float:
        model.eval()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.train()
        return share_right(model, batches)

    return patient.but(evaluate=evaluate)


FAULTS = (
    Fault("swap-validation-channels", "channels_differ", swap_validation_channels, is_color),
    Fault("forget-to-standardize", "preprocessing_differs", forget_to_standardize),
    Fault("crop-validation", "preprocessing_differs", crop_validation),
    Fault("shrink-validation", "preprocessing_differs", shrink_validation),
    Fault("flip-validation", "preprocessing_differs", flip_validation),
    Fault("rename-validation-classes", "label_order_differs", rename_validation_classes),
    Fault("augment-validation", "augmentation_at_validation", augment_validation),
    Fault("erase-validation", "augmentation_at_validation", erase_validation),
    Fault("validate-on-few", "validation_too_small", validate_on_few, is_color),
    Fault("evaluate-in-train-mode", "evaluated_in_train_mode", evaluate_in_train_mode, lambda p: has_batch_norm(p) and is_color(p)),
    Fault("evaluate-sorted-in-train-mode", "evaluated_in_train_mode", evaluate_by_classin_train_mode, has_batch_norm),
    Fault("keep-dropout-on", "dropout_at_test", keep_dropout_on, has_hidden_layers),
    Fault("evaluate-with-dropout", "dropout_at_test", evaluate_with_dropout, has_hidden_layers),
)
