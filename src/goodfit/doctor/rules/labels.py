"""Rules of wrong labels."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from goodfit.doctor.comparison import Pair
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.label_offset import Offset, find_offset, search_offset
from goodfit.doctor.probe import Ridge, Share
from goodfit.doctor.rules.images import find_leakage_exact, find_leakage_near

MIN_NOISE, MIN_Z_NOISE = 0.08, 4.0  # share of labels below which nothing is said, and standard errors
MIN_TAUGHT, MIN_Z_TAUGHT = 0.1, 5.0  # of a score of 1, and standard errors
MIN_LEAD = 1.7  # times what is taught of other classes, but for one other pair
MIN_OWN = 0.3  # of the training images labeled with the class shown, that look like it
MIN_ACROSS = 0.6  # of what validation images teach about each other, that they teach about training images which look like them
MIN_Z_SEEN = 3.0  # standard errors by which more training than validation images look like the class shown
MIN_IMAGES = 8  # of a class, of which something is measured
SURE_SHARE = 0.3  # of the validation images: those whose labels a probe is surest of
MIN_SURE = 25  # images of a split on which a probe is sure
SAME_PLACE = 0.85  # area under the curve of a probe that tells the splits apart, below which images look alike in both


def find_labels_out_of_range(exam: Examination) -> Finding | None:
    """Labels are not whole numbers from 0 to K - 1."""
    for name, labels in (("training", exam.sample.train.labels), ("validation", exam.sample.validation.labels)):
        if labels.ndim != 1:
            continue
        values = labels.double()
        is_whole = bool((values == values.round()).all())
        wrong = (values < 0) | (values >= exam.classes) | ~values.isfinite()
        low, high = float(values.min()), float(values.max())
        if not is_whole:
            what = f"{name} labels are not whole numbers, such as {float(values[values != values.round()][0]):g}"
        elif bool(wrong.any()):
            share = 100 * float(wrong.double().mean())
            what = f"{name} labels run from {low:g} to {high:g}, {share:.1f} % of them outside 0 to {exam.classes - 1}"
        else:
            continue
        is_one_based = is_whole and low == 1 and high == exam.classes
        return Finding(
            "labels_out_of_range",
            0.98,
            f"There are {exam.classes} classes, and {what}.",
            "Subtract 1 from the labels: classes count from 0." if is_one_based else "Number the classes from 0, as whole numbers.",
        )
    return None


def find_labels_shifted(exam: Examination) -> Finding | None:
    """Labels agree with other images than those beside them, or, in one split, with none."""
    pairs = [pair for pair in (exam.comparison.raw, exam.comparison.inputs) if pair is not None]
    for pair in pairs:
        for name, offset in (("training", find_train_offset(pair)), ("validation", find_validation_offset(pair))):
            if offset is not None:
                return Finding(
                    "labels_shifted",
                    0.97,
                    f"A probe's predictions agree with {100 * offset.before.value:.0f} % of the {name} labels beside the images, and with"
                    f" {100 * offset.after.value:.0f} % of those {offset.describe()}.",
                    "Pair each image with its own label again: one list has a row too many or too few, or was sorted otherwise.",
                )
    pair = exam.comparison.best
    if is_at_chance(pair.within_train, pair.train.chance) and is_far_above_chance(pair) and pair.domain_area < SAME_PLACE:
        return Finding(
            "labels_shifted",
            0.92,
            f"Training labels agree with what other training images teach for {100 * pair.within_train.value:.0f} % of {len(pair.train)}"
            f" images, which is chance; validation labels do for {100 * pair.within_validation.value:.0f} %, and the images look alike.",
            "Pair each training image with its own label again: the lists of images and of labels are in different orders.",
        )
    return None


def find_train_offset(pair: Pair) -> Offset | None:
    """The offset of the training labels, by the fit on the validation images, or by themselves if they teach nothing as they are."""
    if is_far_above_chance(pair):
        return find_offset(pair.train_scores.argmax(1), pair.train.labels, pair.classes)
    if not is_at_chance(pair.within_train, pair.train.chance):
        return None
    return search_offset(pair.train_fit, pair.train.labels, torch.arange(len(pair.train)))


def find_validation_offset(pair: Pair) -> Offset | None:
    """The offset of the validation labels, by the fit on the training images."""
    if len(pair.validation) < 100 or is_at_chance(pair.within_train, pair.train.chance):
        return None
    return find_offset(pair.validation_scores.argmax(1), pair.validation.labels, pair.classes)


def is_at_chance(share: Share, chance: float) -> bool:
    return share.above_value(chance) < 3


def is_far_above_chance(pair: Pair) -> bool:
    """Whether validation labels agree with what other validation images teach, far beyond chance."""
    return pair.within_validation.above_value(pair.validation.chance) > 8


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Training images labeled `given` that show class `shown`.

    Validation images of the class shown get `taught` more of the score of the label given by a fit on the training images than by one on
    the other validation images. `train` and `validation` are the shares of the images labeled `given` that look
    like the class shown.
    """

    given: int
    shown: int
    taught: float
    train: Share
    validation: Share


def find_label_confusion(exam: Examination) -> Finding | None:
    """Training labels of one class are another's, for a share that validation labels do not have."""
    pair = exam.comparison.best
    if not is_far_above_chance(pair) or is_at_chance(pair.within_train, pair.train.chance):
        return None
    found = find_confusion(exam, pair)
    if found is None:
        return None
    return Finding(
        "label_confusion",
        0.95 if found.taught > 0.15 else 0.85,
        f"{100 * found.train.value:.0f} % of the {found.train.n} training images labeled {found.given} look like class {found.shown};"
        f" in validation {100 * found.validation.value:.0f} % do, and of no other two classes do the splits differ as much.",
        f"Look through the training images labeled {found.given} and give those that show class {found.shown} its label.",
    )


def find_confusion(exam: Examination, pair: Pair) -> Confusion | None:
    """The two classes of which training labels teach the one for images of the other, as they do of hardly any other two.

    Splits that differ in their shares of classes, or in how hard they are, differ in several pairs; where classes have other numbers in
    validation, what training calls the class shown does not look like it. That the images look like it has to be seen in them as well.
    """
    taught, z = measure_what_is_taught(pair)
    (most, *others), (place, *_) = (x.tolist() for x in taught.flatten().topk(min(3, taught.numel())))
    shown, given = divmod(int(place), pair.classes)
    if most < max(MIN_TAUGHT, MIN_LEAD * max(others[1:], default=0.0)) or z[shown, given] < MIN_Z_TAUGHT:
        return None
    own = (pair.train_scores.argmax(1) == shown)[pair.train.labels == shown]
    if len(own) >= MIN_IMAGES and float(own.float().mean()) < MIN_OWN:
        return None
    is_plain = pair is exam.comparison.raw or not exam.comparison.is_augmented
    is_comparable = is_plain or pair.across_back.value > MIN_ACROSS * pair.within_validation.value
    shares = list_confused_shares(pair, given, shown, is_comparable)
    train, validation = max(shares, key=lambda both: both[0].above(both[1]))
    if train.above(validation) < MIN_Z_SEEN:
        return None
    return Confusion(given, shown, most, train, validation)


def measure_what_is_taught(pair: Pair) -> tuple[Tensor, Tensor]:
    """How much more of each class's score [K, K] validation images of each class get by the fit on the training images than by the fit on
    the other validation images, in the mean, and by how many standard errors; 0 on the diagonal and for classes of few images.
    """
    taught, z = torch.zeros(2, pair.classes, pair.classes)
    difference = pair.validation_scores - pair.validation_fit.scores
    for shown in range(pair.classes):
        rows = difference[pair.validation.labels == shown]
        if len(rows) >= MIN_IMAGES:
            taught[shown] = rows.mean(0)
            z[shown] = taught[shown] / (rows.std(0) / len(rows) ** 0.5).clamp_min(1e-6)
    return taught.fill_diagonal_(0), z.fill_diagonal_(0)


def list_confused_shares(pair: Pair, given: int, shown: int, is_comparable: bool) -> list[tuple[Share, Share]]:
    """The shares of the training and validation images labeled `given` that look like another class: by the fit on the training images;
    and, where training images are `is_comparable` with validation images, by that on the validation images, and by one of both classes.
    """
    labels = (pair.train.labels, pair.validation.labels)

    def count(train: Tensor, validation: Tensor, shown: int) -> tuple[Share, Share]:
        looks = [guess == shown for guess in (train, validation)]
        return Share(int(looks[0].sum()), len(train)), Share(int(looks[1].sum()), len(validation))

    def count_by(train_scores: Tensor, validation_scores: Tensor) -> tuple[Share, Share]:
        guesses = [scores.argmax(1)[y == given] for scores, y in zip((train_scores, validation_scores), labels, strict=True)]
        return count(guesses[0], guesses[1], shown)

    found = [count_by(pair.train_fit.scores, pair.validation_scores)]
    if not is_comparable:
        return found
    both = (labels[1] == given) | (labels[1] == shown)
    fit = Ridge(pair.validation_features[both], (labels[1][both] == shown).long(), 2)
    train = fit.predict(pair.train_features[labels[0] == given]).argmax(1)
    apart = count(train, fit.scores.argmax(1)[labels[1][both] == given], 1)
    return [*found, count_by(pair.train_scores, pair.validation_fit.scores), apart]


def measure_sure_errors(pair: Pair) -> tuple[Share, Share]:
    """Of the images of each split that the fit on the training images is surest of, those whose label is another one."""
    scores, labels = (pair.train_fit.scores, pair.validation_scores), (pair.train.labels, pair.validation.labels)
    highest = [x.topk(2, dim=1).values for x in scores]
    margins = [x[:, 0] - x[:, 1] for x in highest]
    least = margins[1].quantile(1 - SURE_SHARE)
    train, validation = (
        Share(int((x.argmax(1) != y)[margin >= least].sum()), int((margin >= least).sum()))
        for x, y, margin in zip(scores, labels, margins, strict=True)
    )
    return train, validation


def find_label_noise(exam: Examination) -> Finding | None:
    """Training labels are wrong for a share of the images of which a probe is surest, where validation labels are right."""
    pair = exam.comparison.best
    if not is_far_above_chance(pair) or is_at_chance(pair.across, pair.validation.chance):
        return None
    train, validation = measure_sure_errors(pair)
    if min(train.n, validation.n) < MIN_SURE:
        return None
    z, k = train.above(validation), exam.classes
    noise = min((train.value - validation.value) / max(1 - validation.value, 0.05) * k / (k - 1), 1.0)
    if z < MIN_Z_NOISE or noise < MIN_NOISE:
        return None
    if find_confusion(exam, pair) is not None or find_leakage_exact(exam) is not None or find_leakage_near(exam) is not None:
        return None  # copies of training images make validation easier than training is
    is_sure = noise > 0.12 and z > 5
    return Finding(
        "label_noise",
        0.95 if is_sure else 0.7,
        f"Of the images whose class a probe is surest of, {100 * train.value:.0f} % of {train.n} training labels differ from it and"
        f" {100 * validation.value:.0f} % of {validation.n} validation labels: about {100 * noise:.0f} % of the training labels are wrong.",
        "Relabel or drop the training images whose label disagrees with what the other images teach.",
    )


RULES = (
    Rule("labels_out_of_range", Stage.DATA, find_labels_out_of_range, {"wrong_outputs": "there the labels are in range"}),
    Rule(
        "labels_shifted",
        Stage.DATA,
        find_labels_shifted,
        {
            "label_noise": "there most labels still agree with their images",
            "augmentation_too_strong": "there training images look otherwise than validation images, and their labels on disk agree",
        },
    ),
    Rule("label_confusion", Stage.DATA, find_label_confusion, {"label_noise": "there the mistakes are spread over all pairs of classes"}),
    Rule(
        "label_noise",
        Stage.DATA,
        find_label_noise,
        {
            "label_confusion": "there the mistakes are between two classes",
            "augmentation_too_strong": "there a probe is not sure of the images it gets wrong",
            "leakage_near": "there validation images are easier only because training images show the same pictures",
            "hard task": "there validation labels are as hard",
        },
    ),
)
