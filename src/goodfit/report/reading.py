"""What the numbers of a run say, in plain sentences that claim no more than the numbers do."""

from __future__ import annotations

import dataclasses

from goodfit.core import words
from goodfit.report.markup import THIN, percent, points, significant
from goodfit.report.record import Record, at, number, rows

SMALL, CLEAR, LARGE = 0.02, 0.05, 0.10  # gaps between training and validation accuracy that are worth a word
TREND = 5  # evaluations below which a trend is not read


@dataclasses.dataclass(frozen=True)
class Gap:
    """Accuracy of the same weights on clean training images and on validation, and half the interval of the latter."""

    train: float
    validation: float
    noise: float

    @property
    def size(self) -> float:
        return self.train - self.validation


def gap(record: Record) -> Gap | None:
    """The gap at the step whose weights were kept, else at the last evaluation that measured both."""
    both = [
        e
        for e in record.evaluations
        if number(e, "clean_train", "accuracy") is not None and number(e, "validation", "accuracy") is not None
    ]
    if not both:
        return None
    kept = number(record.scores, "kept")
    line = next((e for e in both if kept is not None and number(e, "step") == kept), both[-1])
    train, validation = number(line, "clean_train", "accuracy"), number(line, "validation", "accuracy")
    assert train is not None and validation is not None
    low, high = interval(at(record.scores, "validation", "interval"))
    return Gap(train, validation, (high - low) / 2 if low is not None and high is not None else 0.0)


def interval(value: object) -> tuple[float, float] | tuple[None, None]:
    """A pair (low, high), or two Nones."""
    match value:
        case [int() | float() as low, int() | float() as high] if low <= high:
            return float(low), float(high)
    return None, None


def gap_said(found: Gap) -> str:
    """The gap as a sentence, with what usually helps."""
    if abs(found.size) <= max(SMALL, found.noise):
        return (
            f"Clean training accuracy ({percent(found.train)}) and validation accuracy ({percent(found.validation)}) are close: "
            "no clear sign of overfitting. To go higher, a larger model or a longer budget is likelier to help than more regularization."
        )
    if found.size < 0:
        return (
            f"Validation accuracy is {points(found.size)} above clean training accuracy, which is unusual: "
            "the validation images may be easier, or strong regularization may be holding the model back."
        )
    start = f"The gap between clean training accuracy and validation is {points(found.size)}"
    if found.size < CLEAR:
        return f"{start}: a little, as is usual for a model that fits."
    if found.size < LARGE:
        return f"{start}: some overfitting; stronger augmentation, more weight decay or more images may narrow it."
    return f"{start}: overfitting; more augmentation or regularization may help, and more images usually do."


def state_said(record: Record) -> str:
    """How the run ended, when it did not simply finish."""
    last = max((step for line in (*record.train, *record.evaluations) if (step := number(line, "step")) is not None), default=None)
    where = f" at {record.when(last)}" if last is not None else " before the first logged step"
    match record.state:
        case "finished":
            return ""
        case "running":
            return f"The run says it is still running; this page shows it{where}. If it was killed, continue it with `--resume auto`."
        case "interrupted":
            return f"The run was interrupted{where}; continue it with `--resume auto`."
        case "terminated":
            return f"The run was told to end by a signal{where}; continue it with `--resume auto`."
        case "failed":
            return f"The run failed{where} with an error; once its cause is gone, continue it with `--resume auto`."
        case "stopped early":
            return f"The run was stopped early{where}, because validation no longer improved."
        case "diverged":
            return (
                f"Training diverged{where}: a number stopped being finite. A lower learning rate, a warmup or clipping usually cures this."
            )
    return f"The run does not say how it ended; the log stops{where}."


def baseline_said(record: Record) -> str:
    """Accuracy beside that of always answering the most common class."""
    split = "test" if at(record.scores, "test") else "validation"
    accuracy, majority = number(record.scores, split, "accuracy"), record.majority
    if accuracy is None or majority is None:
        return ""
    low, _ = interval(at(record.scores, split, "interval"))
    said = f"Always answering the most common class would be right {percent(majority)} of the time"
    return f"{said}: the model is not clearly better than that." if majority >= (accuracy if low is None else low) else f"{said}."


def balance_said(record: Record) -> str:
    """Whether rare classes do worse than the accuracy lets on."""
    scores = at(record.scores, record.shown)
    accuracy, balanced = number(scores, "accuracy"), number(scores, "balanced_accuracy")
    if accuracy is None or balanced is None or accuracy - balanced < CLEAR:
        return ""
    known = [(share, str(row.get("name"))) for row in rows(at(scores, "classes")) if (share := number(row, "accuracy")) is not None]
    weakest = f", least on {min(known)[1]} ({percent(min(known)[0], 0)})" if known else ""
    return f"Averaged over classes it is right {percent(balanced)} of the time{weakest}: the rarer classes do worse than the common ones."


def trend_said(record: Record) -> str:
    """What validation did towards the end."""
    known = [
        (step, loss, accuracy)
        for e in record.evaluations
        if (step := number(e, "step")) is not None
        and (loss := number(e, "validation", "loss")) is not None
        and (accuracy := number(e, "validation", "accuracy")) is not None
    ]
    if len(known) < TREND:
        return ""
    low_step, low, then = min(known, key=lambda e: e[1])
    last_step, last, now = known[-1]
    if last > 1.1 * low and low_step < 0.9 * last_step:
        start = f"Validation loss was lowest at {record.when(low_step)} ({significant(low)}) and ended at {significant(last)}"
        if now >= then - 0.005:
            return (
                f"{start}, while accuracy did not fall: the model grew overconfident rather than worse; label smoothing or mixup may help."
            )
        return f"{start}: training went on too long for this much regularization."
    before = known[int(0.8 * (len(known) - 1))][2]
    if now == max(accuracy for *_, accuracy in known) and now - before > 0.01:
        return "Validation accuracy was still rising at the end: a longer budget may give more."
    return ""


def honesty_said(record: Record) -> str:
    """What the headline's figure was measured on, and what that is worth."""
    test, openings = at(record.scores, "test"), rows(at(record.about, "openings"))
    if test:
        if len(openings) > 1:
            times = words.count_of(len(openings), "time")
            return f"The test split has been opened {times}: each look that led to a change makes its figure lean higher."
        return ""
    if number(record.ensemble, "tests_seen"):
        return ""
    images = number(record.about, "data", "splits", "test")
    chosen = record.state == "stopped early"
    best = " Validation also chose which weights to keep, so its figure may lean a little high." if chosen else ""
    waiting = (
        f" {words.count_of(int(images), 'test image')} are untouched: `goodfit evaluate RUN --test` measures on them, once."
        if images
        else ""
    )
    return (best + waiting).strip()


def gain_said(record: Record) -> list[str]:
    """What an ensemble is ahead of the best of its models, whether that could be luck, and what flatters it."""
    split = "test" if at(record.scores, "test") else "validation"
    found = at(record.scores, split, "gain")
    difference, (low, high) = number(found, "difference"), interval(at(found, "interval"))
    said = []
    if difference is not None and low is not None and high is not None:
        far = f"{points(difference)} {'ahead of' if difference > 0 else 'behind'}" if difference else "level with"
        luck = ", which could be luck" if low <= 0 <= high else ""
        p, between = number(found, "p"), f"95{THIN}% interval {100 * low:+.2f} to {100 * high:+.2f}"
        tossed = f", McNemar's p = {significant(p, 2)}" if p is not None else ""
        said.append(f"On {split} it is {far} the best single model ({between} points, the same images{tossed}){luck}.")
        if split == "validation" and at(record.ensemble, "select") == "greedy":
            said.append("The models were chosen by these validation images, so the gain is flattered; test images alone tell it.")
    if seen := number(record.ensemble, "tests_seen"):
        said.append(f"{words.count_of(int(seen), 'test image')} had a part in training some of the models: there is no honest test score.")
    return said


def findings(record: Record) -> list[str]:
    """Every sentence that has something to say, the most pressing first."""
    found = gap(record)
    sentences = [
        state_said(record),
        *gain_said(record),
        gap_said(found) if found else "",
        trend_said(record),
        balance_said(record),
        baseline_said(record),
        honesty_said(record),
    ]
    return [sentence for sentence in sentences if sentence]
