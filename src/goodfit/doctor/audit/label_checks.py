"""Checks of the labels: counts and missing classes, labels that contradict the images, labels shifted against them, renamed classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from goodfit.core.words import count_of, format_percent, list_some
from goodfit.data.index import SPLITS, TRAIN, VALIDATION, IntArray
from goodfit.doctor.audit.counts import MAX_IMBALANCE, count_classes, expected_half_width, is_too_small
from goodfit.doctor.audit.data_finding import DataFinding
from goodfit.doctor.audit.features import FloatArray
from goodfit.doctor.audit.image_table import ImageTable
from goodfit.doctor.audit.labels import (
    MAX_GALLERY,
    MAX_QUERIES,
    LabelNoise,
    estimate_label_noise,
    measure_agreement,
    predict_from_neighbors,
    predict_out_of_fold,
)
from goodfit.doctor.class_order import ClassOrder, match_class_order
from goodfit.doctor.label_offset import search_offset
from goodfit.doctor.pixels import spread
from goodfit.doctor.probe import Ridge

MIN_IMAGES, MIN_PER_CLASS = 100, 10  # of the training images: fewer say nothing of labels
MIN_NOISE, MUCH_NOISE = 0.03, 0.15  # the lower end of the interval of the share of wrong labels
MIN_CONSISTENCY = 0.75  # of the agreement of neighbors, against what it would be were wrong labels all that disagrees
MIN_CONFUSION, MIN_CONCENTRATION = 0.1, 0.2  # of one class that carries the label of another, and its part of all wrong labels
MAX_SHIFT_IMAGES, MIN_SHIFT_GAIN = 12_000, 0.05  # whose labels are tried in other rows, and points by which they must agree better
MIN_ORDER_Z, MIN_ORDER_GAIN = 2.5, 0.1  # standard errors, and accuracy, that are gained if labels are read in another order


def find_counts(table: ImageTable) -> list[DataFinding]:
    """Find classes without images, classes that outnumber others, and splits that are too small for a figure."""
    counts = count_classes(table.labels, table.splits, len(table.classes))
    findings = []
    for split in SPLITS:
        if missing := [table.classes[k] for s, k in counts.missing if s == split]:
            sentence = (
                f"No {split} image is of {list_some(missing, 3)} ({count_of(len(missing), 'class', 'classes')} of {len(table.classes):,}): "
                f"{'it cannot be learned' if split == 'train' else 'how well it is told is not measured'}. Add images of it."
            )
            findings.append(
                DataFinding("class_missing", "error" if split == "train" else "warning", sentence, {"split": split, "classes": missing})
            )
    train = counts.counts[TRAIN]
    if counts.imbalance > MAX_IMBALANCE:
        most, least = int(train.argmax()), int(np.where(train > 0, train, train.max() + 1).argmin())
        sentence = (
            f"The classes are uneven: {table.classes[most]} has {train[most]:,} training images, {table.classes[least]} {train[least]:,}. "
            "Accuracy is mostly about the frequent ones; weigh classes (--class-weights balanced) or look at the score of each class."
        )
        findings.append(DataFinding("imbalance", "warning", sentence, {"ratio": counts.imbalance, "effective_classes": counts.effective}))
    n = int(counts.counts[VALIDATION].sum())
    if is_too_small(n):
        sentence = (
            f"There {'is' if n == 1 else 'are'} {count_of(n, 'validation image')}: an accuracy of 90 % has an interval of "
            f"{100 * expected_half_width(n):.0f} points to each side. Differences below that say nothing; cross-validate (--folds 5)."
            if n
            else "There are no validation images: nothing says how good a model is. Hold some out (--validation 0.15)."
        )
        findings.append(
            DataFinding("few_validation", "note" if n else "warning", sentence, {"images": n, "half_width": expected_half_width(n)})
        )
    return findings


def find_label_shift(table: ImageTable, features: FloatArray) -> list[DataFinding]:
    """Find training labels that fit the images of other rows better, by `features` [N, D] of all images."""
    rows = table.of_split(TRAIN)
    if len(rows) < MIN_IMAGES or len(table.classes) < 2:
        return []
    labels, chosen = torch.from_numpy(table.labels[rows]), torch.from_numpy(spread(len(rows), MAX_SHIFT_IMAGES))
    shift = search_offset(Ridge(torch.from_numpy(features[rows])[chosen], labels[chosen], len(table.classes)), labels, chosen)
    if shift is None or shift.after.value - shift.before.value < MIN_SHIFT_GAIN:
        return []
    sentence = (
        f"Labels are shifted against the images: of the labels {shift.describe()}, a probe of the other images predicts "
        f"{format_percent(shift.after.value, 0)}, of those beside them {format_percent(shift.before.value, 0)}. Align labels and images."
    )
    numbers = {"offset": shift.rows, "agreement": shift.after.value, "agreement_now": shift.before.value, "z": shift.z}
    return [DataFinding("labels_shifted", "error", sentence, numbers)]


def find_label_noise(table: ImageTable, features: FloatArray) -> list[DataFinding]:
    """Find wrong labels among the training images, where their pixels tell the classes apart well enough."""
    rows = table.of_split(TRAIN)
    if len(rows) < max(MIN_IMAGES, MIN_PER_CLASS * len(table.classes)) or len(table.classes) < 2:
        return []
    labels = table.labels[rows]
    agreement = measure_agreement(features[rows], labels)
    noise = estimate_label_noise(predict_out_of_fold(features[rows], labels, len(table.classes)), labels)
    implied = max(0.0, 1 - noise.share * len(table.classes) / (len(table.classes) - 1)) ** 2
    if not noise.is_telling or agreement.corrected < MIN_CONSISTENCY * implied:
        return []
    return describe_label_noise(table, noise, rows, "training")


def describe_label_noise(table: ImageTable, noise: LabelNoise, rows: IntArray, what: str) -> list[DataFinding]:
    """The finding that labels of some rows of the table are wrong, or none if they may all be right."""
    label, truth = noise.pair
    is_confusion = noise.pair_rate > MIN_CONFUSION and noise.pair_share > MIN_CONCENTRATION and label != truth
    numbers = {"share": noise.share, "interval": list(noise.interval), "pair": [table.classes[label], table.classes[truth]],
               "pair_rate": noise.pair_rate}  # fmt: skip
    suspects = noise.suspects[: max(1, round(noise.interval[1] * len(rows)))]
    groups = table.name_groups(rows[suspects][:, None])
    captions = tuple(f"labeled {table.classes[table.labels[row]]}" for row in rows[suspects].tolist())
    if is_confusion:
        sentence = (
            f"About {format_percent(noise.pair_rate, 0)} of the {what} images of {table.classes[truth]} carry the label "
            f"{table.classes[label]}; "
            f"that is {format_percent(noise.pair_share, 0)} of all labels that contradict the other images. Look at the suspects and "
            "correct them."
        )
        return [DataFinding("label_confusion", "warning", sentence, numbers, groups, captions)]
    if noise.interval[0] < MIN_NOISE:
        return []
    sentence = (
        f"About {format_percent(noise.share, 0)} of the {what} labels contradict what the other images teach (95 % interval "
        f"{format_percent(noise.interval[0], 0)} to {format_percent(noise.interval[1], 0)}), most surely {table.name(rows[suspects[0]])} "
        f"({captions[0]}). Correct the suspects first."
    )
    return [DataFinding("label_noise", "error" if noise.interval[0] > MUCH_NOISE else "warning", sentence, numbers, groups, captions)]


def find_class_order(table: ImageTable, features: FloatArray) -> list[DataFinding]:
    """Find held-out splits whose class numbers mean other classes than those of the training images."""
    train, findings = table.of_split(TRAIN), []
    near = train[spread(len(train), MAX_GALLERY)]
    if len(train) < MIN_IMAGES or len(table.classes) < 2:
        return []
    for number, split in enumerate(SPLITS):
        held = table.of_split(number)
        held = held[spread(len(held), MAX_QUERIES)]
        if number == TRAIN or len(held) < 2 * len(table.classes):
            continue
        predicted = predict_from_neighbors(features[near], table.labels[near], features[held], len(table.classes))
        if (order := find_order(predicted, table.labels[held], len(table.classes))) is not None:
            meanings = describe_order(order, table.classes)
            sentence = (
                f"The classes of the {split} images are in another order than those of training: {meanings}. Neighbors among "
                "the training "
                f"images give {format_percent(order.before, 0)} of them their class, in the other order {format_percent(order.after, 0)}. "
                "Make both from one list of classes."
            )
            numbers = {"split": split, "before": order.before, "after": order.after, "meaning": list(order.meaning)}
            findings.append(DataFinding("class_order", "error", sentence, numbers))
    return findings


def find_order(predicted: IntArray, labels: IntArray, classes: int) -> ClassOrder | None:
    """The order of the classes in which labels [N] agree with predictions [N] far better; None if there is none."""
    order = match_class_order(torch.from_numpy(predicted), torch.from_numpy(labels), classes)
    return order if order.z > MIN_ORDER_Z and order.after - order.before > MIN_ORDER_GAIN else None


def describe_order(order: ClassOrder, classes: Sequence[str]) -> str:
    """Which classes some labels mean."""
    return list_some([f"{classes[label]} means {classes[order.meaning[label]]}" for label in order.moved], 3)
