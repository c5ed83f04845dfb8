"""Failures: signs in the numbers of a run or an ensemble that its training went wrong, each in a sentence with what to do."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from goodfit.core.figures import ACCURACY, Figure
from goodfit.core.reporter import WARNING
from goodfit.core.run_files import get
from goodfit.core.words import list_some
from goodfit.report.gap import measure_gap
from goodfit.report.markup import format_distance, format_figure, format_number, format_percent, plain_text
from goodfit.report.record import Record, as_interval, as_items, as_number, as_rows, as_texts, get_number, half_width, has_annealed
from goodfit.report.remark import Remark
from goodfit.report.sections.baselines import BASELINES_FILE, MAJORITY_LABEL, BaselineScore, read_baselines

# Times its first value from which the training loss, or the norm of the gradient, has grown out of hand. What is compared are medians of
# WINDOW steps, which a spike does not move, and a first value that is unusually small does not count: the loss then is that of knowing
# nothing, the norm MIN_GRADIENT, since the gradient of a net that is slow to start, or starts from a fitted head, grows as it should.
MAX_LOSS_GROWTH, MAX_GRADIENT_GROWTH, MIN_GRADIENT, WINDOW, HEALED = 10.0, 50.0, 1.0, 5, 0.5
# Times the log loss of knowing nothing, above which probabilities are of no use: of their log loss, and of whatever loss was trained.
MAX_LOG_LOSS_FACTOR, MAX_LOSS_FACTOR = 3.0, 1000.0
MIN_IMAGES_TO_RECOGNIZE, RARE = 10, 0.5  # images of a class, none of them recognized; and of the usual number of training images
MIN_LEAKED = 0.01  # of the validation images
OTHER_TRAINING = "Train at another learning rate (`goodfit lr` measures some), longer, or with another model."
LOWER_RATE = 'a tenth of it (`--lr`), a warmup (`--schedule "warmup(0.05) | cosine"`) or clipping (`--clip 1`)'


def find_failures(record: Record) -> list[Remark]:
    """Everything that went wrong, the most urgent first."""
    broken = find_broken_training(record)
    return [*broken, *find_shortfalls(record, bool(broken))]


def format_warnings(record: Record) -> list[str]:
    """The failures as lines for a terminal."""
    return [f"{WARNING}{plain_text(str(failure), record.shell_path)}" for failure in find_failures(record)]


# ---- training --------------------------------------------------------------------------------------------------------------------


def find_broken_training(record: Record) -> list[Remark]:
    """What shows that training itself went wrong, so that its result says nothing of how well the model fits; at most one failure."""
    signs = [describe_divergence(record), describe_loss_growth(record), describe_gradient_growth(record), describe_worse_start(record)]
    text = "; ".join(sign for sign in signs if sign)
    pretrained = ", or train the head alone (`--trainable head`)" if 0 in record.validation_accuracies else ""
    remedy = f"The learning rate is likely too high: train again with {LOWER_RATE}{pretrained}."
    return [Remark(f"{text[0].upper()}{text[1:]}.", remedy, "lr_too_high")] if text else []


def describe_divergence(record: Record) -> str:
    """Say in a clause that training, or its last validation loss, stopped being finite."""
    if record.state == "diverged":
        where = f"at {record.describe_step(record.last_step)}" if record.last_step is not None else "before the first logged step"
        return f"training diverged {where}: a number stopped being finite"
    validation = get(record.evaluations[-1], "validation") if record.evaluations else None
    is_infinite = isinstance(validation, dict) and "loss" in validation and as_number(validation["loss"]) is None
    return "the last validation loss is not a finite number" if is_infinite else ""


def describe_loss_growth(record: Record) -> str:
    """Say in a clause that the training loss grew far above its beginning."""
    chance = log_loss_of_knowing_nothing(len(as_texts(get(record.about, "data", "classes"))))
    return describe_growth(record, "loss", "the training loss", chance, MAX_LOSS_GROWTH)


def describe_gradient_growth(record: Record) -> str:
    """Say in a clause that the gradient grew far above its beginning."""
    return describe_growth(record, "grad_norm", "the norm of the gradient", MIN_GRADIENT, MAX_GRADIENT_GROWTH)


def describe_growth(record: Record, key: str, name: str, smallest: float, most: float) -> str:
    """Say in a clause that a number of the log grew to more than `most` times its first value, or `smallest` if that is larger; not of a
    spike that healed, after which it fell far below that value.
    """
    values = [(step, x) for line in record.train if (x := get_number(line, key)) is not None and (step := get_number(line, "step"))]
    if not values:
        return ""
    windows = [values[k : k + WINDOW] for k in range(max(1, len(values) - WINDOW + 1))]
    medians = [(statistics.median(x for _, x in window), window[len(window) // 2][0]) for window in windows]
    highest, step = max(medians, key=lambda pair: pair[0])
    first = values[0][1]
    if highest <= most * max(first, smallest) or medians[-1][0] <= HEALED * max(first, smallest):
        return ""
    return f"{name} rose from {format_number(first)} to {format_number(highest)} at {record.describe_step(step)}"


def describe_worse_start(record: Record) -> str:
    """Say in a clause that training made the pretrained weights it started from worse."""
    accuracies = record.validation_accuracies
    if 0 not in accuracies or not record.falls_clearly(0, last := max(accuracies)):
        return ""
    before, after = (format_figure(record.figure, accuracies[step]) for step in (0, last))
    return f"validation {record.figure.name} fell from {before} at the pretrained start to {after}"


# ---- the result ------------------------------------------------------------------------------------------------------------------


def find_shortfalls(record: Record, is_broken: bool = False) -> list[Remark]:
    """What the result falls short of: the best on the way, a constant answer, the baselines, probabilities that are of use.

    Where training `is_broken`, or ended below its best, that has said what to do.
    """
    scores, data = get(record.scores, record.headline_split), get(record.about, "data")
    figure, interval = record.figure, as_interval(get(record.scores, "validation", "interval"))
    accuracy = get_number(record.scores, "validation", figure.key)
    baselines = read_baselines(record.files.read_json(BASELINES_FILE), get_number(data, "splits", "train"))
    found = find_lower_than_best(record)
    constant, lower = describe_constant_answer(scores, data), compare_with_baselines(accuracy, interval, baselines, figure)
    if constant or lower:
        aim = max((share for _, share, *_ in baselines), default=1.0)
        remedy = "" if found or is_broken else advise_better_fit(record, aim)
        is_noise = not constant and lower is not None and lower.may_be_noise
        found.append(Remark(f"{constant} {lower or ''}".strip(), remedy, may_be_noise=is_noise))
    of_classes = [] if constant or is_broken or figure is not ACCURACY else find_unrecognized_classes(record)
    useless = find_useless_probabilities(scores, data) if figure is ACCURACY else []
    return [*found, *of_classes, *find_leaks(record), *useless]


def advise_better_fit(record: Record, aim: float) -> str:
    """Advise what may help to reach an accuracy, by whether the training images reach it."""
    if record.ensemble is not None:
        return "The reports of its models show which of them to train anew."
    if get_number(record.about, "parameters") == 0:
        return "Train another model: this one learns nothing by steps."
    gap = measure_gap(record)
    if gap and gap.is_clear and gap.train >= aim:
        transfer = f"Of the training images {format_percent(gap.train)} are recognized, which does not carry over"
        if record.figure is not ACCURACY:
            transfer = (
                f"The {record.figure.name} of the training images is {format_figure(record.figure, gap.train)}, which does not carry over"
            )
        return f"{transfer}: try stronger augmentation, more weight decay or another model."
    return OTHER_TRAINING


def describe_constant_answer(scores: object, data: object) -> str:
    """Say that a classifier is no better than the constant answer, by its scores on a split and what its run records of its data.

    It is not where the share of the most common class is within or above the interval of its accuracy.
    """
    accuracy, majority = get_number(scores, "accuracy"), get_number(data, "majority")
    low, _ = as_interval(get(scores, "interval"))
    counts = read_counts(data)
    if accuracy is None or majority is None or not counts or majority < (accuracy if low is None else low):
        return ""
    name = max(counts, key=counts.__getitem__)
    better = "no better" if accuracy <= majority else "not clearly better"
    return f'This classifier is {better} than always answering "{name}" ({format_percent(majority)}).'


def read_counts(data: object) -> dict[str, float]:
    """The training images of each class, by what a run records of its data."""
    return {name: as_number(row[0]) or 0.0 for name, row in as_items(get(data, "counts")) if isinstance(row, list) and row}


def compare_with_baselines(
    accuracy: float | None,
    interval: tuple[float, float] | tuple[None, None],
    baselines: Sequence[BaselineScore],
    figure: Figure = ACCURACY,
) -> Remark | None:
    """Say that an accuracy on validation lies below the best baseline, and whether by noise; the majority has its own sentence."""
    rows = [(share, name, low, high) for name, share, low, high in baselines if name != MAJORITY_LABEL]
    if accuracy is None or not rows:
        return None
    best, name, *ends = max(rows, key=lambda row: row[0])
    if best <= accuracy:
        return None
    is_noise = best - accuracy <= math.hypot(half_width(*interval), half_width(*ends))
    subject = format_figure(figure, accuracy) if figure is ACCURACY else f"{figure.name} {format_figure(figure, accuracy)}"
    comparison = f"{subject} on validation is {format_distance(figure, best - accuracy)} below a baseline"
    luck = ", which may be noise" if is_noise else ""
    text = f"{comparison}: {name[0].lower()}{name[1:]}, {format_figure(figure, best)}{luck}."
    return Remark(f"{text[0].upper()}{text[1:]}", may_be_noise=is_noise)


def find_lower_than_best(record: Record) -> list[Remark]:
    """That training ended below its best evaluation by more than noise: it overfitted, or was unstable."""
    accuracies, best = record.validation_accuracies, record.best_step
    if not best or not record.falls_clearly(best, last := max(accuracies)):
        return []
    clean = {get_number(line, "step"): get_number(line, "clean_train", record.figure.key) for line in record.evaluations}
    before, after = clean.get(best), clean.get(last)
    distance = format_distance(record.figure, accuracies[best] - accuracies[last])
    fall = f"Training ended {distance} below its best validation {record.figure.name}"
    where = f"{format_figure(record.figure, accuracies[best])} at {record.describe_step(best)}"
    if before is not None and after is not None and after >= before and after > accuracies[best]:
        less = 'Stopping there (`--stop "patience(10)"`), stronger augmentation or more weight decay may keep what was learned.'
        return [Remark(f"{fall}, {where}.", less, "overfitting")]
    too = ", and on training images too" if before is not None and after is not None and after < before else ""
    cause = "lr_too_high" if has_annealed(record) else "no_decay"
    return [Remark(f"{fall}, {where}{too}.", "A lower learning rate, or one that anneals, may keep what was learned.", cause)]


def find_unrecognized_classes(record: Record) -> list[Remark]:
    """That some classes are never recognized, though the split has enough images of each; rare classes are what they may be."""
    rows = [
        (str(row.get("name")), get_number(row, "images") or 0.0, get_number(row, "accuracy"))
        for row in as_rows(get(record.scores, record.headline_split, "classes"))
    ]
    missed = [name for name, images, accuracy in rows if accuracy == 0.0 and images >= MIN_IMAGES_TO_RECOGNIZE]
    if not missed:
        return []
    counts = read_counts(get(record.about, "data"))
    usual = statistics.median(counts.values()) if counts else 0.0
    are_rare = all(counts.get(name, usual) < RARE * usual for name in missed)
    remedy = "`--class-weights balanced` gives rare classes more weight." if are_rare else "The report shows what they are taken for."
    classes = list_some([f'"{name}"' for name in missed])
    return [Remark(f"No {record.headline_split} image of {classes} is recognized.", remedy, "class_imbalance" if are_rare else "")]


def find_leaks(record: Record) -> list[Remark]:
    """That a good part of the validation images are training images too."""
    leaked, images = get_number(record.about, "data", "leaked"), get_number(record.about, "data", "splits", "validation")
    if not leaked or not images or leaked < MIN_LEAKED * images:
        return []
    evidence = f"{format_percent(leaked / images)} of the validation images are training images too: accuracy on them comes out too good."
    return [Remark(evidence, "`--drop-duplicates` leaves them out.", "leakage_exact")]


def find_useless_probabilities(scores: object, data: object) -> list[Remark]:
    """That the loss on a split is far above that of answering every class with the same probability."""
    classes = len(as_items(get(data, "counts")))
    chance = log_loss_of_knowing_nothing(classes)
    for name, loss, factor in (
        ("log loss", get_number(scores, "calibration", "log_loss"), MAX_LOG_LOSS_FACTOR),
        ("loss", get_number(scores, "loss"), MAX_LOSS_FACTOR),
    ):
        if classes and loss is not None and loss > factor * chance:
            even = f"the same probability for every class has a log loss of {chance:.3g}"
            evidence = f"The probabilities of this classifier are of no use: its {name} is {loss:.3g}, and {even}."
            return [Remark(evidence, "`goodfit evaluate RUN --calibrate` softens them.")]
    return []


def log_loss_of_knowing_nothing(classes: int) -> float:
    """The log loss of the same probability for every class."""
    return math.log(max(2, classes))
