"""Rules of the images themselves: broken ones, copies, marks, and too few pixels."""

from __future__ import annotations

from goodfit.doctor.defects import EXACT, NEARLY_EXACT, BrokenShares, find_effective_side, measure_broken, measure_fine_detail
from goodfit.doctor.examination import Examination
from goodfit.doctor.finding import Finding, Rule, Stage
from goodfit.doctor.marks import Marks, find_marks
from goodfit.doctor.pixels import to_images
from goodfit.doctor.probe import Share

MIN_BROKEN = 0.03  # share of the images
MIN_REPEATED, FEW_REPEATED = 0.08, 0.03  # shares of the training images
MIN_LEAKED, MIN_LEAKED_IMAGES = 0.02, 5
MIN_NEAR, MIN_NEAR_IMAGES = 0.06, 6
ENLARGED = 0.65  # of the pixels a side, up to which images count as enlarged from fewer
TINY_SIDE, SMALL_SIDE = 5, 10  # pixels a side in which next to nothing, and little, can be seen
MUCH_SHRUNK = 2.5  # times fewer pixels a side than on disk
MIN_Z = 3.5
SAME_DETAIL = 3.0  # times as much fine detail in one split as in the other
LOOKED_AT = 40


def find_blank_images(exam: Examination) -> Finding | None:
    """Many images are blank, break off, or are static, as the network gets them or on disk."""
    found: list[tuple[str, BrokenShares]] = [("as the network gets them", measure_broken(exam.sample.train.images))]
    if exam.patient.raw and "train" in exam.patient.raw:
        found.append(("on disk", measure_broken(to_images(exam.patient.raw["train"][0][:4096]))))
    where, broken = max(found, key=lambda item: item[1].total)
    if broken.total < MIN_BROKEN:
        return None
    return Finding(
        "blank_images",
        0.96 if broken.total > 2 * MIN_BROKEN else 0.8,
        f"Of the training images ({where}), {broken.describe()}; their labels teach nothing.",
        "Find the files that cannot be read, mend or drop them, and let the loader fail instead of filling in.",
    )


def find_duplicates_in_train(exam: Examination) -> Finding | None:
    """Many training images have the bytes of an earlier one, on disk or, where that is not known, within an epoch."""
    repeated = exam.copies.repeated
    if repeated.value < FEW_REPEATED or (exam.comparison.raw is None and evens_out(exam)):
        return None
    is_much = repeated.value > MIN_REPEATED
    return Finding(
        "duplicates_in_train",
        0.95 if is_much else 0.5,
        f"{repeated.count} of {repeated.n} training images ({100 * repeated.value:.0f} %) are byte for byte equal to an earlier one, so"
        f" there are {repeated.n - repeated.count} pictures only.",
        "Drop the copies, or collect other images.",
        is_material=is_much,
    )


def evens_out(exam: Examination) -> bool:
    """Whether other images come in the next epoch, as with a sampler that draws with replacement."""
    return exam.comparison.recurring < 0.9


def find_leakage_exact(exam: Examination) -> Finding | None:
    """Validation images are among the training images, byte for byte or, where only augmented ones are known, moved or mirrored."""
    leaked = exam.copies.leaked
    if leaked.value >= MIN_LEAKED and leaked.count >= MIN_LEAKED_IMAGES:
        count, n, how = leaked.count, leaked.n, "byte for byte"
    else:
        near, moved = exam.copies.nearly_leaked
        if exam.comparison.raw is not None or not are_many_near(near) or moved.value < 0.5:
            return None
        count, n, how = near.count, near.n, "moved or mirrored by augmentation"
    return Finding(
        "leakage_exact",
        0.97 if count > 0.04 * n else 0.8,
        f"{count} of {n} validation images ({100 * count / n:.0f} %) are also among the training images, {how}: that is memory.",
        "Remove them from the training images, or split again.",
    )


def are_many_near(near: Share) -> bool:
    """Whether so many validation images show a training image's picture that it is no chance."""
    return near.count >= MIN_NEAR_IMAGES and near.value >= MIN_NEAR


def find_leakage_near(exam: Examination) -> Finding | None:
    """Validation images show the same pictures as training images, changed."""
    if find_leakage_exact(exam) is not None:
        return None
    near, _ = exam.copies.nearly_leaked
    if not are_many_near(near):
        return None
    return Finding(
        "leakage_near",
        0.95 if near.value > 0.1 else 0.75,
        f"{near.count} of {near.n} validation images ({100 * near.value:.0f} %) show the same picture as a training image, cropped, moved,"
        " mirrored or with other brightness or noise.",
        "Split by where pictures come from (person, product, burst, original file), and augment after the split only.",
    )


def find_shortcut(exam: Examination) -> Finding | None:
    """Places in the images give the class away by a fixed color, while the rest of the image shows the class, too."""
    marks = look_for_marks(exam)
    if marks is None or marks.covered.above_value(marks.chance) < 4:
        return None
    rows, columns = marks.places.nonzero(as_tuple=True)
    return Finding(
        "shortcut",
        0.95 if marks.telling > 0.65 else 0.85,
        f"At {int(marks.places.sum())} of {marks.places.numel()} pixels (rows {int(rows.min())} to {int(rows.max())}, columns"
        f" {int(columns.min())} to {int(columns.max())}) a color that hardly another class has stands in {100 * marks.telling:.0f} % of a"
        " class's images.",
        "Cover or crop away the marks in all images, and measure accuracy on images without them.",
    )


def look_for_marks(exam: Examination) -> Marks | None:
    """Marks in the training images on disk, in those that the network gets, or in its validation images."""
    raw, inputs = exam.comparison.raw, exam.comparison.inputs
    splits = [*([raw.train] if raw else []), inputs.train, inputs.validation]
    return next((marks for split in splits if (marks := find_marks(split, exam.classes)) is not None), None)


def find_resolution_too_low(exam: Examination) -> Finding | None:
    """Images have, or were enlarged from, so few pixels that what tells the classes apart is lost."""
    images, train = exam.sample.validation.images[:LOOKED_AT], exam.sample.train.images[:LOOKED_AT]
    detail = [measure_fine_detail(x) for x in (train, images)]
    if max(detail) > SAME_DETAIL * max(min(detail), 1e-3):
        return None  # only one split: preprocessing differs
    raw, inputs = exam.comparison.raw, exam.comparison.inputs
    side = min(images.shape[2:])
    effective = find_effective_side(images, NEARLY_EXACT if raw else EXACT)
    had = find_effective_side(raw.validation.images[:LOOKED_AT], NEARLY_EXACT) if raw else side
    if effective > ENLARGED * had:
        return None
    z = raw.within_validation.above(inputs.within_validation) if raw else 0.0
    is_tiny, is_small = effective <= TINY_SIDE, effective <= SMALL_SIDE and had >= MUCH_SHRUNK * effective
    if not (is_tiny or z > MIN_Z or is_small):
        return None
    lost = ""
    if raw:
        shares = [100 * pair.within_validation.value for pair in (raw, inputs)]
        lost = f" A probe gets {shares[0]:.0f} % of the labels right from the images on disk, {shares[1]:.0f} % from these."
    return Finding(
        "resolution_too_low",
        0.96 if z > MIN_Z else 0.93 if is_tiny else 0.7,
        f"Images of {side} pixels a side show no more than {effective} pixels a side could, {'on disk' if raw else 'without enlarging'}"
        f" {had}.{lost}",
        "Feed images of more pixels: do not shrink them so far before they are enlarged.",
    )


RULES = (
    Rule("blank_images", Stage.DATA, find_blank_images, {"plain ground": "there columns at the sides have one color, too"}),
    Rule(
        "duplicates_in_train",
        Stage.DATA,
        find_duplicates_in_train,
        {"drawing with replacement": "there other images occur twice in the next epoch", "blank_images": "blank images are not counted"},
    ),
    Rule(
        "leakage_exact",
        Stage.DATA,
        find_leakage_exact,
        {"leakage_near": "there the bytes differ", "blank_images": "blank images are not counted"},
    ),
    Rule("leakage_near", Stage.DATA, find_leakage_near, {"similar images": "there details do not agree once aligned"}),
    Rule("shortcut", Stage.DATA, find_shortcut, {"classes that are places": "there nothing is left once the places are covered"}),
    Rule(
        "resolution_too_low",
        Stage.DATA,
        find_resolution_too_low,
        {"preprocessing_differs": "there only one split has few pixels", "small images": "there each pixel says something of its own"},
    ),
)
