"""Generic remedies: what a person does who hears of a cause and does not know what was injected. They put known-good parts in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bench.ward.images import Split
from bench.ward.loop import Rule, Schedule, cross_entropy, make_optimizer, measure_accuracy, shuffle, take_step
from bench.ward.patient import Patient
from bench.ward.transforms import Warp, keep, standardize

Remedy = Callable[[Patient], Patient]
GOOD_LR = {"sgd": 0.05, "nesterov": 0.05, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 2e-3}
NEAR = 0.01  # mean squared difference of thumbnails of near duplicates, as a share of their variance


def _good_rule(patient: Patient) -> Rule:
    decay = 0.01 if patient.rule.name == "adamw" else 0.0
    return Rule(patient.rule.name, GOOD_LR[patient.rule.name], 0.9, decay)


def set_usual_lr(patient: Patient) -> Patient:
    """The usual rate of this optimizer, whose parameters are all those that can learn."""
    return patient.but(rule=patient.rule.but(lr=GOOD_LR[patient.rule.name]))


def set_usual_rule(patient: Patient) -> Patient:
    """The usual settings of this optimizer."""
    return patient.but(rule=_good_rule(patient), optimizer=None)


def decay_over_all(patient: Patient) -> Patient:
    """A cosine over the whole training, at a rate that is not above the usual."""
    lr = min(patient.rule.lr, GOOD_LR[patient.rule.name])
    return patient.but(schedule=Schedule("cosine"), rule=patient.rule.but(lr=lr))


def decay_later(patient: Patient) -> Patient:
    """A cosine over the whole training."""
    return patient.but(schedule=Schedule("cosine"))


def warm_up(patient: Patient) -> Patient:
    """A warm-up over the first tenth, then a cosine."""
    return patient.but(schedule=Schedule("warmup"))


def step_plainly(patient: Patient) -> Patient:
    """The plain step: zero, backward, step, in float32."""
    return patient.but(step=take_step)


def step_downhill(patient: Patient) -> Patient:
    """The plain step with a new optimizer that goes downhill."""
    return patient.but(step=take_step, optimizer=None)


def train_everything(patient: Patient) -> Patient:
    """All parameters learn, and the optimizer has all of them."""

    def surgery(model: nn.Module) -> nn.Module:
        return model.requires_grad_(True)

    return patient.operate(surgery).but(optimizer=lambda model: make_optimizer(patient.rule, model.parameters()))


def train_longer(patient: Patient) -> Patient:
    """A training ten times as long, at most 400 steps, with the plain step that never stops."""
    return patient.but(steps=max(patient.steps, min(400, 10 * patient.steps)), step=take_step)


def rebuild(patient: Patient) -> Patient:
    """The same network, built anew with the usual first weights and nothing done to it."""
    return patient.but(surgery=Patient.surgery)


def rebuild_with_relu(patient: Patient) -> Patient:
    """The same network with ReLU, built anew."""
    return rebuild(patient.but_net(act="relu"))


def rebuild_normed(patient: Patient) -> Patient:
    """The same network with ReLU, shortcuts and norm, built anew."""
    return rebuild(patient.but_net(act="relu", skip=True, norm="batch" if patient.net.norm == "none" else patient.net.norm))


def enlarge_batches(patient: Patient) -> Patient:
    """Batches of 48 at least."""
    return patient.but(batch=max(patient.batch, 48))


def widen(patient: Patient) -> Patient:
    """A network of usual width, built anew."""
    width = max(patient.net.width, 96 if patient.net.family == "mlp" else 12)
    return rebuild(patient.but_net(width=width))


def hand_scores_to_loss(patient: Patient) -> Patient:
    """Scores from the last layer, and cross-entropy."""
    return rebuild(patient).but(loss=cross_entropy)


def use_cross_entropy(patient: Patient) -> Patient:
    """Cross-entropy, and as many outputs as there are classes."""
    return patient.but_net(outputs=0).but(loss=cross_entropy)


def drop_less(patient: Patient) -> Patient:
    """Hardly any dropout."""
    return patient.but_net(dropout=min(patient.net.dropout, 0.2))


def regularize_less(patient: Patient) -> Patient:
    """No decay, dropout or augmentation."""
    rule = patient.rule.but(weight_decay=0.01 if patient.rule.name == "adamw" else 0.0)
    return drop_less(patient).but(rule=rule, augment=keep)


def regularize_more(patient: Patient) -> Patient:
    """Augmentation by shifts and small turns."""
    return patient.but(augment=Warp(shift=0.1, rotate=8, scale=0.9))


def decay_less(patient: Patient) -> Patient:
    """The usual weight decay."""
    return patient.but(rule=patient.rule.but(weight_decay=_good_rule(patient).weight_decay))


def set_usual_momentum(patient: Patient) -> Patient:
    """A momentum of 0.9."""
    return patient.but(rule=patient.rule.but(momentum=0.9))


def standardize_pixels(patient: Patient) -> Patient:
    """Pixels standardized by what lies on disk."""
    return patient.but(prepare=standardize(patient.splits.train.images))


def prepare_alike(patient: Patient) -> Patient:
    """Validation images prepared as those of training, without chance."""
    return patient.but(prepare_validation=None, augment_validation=keep)


def augment_less(patient: Patient) -> Patient:
    """No augmentation."""
    return patient.but(augment=keep)


def shuffle_rows(patient: Patient) -> Patient:
    """All rows in a new random order every epoch."""
    return patient.but(order=shuffle, feed=Patient.feed)


def evaluate_plainly(patient: Patient) -> Patient:
    """The usual evaluation, and a network without layers of one's own."""
    return patient.but(evaluate=measure_accuracy)


def evaluate_without_dropout(patient: Patient) -> Patient:
    """The usual evaluation of a network without dropout of one's own."""
    return rebuild(evaluate_plainly(patient))


def remove_leaks(patient: Patient) -> Patient:
    """Training images that are in validation too, or nearly, are removed."""
    train, validation = patient.splits.train, patient.splits.validation
    known, asked = _thumbnails(train.images), _thumbnails(validation.images)
    distance = torch.cdist(known, asked).pow(2).min(1).values / known.shape[1]
    kept = np.flatnonzero((distance > NEAR * known.var()).numpy())
    return patient.but_splits(train=train.rows(kept if len(kept) else np.arange(len(train))))


def _thumbnails(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return nn.functional.adaptive_avg_pool2d(pixels, 8).flatten(1)


def remove_blanks(patient: Patient) -> Patient:
    """Images most of whose rows are constant are removed from both splits."""

    def without_blanks(split: Split) -> Split:
        constant = (split.images == split.images[:, -1:, -1:]).all((2, 3)).mean(1)
        return split.rows(np.flatnonzero(constant < 0.5))

    return patient.but_both(without_blanks)


def balance_classes(patient: Patient) -> Patient:
    """Weights in the loss that make up for rare classes."""
    labels, classes = patient.splits.train.labels, patient.splits.classes
    counts = np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
    weights = torch.from_numpy(counts.sum() / (classes * np.maximum(counts, 1))).float().clamp(max=30)
    return patient.but(loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, weights))


def clean_labels(patient: Patient) -> Patient:
    """Labels that most of the nearest images do not share are replaced by theirs."""
    train = patient.splits.train
    points = _thumbnails(train.images)
    nearest = torch.cdist(points, points).topk(min(11, len(points)), largest=False).indices[:, 1:]
    votes = nn.functional.one_hot(torch.from_numpy(train.labels).clamp(0, patient.splits.classes - 1)[nearest]).sum(1)
    best, count = votes.argmax(1).numpy(), votes.max(1).values.numpy()
    return patient.but_train(labels=np.where(count > 5, best, train.labels))


def swap_channels_back(patient: Patient) -> Patient:
    """The first and last color change places."""
    return patient.but_shown(lambda x, g: x[:, [2, 1, 0]] if x.shape[1] == 3 else x)


REMEDIES: dict[str, Remedy] = {
    "label_noise": clean_labels, "label_confusion": clean_labels, "duplicates_in_train": regularize_more, "leakage_exact": remove_leaks,
    "leakage_near": remove_leaks, "inputs_not_scaled": standardize_pixels, "inputs_scaled_twice": standardize_pixels,
    "channels_swapped": swap_channels_back, "channels_differ": prepare_alike, "preprocessing_differs": prepare_alike,
    "class_imbalance": balance_classes, "not_shuffled": shuffle_rows, "blank_images": remove_blanks,
    "augmentation_too_strong": augment_less, "augmentation_at_validation": prepare_alike, "dead_relu": rebuild,
    "saturated": rebuild_with_relu, "constant_init": rebuild, "init_too_small": rebuild, "init_too_large": rebuild,
    "softmax_twice": hand_scores_to_loss, "missing_nonlinearity": rebuild_with_relu, "capacity_too_small": widen,
    "wrong_outputs": use_cross_entropy, "batch_too_small_for_norm": enlarge_batches,
    "evaluated_in_train_mode": evaluate_plainly, "dropout_too_strong": drop_less, "dropout_at_test": evaluate_without_dropout,
    "frozen_by_mistake": train_everything, "missing_skip": rebuild_normed, "images_mixed": rebuild, "lr_too_high": set_usual_lr,
    "lr_too_low": set_usual_lr, "no_decay": decay_over_all, "decay_too_early": decay_later, "no_warmup": warm_up,
    "momentum_too_high": set_usual_momentum, "weight_decay_too_strong": decay_less, "vanishing_gradient": rebuild_normed,
    "exploding_gradient": rebuild_normed, "gradients_not_zeroed": step_plainly, "wrong_sign": step_downhill,
    "clip_too_tight": step_plainly, "low_precision": step_plainly, "wrong_loss": use_cross_entropy, "optimizer_state_lost": step_plainly,
    "overfitting": regularize_more, "trained_too_short": train_longer, "regularized_too_much": regularize_less,
    "stopped_too_early": train_longer, "nondeterministic": shuffle_rows, "memory_leak": step_plainly, "data_starved": shuffle_rows,
    "threads_oversubscribed": shuffle_rows,
}  # fmt: skip
