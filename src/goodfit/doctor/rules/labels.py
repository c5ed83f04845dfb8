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

MIN_CONFUSED, MIN_NOISE = 0.1, 0.08  # shares of labels below which nothing is said
MIN_Z_NOISE, MIN_Z_CELL = 4.0, 5.0  # standard errors; the second is of K (K - 1) cells
DOMINANT = 0.6  # share of all surplus mistakes that are in three cells
MIN_Z_LOST, MIN_Z_FOUND = 4.0, 3.5  # standard errors by which a class is rarer in training, and its images are found under another label
MIN_TOLD_APART = 15  # images of a class that can be told from another
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
class Cell:
    """Training images labeled `given` that look like class `looks`: their share of the images with that label, the share in validation,
    by how many standard errors the first is above the second, and how much of all that is mistaken beyond validation is in this and at
    most two other cells.
    """

    given: int
    looks: int
    train: Share
    validation: Share
    z: float
    dominance: float

    @property
    def surplus(self) -> float:
        return self.train.value - self.validation.value


def find_confused_cell(predicted: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor], classes: int) -> Cell:
    """The pair of classes that training labels mistake for one another most, beyond what validation labels do."""
    counts = [torch.bincount(y * classes + p, minlength=classes**2).view(classes, classes) for y, p in zip(labels, predicted, strict=True)]
    totals = [count.sum(1, keepdim=True) for count in counts]
    p, q = ((count + 1) / (total + 2) for count, total in zip(counts, totals, strict=True))
    z = (p - q) / (p * (1 - p) / (totals[0] + 2) + q * (1 - q) / (totals[1] + 2)).sqrt()
    z.fill_diagonal_(0)
    z[(totals[0] < 10).expand_as(z) | (totals[1] < 5).expand_as(z)] = 0
    given, looks = divmod(int(z.argmax()), classes)
    surplus = ((p - q) * totals[0] * (z > 2)).flatten()
    dominance = float(surplus.topk(min(3, len(surplus))).values.sum() / surplus.sum().clamp_min(1e-9))
    train, validation = (Share(int(c[given, looks]), int(t[given])) for c, t in zip(counts, totals, strict=True))
    return Cell(given, looks, train, validation, float(z[given, looks]), dominance)


def find_label_confusion(exam: Examination) -> Finding | None:
    """Training labels of one class are another's, for a share that validation labels do not have."""
    pair = exam.comparison.best
    if not is_far_above_chance(pair) or is_at_chance(pair.within_train, pair.train.chance):
        return None
    cell = find_confusion(exam, pair)
    if cell is None:
        return None
    return Finding(
        "label_confusion",
        0.95 if cell.surplus > 0.15 else 0.85,
        f"{100 * cell.train.value:.0f} % of the {cell.train.n} training images labeled {cell.given} look like class {cell.looks};"
        f" in validation {100 * cell.validation.value:.0f} % do. Surplus mistakes are nearly all between few classes.",
        f"Look through the training images labeled {cell.given} and give those that show class {cell.looks} its label.",
    )


def find_confusion(exam: Examination, pair: Pair) -> Cell | None:
    """The confused pair of classes, if the mistakes are between few, by the fit on either split."""
    labels = (pair.train.labels, pair.validation.labels)
    cells = [find_confused_cell((pair.train_fit.scores.argmax(1), pair.validation_scores.argmax(1)), labels, pair.classes)]
    if pair is exam.comparison.raw or not exam.comparison.is_augmented:
        predicted = (pair.train_scores.argmax(1), pair.validation_fit.scores.argmax(1))
        cells.append(find_confused_cell(predicted, labels, pair.classes))
    sure = [c for c in cells if c.z > MIN_Z_CELL and c.surplus > MIN_CONFUSED and c.dominance >= DOMINANT]
    vanished = None if exam.comparison.is_augmented and pair is exam.comparison.inputs else find_vanished_class(pair)
    sure += [c for c in [vanished] if c is not None and c.z > MIN_Z_FOUND and c.surplus > MIN_CONFUSED]
    return max(sure, key=lambda cell: cell.z, default=None)


def find_vanished_class(pair: Pair) -> Cell | None:
    """The class that has far fewer training than validation images, and the label under which its training images are found.

    A probe of the two classes alone is fitted on the validation images.
    """
    counts = [torch.bincount(view.labels, minlength=pair.classes) for view in (pair.train, pair.validation)]
    shares = [[Share(int(n), int(count.sum())) for n in count] for count in counts]
    lost = max(range(pair.classes), key=lambda k: shares[1][k].above(shares[0][k]))
    if shares[1][lost].above(shares[0][lost]) < MIN_Z_LOST or counts[1][lost] < MIN_TOLD_APART:
        return None
    cells = []
    for other in range(pair.classes):
        if other == lost or counts[1][other] < MIN_TOLD_APART or counts[0][other] < MIN_TOLD_APART:
            continue
        both = (pair.validation.labels == lost) | (pair.validation.labels == other)
        fit = Ridge(pair.validation_features[both], (pair.validation.labels[both] == lost).long(), 2)
        train = fit.predict(pair.train_features[pair.train.labels == other]).argmax(1)
        validation = fit.scores.argmax(1)[pair.validation.labels[both] == other]
        found = [Share(int(looks.sum()), len(looks)) for looks in (train, validation)]
        cells.append(Cell(other, lost, found[0], found[1], found[0].above(found[1]), 1.0))
    return max(cells, key=lambda cell: cell.z, default=None)


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
