"""Rules of validation images that are prepared, ordered or labeled otherwise than training images, or come from elsewhere."""

from __future__ import annotations

import itertools

from goodfit.doctor.class_order import match_class_order
from goodfit.doctor.comparison import Pair
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.pixels import hash_images
from goodfit.doctor.probe import compare_right
from goodfit.doctor.rules.images import find_shortcut
from goodfit.doctor.rules.labels import is_at_chance, is_far_above_chance

MIN_RECURRING, SAME = 0.9, 0.02  # share of validation images that must come again; difference in standard deviations that counts as none
MIN_CHANGED = 0.1  # share of the images whose difference is more
MIN_Z, MIN_GAIN = 5.0, 0.05  # standard errors, and accuracy, that a probe gains by what puts a split right
RESTORED = 0.8  # of what probes get right within a split, that one across must reach once the splits are put right
APART, FAR_APART = 0.7, 0.85  # area under the curve of a probe that tells the splits apart
MIN_Z_HARM = 3.5
SMALL_VALIDATION, MIN_PER_CLASS = 43, 2  # images below which the 95 % interval of an accuracy of one half is wider than 15 points


def find_augmentation_at_validation(exam: Examination) -> Finding | None:
    """Two passes over the validation images give different images."""
    first, again = exam.sample.validation, exam.sample.validation_again
    n = min(len(first), len(again))
    std = first.images.std().clamp_min(1e-12)
    is_aligned = first.labels.shape[1:] == again.labels.shape[1:] and bool((first.labels[:n] == again.labels[:n]).all())
    if is_aligned:
        if first.images[:n].shape != again.images[:n].shape:
            return None
        difference = (first.images[:n] - again.images[:n]).square().flatten(1).mean(1).sqrt() / std
        changed = float((difference > SAME).float().mean())
    else:
        known = set(hash_images((first.images / std * 100).round().numpy()))
        found = sum(image in known for image in hash_images((again.images / std * 100).round().numpy())) / max(len(again), 1)
        changed = 1 - found if first.is_whole else float(found < 0.01)
    if changed <= (MIN_CHANGED if is_aligned else 1 - MIN_RECURRING):
        return None
    return Finding(
        "augmentation_at_validation",
        0.97,
        f"{100 * changed:.0f} % of {n} validation images come otherwise in a second pass, so the accuracy is that of randomly changed"
        " images.",
        "Prepare validation images without random transforms: resize, crop at the center, and standardize as in training.",
    )


def find_label_order_differs(exam: Examination) -> Finding | None:
    """Validation labels agree with a probe of the training images once they are given other numbers."""
    for pair in (exam.comparison.inputs, exam.comparison.raw):
        if pair is None or not is_far_above_chance(pair) or is_at_chance(pair.within_train, pair.train.chance):
            continue
        order = match_class_order(pair.validation_scores.argmax(1), pair.validation.labels, pair.classes)
        is_better = order.z > MIN_Z and order.after - order.before > MIN_GAIN and len(order.moved) > 1
        is_put_right = order.after > RESTORED * min(pair.within_validation.value, pair.within_train.value)
        looks_alike = pair.domain_area < APART or exam.comparison.is_augmented  # else other images may be taken for other classes
        if is_better and is_put_right and looks_alike:
            example = ", ".join(f"{k} means {order.meaning[k]}" for k in order.moved[:4])
            return Finding(
                "label_order_differs",
                0.96,
                f"{describe_probe(order.before, order.after)} once {len(order.moved)} classes are renumbered ({example}).",
                "Number the classes of both splits by one list, not by the order in which folders or names are found in each.",
            )
    return None


def find_channels_differ(exam: Examination) -> Finding | None:
    """A probe of the training images gets far more validation labels right if the channels of the validation images change places."""
    pair, counterparts = exam.comparison.inputs, exam.counterparts
    is_color = pair.train.images.shape[1] == 3 and not bool((pair.validation.images[:, 0] == pair.validation.images[:, 1]).all())
    if not is_color or pair.validation.images.shape[1] != 3 or not is_far_above_chance(pair):
        return None
    order_on_disk = counterparts.validation_order or (0, 1, 2)
    is_changed = order_on_disk != (0, 1, 2)
    if pair.domain_area < APART and not is_changed:
        return None
    own = pair.validation_scores.argmax(1) == pair.validation.labels
    found = {}
    for order in list(itertools.permutations(range(3)))[1:]:
        right = pair.predict(pair.validation.images[:, list(order)]).argmax(1) == pair.validation.labels
        found[order] = compare_right(right, own)
    best = max(found, key=lambda order: found[order][0])
    gain, z = found[best]
    if z < MIN_Z_HARM or gain < 0.02 or (z < MIN_Z and not is_changed):
        return None
    before = float(own.float().mean())
    on_disk = f" On disk they stand in the order {', '.join(map(str, order_on_disk))}." if is_changed else ""
    return Finding(
        "channels_differ",
        0.96,
        f"{describe_probe(before, before + gain)} with the validation channels in the order {', '.join(map(str, best))}.{on_disk}",
        "Read training and validation images with the same function, so that their channels come in the same order.",
    )


def find_preprocessing_differs(exam: Examination) -> Finding | None:
    """Validation images are made from those on disk otherwise than training images, and a probe of the training images suffers from it."""
    pair, counterparts = exam.comparison.inputs, exam.counterparts
    if any(find(exam) is not None for find in (find_augmentation_at_validation, find_label_order_differs, find_channels_differ)):
        return None
    remedy = "Prepare validation images as training images, but for the random transforms: the same size, scale, mean and deviation."
    if counterparts.is_known:
        if is_shifted_on_disk(exam.comparison.raw):
            return None
        difference = counterparts.find_difference(exam.comparison.is_augmented)
        if difference is None:
            return None
        right = [pair.predict(images).argmax(1) == counterparts.labels for images in (counterparts.as_training, counterparts.inputs)]
        gain, z = compare_right(*right)
        after, before = (float(x.float().mean()) for x in right)
        is_put_right = z > MIN_Z and gain > MIN_GAIN and after > RESTORED * pair.within_validation.value
        if exam.comparison.is_augmented and not is_put_right:
            return None  # then it may be augmentation that makes the difference
        text = f"{difference}. {describe_probe(before, after)} of those of the same images prepared as training images are."
        return Finding("preprocessing_differs", 0.96 if z > 3 else 0.85, text, remedy)
    found = counterparts.repair if not exam.comparison.is_augmented and is_harmed(pair) else None
    if found is None or found[2] < RESTORED * pair.within_validation.value:
        return None
    name, before, after = found
    text = f"{describe_probe(before, after)} after {name}; training images tell their own labels apart."
    return Finding("preprocessing_differs", 0.93, text, remedy)


def describe_probe(before: float, after: float) -> str:
    """The accuracy on validation images of a probe of the training images, before and after a change that the sentence goes on to name."""
    return f"A probe of the training images gets {100 * before:.0f} % of the validation labels right, and {100 * after:.0f} %"


def is_harmed(pair: Pair) -> bool:
    """Whether what one split teaches fails on the other: far more of its own images have the label that the others give them."""
    comparisons = ((pair.within_validation, pair.across), (pair.within_train, pair.across), (pair.within_validation, pair.across_back))
    return any(within.above(across) > MIN_Z_HARM for within, across in comparisons)


def is_shifted_on_disk(pair: Pair | None) -> bool:
    return pair is not None and pair.domain_area > APART


def find_distribution_shift(exam: Examination) -> Finding | None:
    """The images of both splits differ on disk, or differ as no preparation explains, and what one teaches fails on the other."""
    raw, counterparts = exam.comparison.raw, exam.counterparts
    pair = exam.comparison.best
    if pair.domain_area < (APART if raw else FAR_APART) or not is_harmed(pair) or not is_far_above_chance(pair):
        return None
    if find_shortcut(exam) is not None:
        return None
    confidence = 0.96
    if raw is None:
        if exam.comparison.is_augmented or find_augmentation_at_validation(exam) or find_channels_differ(exam):
            return None
        if find_preprocessing_differs(exam) is not None:
            return None
        confidence = 0.93 if counterparts.has_same_levels else 0.8
    where = "as they lie on disk" if raw is not None else "as the network gets them"
    return Finding(
        "distribution_shift",
        confidence,
        f"A probe tells training from validation images {where} (area under the curve {pair.domain_area:.2f}). Fitted on training images,"
        f" one gets {100 * pair.within_train.value:.0f} % of their own labels and {100 * pair.across.value:.0f} % of validation labels;"
        f" on validation images, {100 * pair.within_validation.value:.0f} % of their own and {100 * pair.across_back.value:.0f} %.",
        "Train on images from where the network will be used, or add augmentation that covers the difference.",
    )


def find_validation_too_small(exam: Examination) -> Finding | None:
    """There are so few validation images that the 95 % interval of their accuracy is wider than 15 points to each side."""
    validation = exam.sample.validation
    n = len(validation)
    if not validation.is_whole or (n >= SMALL_VALIDATION and n >= MIN_PER_CLASS * exam.classes):
        return None
    width = 196 * (0.25 / max(n, 1)) ** 0.5
    return Finding(
        "validation_too_small",
        0.96 if n < 0.75 * SMALL_VALIDATION else 0.8,
        f"There are {n} validation images for {exam.classes} classes: an accuracy of one half is known to within {width:.0f} points only.",
        "Hold out more images, at least a few hundred, or use cross-validation.",
    )


RULES = (
    Rule(
        "augmentation_at_validation",
        Stage.DATA,
        find_augmentation_at_validation,
        {"shuffled validation": "there the same images come in another order", "dropout_at_test": "there images are the same"},
    ),
    Rule("label_order_differs", Stage.DATA, find_label_order_differs, {"labels_shifted": "there no renumbering helps"}),
    Rule("channels_differ", Stage.DATA, find_channels_differ, {"channels_swapped": "there both splits have the same order"}),
    Rule(
        "preprocessing_differs",
        Stage.DATA,
        find_preprocessing_differs,
        {
            "distribution_shift": "there the images differ on disk",
            "augmentation_too_strong": "there training images come otherwise in each epoch",
            "overfitting": "there a probe of the training images does as well on validation images",
        },
    ),
    Rule("distribution_shift", Stage.DATA, find_distribution_shift, {"preprocessing_differs": "there the images on disk look alike"}),
    Rule("validation_too_small", Stage.DATA, find_validation_too_small, {"small but enough": "a hundred images are enough for 10 points"}),
)
