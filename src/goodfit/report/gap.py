"""The gap between the accuracy on training images and on validation: what it says of overfitting."""

from __future__ import annotations

import dataclasses

from goodfit.core.figures import ACCURACY, Figure
from goodfit.core.run_files import get
from goodfit.report.markup import format_distance, format_figure
from goodfit.report.record import Record, as_interval, get_number, half_width
from goodfit.report.remark import Remark

SMALL_GAP, MODERATE_GAP, LARGE_GAP = 0.02, 0.05, 0.10  # between training and validation accuracy
MIN_TRAIN_ERROR = 0.05  # from which a better fit of the training images has something to gain


@dataclasses.dataclass(frozen=True)
class Gap:
    """The accuracy of the same weights on clean training images and on validation, and half the width of the latter's interval."""

    train: float
    validation: float
    noise: float
    figure: Figure = ACCURACY

    @property
    def size(self) -> float:
        return self.train - self.validation

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise and a trifle."""
        return abs(self.size) > max(SMALL_GAP, self.noise)


def measure_gap(record: Record) -> Gap | None:
    """Measure the gap at the step whose weights were kept, or else at the last evaluation that measured both accuracies.

    A model without weights has none to speak of: it may know its training images by heart.
    """
    if get_number(record.about, "parameters") == 0:
        return None
    figure = record.figure
    measured = [
        (get_number(line, "step"), train, validation)
        for line in record.evaluations
        if (train := get_number(line, "clean_train", figure.key)) is not None
        and (validation := get_number(line, "validation", figure.key)) is not None
    ]
    if not measured:
        return None
    kept = get_number(record.scores, "kept")
    _, train, validation = next((row for row in measured if kept is not None and row[0] == kept), measured[-1])
    return Gap(train, validation, half_width(*as_interval(get(record.scores, "validation", "interval"))), figure)


def describe_gap(gap: Gap) -> Remark:
    """Describe the gap, with what may help as far as the two accuracies tell."""
    name, train, validation = gap.figure.name, format_figure(gap.figure, gap.train), format_figure(gap.figure, gap.validation)
    accuracies, size = f"Clean training {name} ({train}) and validation {name} ({validation})", format_distance(gap.figure, gap.size)
    if not gap.is_clear:
        apart = f"are {size} apart"
        if abs(gap.size) > SMALL_GAP:
            return Remark(f"{accuracies} {apart}, which so few validation images cannot tell from no difference.")
        room = "The errors are made on training images too: a longer budget or a larger model may help, more regularization will not."
        return Remark(f"{accuracies} {apart}: no clear sign of overfitting.", room if 1 - gap.train >= MIN_TRAIN_ERROR else "")
    if gap.size < 0:
        return Remark(
            f"Validation {name} is {size} above clean training {name}, which is unusual: "
            "the validation images may be easier than the training images, or their labels cleaner."
        )
    start = f"The gap between clean training {name} and validation is {size}"
    if gap.size < MODERATE_GAP:
        return Remark(f"{start}: little overfitting.")
    degree = "some overfitting" if gap.size < LARGE_GAP else "overfitting"
    return Remark(f"{start}: {degree}.", "Stronger augmentation, more weight decay or more images may narrow it.", "overfitting")
