"""Interpret the numbers of a run in plain sentences that claim no more than the numbers do."""

from __future__ import annotations

import dataclasses
import math

from goodfit.core import words
from goodfit.core.forecast import Forecast
from goodfit.core.run_files import get
from goodfit.report.markup import NBSP, format_number, format_percent, format_points
from goodfit.report.record import Record, as_interval, as_items, as_number, as_rows, get_number

SMALL_GAP, MODERATE_GAP, LARGE_GAP = 0.02, 0.05, 0.10  # between training and validation accuracy
MIN_EVALUATIONS_FOR_TREND = 5
# Times the log loss of knowing nothing, above which probabilities are of no use: of their log loss, and of whatever loss was trained.
MAX_LOG_LOSS_FACTOR, MAX_LOSS_FACTOR = 3.0, 1000.0


@dataclasses.dataclass(frozen=True)
class Gap:
    """The accuracy of the same weights on clean training images and on validation, and half the width of the latter's interval."""

    train: float
    validation: float
    noise: float

    @property
    def size(self) -> float:
        return self.train - self.validation


def measure_gap(record: Record) -> Gap | None:
    """Measure the gap at the step whose weights were kept, or else at the last evaluation that measured both accuracies."""
    measured = [
        (get_number(line, "step"), train, validation)
        for line in record.evaluations
        if (train := get_number(line, "clean_train", "accuracy")) is not None
        and (validation := get_number(line, "validation", "accuracy")) is not None
    ]
    if not measured:
        return None
    kept = get_number(record.scores, "kept")
    _, train, validation = next((row for row in measured if kept is not None and row[0] == kept), measured[-1])
    low, high = as_interval(get(record.scores, "validation", "interval"))
    return Gap(train, validation, (high - low) / 2 if low is not None and high is not None else 0.0)


def describe_gap(gap: Gap) -> str:
    """Describe the gap in a sentence, with what usually helps."""
    if abs(gap.size) <= max(SMALL_GAP, gap.noise):
        return (
            f"Clean training accuracy ({format_percent(gap.train)}) and validation accuracy ({format_percent(gap.validation)}) are close: "
            "no clear sign of overfitting. A larger model or a longer budget is likelier to help than more regularization."
        )
    if gap.size < 0:
        return (
            f"Validation accuracy is {format_points(gap.size)} above clean training accuracy, which is unusual: "
            "the validation images may be easier, or strong regularization may be holding the model back."
        )
    start = f"The gap between clean training accuracy and validation is {format_points(gap.size)}"
    if gap.size < MODERATE_GAP:
        return f"{start}: small, as is usual for a model that fits."
    if gap.size < LARGE_GAP:
        return f"{start}: some overfitting; stronger augmentation, more weight decay or more images may narrow it."
    return f"{start}: overfitting; more augmentation or regularization may help, and more images usually do."


def describe_end(record: Record) -> str:
    """Describe how the run ended; empty if it simply finished."""
    last = max((step for line in (*record.train, *record.evaluations) if (step := get_number(line, "step")) is not None), default=None)
    where = f" at {record.describe_step(last)}" if last is not None else " before the first logged step"
    match record.state:
        case "finished":
            return ""
        case "running":
            return f"The run is marked as still running; this page shows it{where}. If it was killed, continue it with `--resume auto`."
        case "interrupted":
            return f"The run was interrupted{where}; continue it with `--resume auto`."
        case "terminated":
            return f"The run was terminated by a signal{where}; continue it with `--resume auto`."
        case "failed":
            return f"The run failed{where} with an error; once the cause is fixed, continue it with `--resume auto`."
        case "stopped early":
            return f"The run was stopped early{where}, because validation no longer improved."
        case "diverged":
            return f"Training diverged{where}: a number stopped being finite. A lower learning rate, a warmup or clipping usually helps."
    return f"How the run ended is not recorded; the log stops{where}."


def describe_forecast(record: Record) -> str:
    """Say how right the plan of a budget in minutes was."""
    planned, accuracy = get(record.about, "forecast"), get_number(record.scores, "validation", "accuracy")
    expected, low, high = (get_number(planned, name) for name in ("accuracy", "low", "high"))
    if accuracy is None or expected is None or low is None or high is None:
        return ""
    return Forecast(expected, low, high, str(get(planned, "data"))).compare(accuracy)


def describe_uselessness(scores: object, data: object) -> str:
    """Say in a sentence that a classifier is of no use, by its scores on a split and what its run records of its data; empty if it is.

    It is of no use where the share of the most common class is within or above the interval of its accuracy, or where its loss is far above
    that of answering every class with the same probability.
    """
    accuracy, majority = get_number(scores, "accuracy"), get_number(data, "majority")
    low, _ = as_interval(get(scores, "interval"))
    counts = [(as_number(row[0]) or 0.0, name) for name, row in as_items(get(data, "counts")) if isinstance(row, list) and row]
    if accuracy is not None and majority is not None and counts and majority >= (accuracy if low is None else low):
        name = max(counts, key=lambda count: count[0])[1]
        better = "no better" if accuracy <= majority else "not clearly better"
        return f'This classifier is {better} than always answering "{name}" ({words.format_percent(majority)}).'
    chance = math.log(max(2, len(counts)))  # the log loss of the same probability for every class
    for name, loss, factor in (
        ("log loss", get_number(scores, "calibration", "log_loss"), MAX_LOG_LOSS_FACTOR),
        ("loss", get_number(scores, "loss"), MAX_LOSS_FACTOR),
    ):
        if counts and loss is not None and loss > factor * chance:
            even = f"the same probability for every class has a log loss of {chance:.3g}"
            return f"The probabilities of this classifier are of no use: its {name} is {loss:.3g}, and {even}."
    return ""


def describe_majority(record: Record) -> str:
    """Compare the accuracy with that of always answering the most common class."""
    split = "test" if get(record.scores, "test") else "validation"
    if useless := describe_uselessness(get(record.scores, split), get(record.about, "data")):
        return useless
    if get_number(record.scores, split, "accuracy") is None or record.majority_accuracy is None:
        return ""
    return f"Always answering the most common class would be right {format_percent(record.majority_accuracy)} of the time."


def describe_balance(record: Record) -> str:
    """Say whether rare classes do worse than the accuracy suggests."""
    scores = get(record.scores, record.split)
    accuracy, balanced = get_number(scores, "accuracy"), get_number(scores, "balanced_accuracy")
    if accuracy is None or balanced is None or accuracy - balanced < MODERATE_GAP:
        return ""
    classes = [
        (share, str(row.get("name"))) for row in as_rows(get(scores, "classes")) if (share := get_number(row, "accuracy")) is not None
    ]
    weakest = f", least often on {min(classes)[1]} ({format_percent(min(classes)[0], 0)})" if classes else ""
    return f"Averaged over classes it is right {format_percent(balanced)} of the time{weakest}: rare classes do worse than common ones."


def describe_trend(record: Record) -> str:
    """Describe how validation developed towards the end."""
    evaluations = [
        (step, loss, accuracy)
        for e in record.evaluations
        if (step := get_number(e, "step")) is not None
        and (loss := get_number(e, "validation", "loss")) is not None
        and (accuracy := get_number(e, "validation", "accuracy")) is not None
    ]
    if len(evaluations) < MIN_EVALUATIONS_FOR_TREND:
        return ""
    low_step, low, then = min(evaluations, key=lambda e: e[1])
    last_step, last, now = evaluations[-1]
    if last > 1.1 * low and low_step < 0.9 * last_step:
        start = f"Validation loss was lowest at {record.describe_step(low_step)} ({format_number(low)}) and ended at {format_number(last)}"
        if now >= then - 0.005:
            return (
                f"{start}, while accuracy did not fall: the model grew overconfident rather than worse; label smoothing or mixup may help."
            )
        return f"{start}: training went on too long for this much regularization."
    before = evaluations[int(0.8 * (len(evaluations) - 1))][2]
    if now == max(accuracy for *_, accuracy in evaluations) and now - before > 0.01:
        return "Validation accuracy was still rising at the end: a longer budget may help."
    return ""


def describe_test_use(record: Record) -> str:
    """Say how far the headline's accuracy can be trusted: how often the test split was opened, and what validation has chosen."""
    test, openings = get(record.scores, "test"), as_rows(get(record.about, "openings"))
    if test:
        if len(openings) > 1:
            times = words.count_of(len(openings), "time")
            return f"The test split has been opened {times}: every change made after a look at it biases its accuracy upward."
        return ""
    if get_number(record.ensemble, "tests_seen"):
        return ""
    images = get_number(record.about, "data", "splits", "test")
    stopped_early = record.state == "stopped early"
    chosen = "Validation also chose which weights to keep, so its accuracy may be slightly too high. " if stopped_early else ""
    rest = words.count_of(int(images), "test image") if images else ""
    untouched = f"Training left {rest} untouched: `goodfit evaluate RUN --test` measures on them, once." if rest else ""
    return (chosen + untouched).strip()


def describe_gain(record: Record) -> list[str]:
    """Describe by how much an ensemble beats the best of its models, whether that could be luck, and what biases it."""
    split = "test" if get(record.scores, "test") else "validation"
    gain = get(record.scores, split, "gain")
    difference, (low, high) = get_number(gain, "difference"), as_interval(get(gain, "interval"))
    sentences = []
    if difference is not None and low is not None and high is not None:
        distance = f"{format_points(difference)} {'ahead of' if difference > 0 else 'behind'}" if difference else "level with"
        luck = ", which could be luck" if low <= 0 <= high else ""
        p, between = get_number(gain, "p"), f"95{NBSP}% interval {100 * low:+.2f} to {100 * high:+.2f}"
        test = f", McNemar's p = {format_number(p, 2)}" if p is not None else ""
        sentences.append(f"On {split} it is {distance} the best single model ({between} points, on the same images{test}){luck}.")
        if split == "validation" and get(record.ensemble, "select") == "greedy":
            sentences.append(
                "The models were chosen on these validation images, so the gain is biased upward; only test images measure it."
            )
    if seen := get_number(record.ensemble, "tests_seen"):
        images = words.count_of(int(seen), "test image")
        sentences.append(f"Some of the models were trained on {images}, so there is no honest test score.")
    return sentences


def interpret_run(record: Record) -> list[str]:
    """Interpret a run in sentences, the most urgent first."""
    gap = measure_gap(record)
    sentences = [
        describe_end(record),
        *describe_gain(record),
        describe_gap(gap) if gap else "",
        describe_trend(record),
        describe_balance(record),
        describe_majority(record),
        describe_forecast(record),
        describe_test_use(record),
    ]
    return [sentence for sentence in sentences if sentence]
