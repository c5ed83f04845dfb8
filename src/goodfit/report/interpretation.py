"""Interpret the numbers of a run in plain sentences that claim no more than the numbers do."""

from __future__ import annotations

from goodfit.core import words
from goodfit.core.figures import ACCURACY
from goodfit.core.forecast import Forecast
from goodfit.core.run_files import get
from goodfit.report.failures import describe_constant_answer, find_broken_training, find_shortfalls
from goodfit.report.gap import MODERATE_GAP, describe_gap, measure_gap
from goodfit.report.loss_shape import describe_loss_shape
from goodfit.report.markup import NBSP, format_distance, format_figure, format_number, format_percent
from goodfit.report.record import Record, as_interval, as_rows, get_number, has_annealed
from goodfit.report.remark import Remark

MIN_EVALUATIONS_FOR_TREND = 5
MIN_RISE = 0.01  # over the last fifth of the evaluations, that a longer budget might continue


def describe_end(record: Record) -> str:
    """Describe how the run ended; empty if it simply finished."""
    where = f" at {record.describe_step(record.last_step)}" if record.last_step is not None else " before the first logged step"
    match record.state:
        case "finished" | "diverged":  # of which `describe_divergence` has more to say
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
    return f"How the run ended is not recorded; the log stops{where}."


def describe_forecast(record: Record) -> str:
    """Say how right the plan of a budget in minutes was."""
    planned, accuracy = get(record.about, "forecast"), get_number(record.scores, "validation", "accuracy")
    expected, low, high = (get_number(planned, name) for name in ("accuracy", "low", "high"))
    if accuracy is None or expected is None or low is None or high is None:
        return ""
    return Forecast(expected, low, high, str(get(planned, "data"))).compare(accuracy)


def describe_kept(record: Record) -> str:
    """Say which weights were kept, and how they compare with the last and the best; empty for a model that is not trained."""
    kept, best, accuracies = get_number(record.scores, "kept"), record.best_step, record.validation_accuracies
    if kept not in accuracies or kept is None or best is None or not (last := max(accuracies)):
        return ""
    shares, figure = {step: format_figure(record.figure, x) for step, x in accuracies.items()}, record.figure.name
    if kept != last:
        name = f"of step {kept:,.0f}" if kept else "of the pretrained start"
        text = f"Kept: the weights {name}, whose validation {figure} was {shares[kept]}; those of the last step had {shares[last]}."
        return f"{text} Validation chose them, so their {figure} there is biased upward."
    text = f"Kept: the weights of the last step, {last:,.0f}"
    if accuracies[best] == accuracies[last]:
        return f"{text}."
    text += f", whose validation {figure} was {shares[last]}; those of step {best:,.0f} had {shares[best]}"
    if not record.falls_clearly(best, last):
        return f"{text}, which may be noise."
    return f"{text}, and `--keep best` keeps them." if record.recipe.get("keep") == "last" else f"{text}."


def describe_majority(record: Record) -> str:
    """Say what always answering the most common class would score, unless that is among what the result falls short of."""
    scores = get(record.scores, record.headline_split)
    is_said = describe_constant_answer(scores, get(record.about, "data"))
    if is_said or get_number(scores, "accuracy") is None or record.majority_accuracy is None:
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


def describe_trend(record: Record) -> Remark | None:
    """Describe how validation developed towards the end."""
    evaluations = [
        (step, loss, accuracy)
        for e in record.evaluations
        if (step := get_number(e, "step")) is not None
        and (loss := get_number(e, "validation", "loss")) is not None
        and (accuracy := get_number(e, "validation", record.figure.key)) is not None
    ]
    if len(evaluations) < MIN_EVALUATIONS_FOR_TREND:
        return None
    low_step, low, _ = min(evaluations, key=lambda e: e[1])
    last_step, last, now = evaluations[-1]
    if last > 1.1 * low and low_step < 0.9 * last_step:
        if record.falls_clearly(low_step, last_step):
            return None  # `find_lower_than_best` says so
        lowest = f"Validation loss was lowest at {record.describe_step(low_step)} ({format_number(low)}) and ended at {format_number(last)}"
        confident = "the model grew overconfident rather than worse"
        if record.figure is not ACCURACY:
            return Remark(f"{lowest}.", "Stronger augmentation, mixup or more weight decay may help.", "overfitting")
        return Remark(f"{lowest}, while accuracy did not clearly fall: {confident}.", "Label smoothing or mixup may help.", "overfitting")
    before = evaluations[int(0.8 * (len(evaluations) - 1))][2]
    if now == max(accuracy for *_, accuracy in evaluations) and now - before > MIN_RISE and not has_annealed(record):
        return Remark(f"Validation {record.figure.name} was still rising at the end.", "A longer budget may help.", "trained_too_short")
    return None


def describe_test_use(record: Record) -> str:
    """Say how far the headline's accuracy can be trusted: how often the test split was opened, or that it was not."""
    test, openings = get(record.scores, "test"), as_rows(get(record.about, "openings"))
    name = record.figure.name
    if test:
        if len(openings) > 1:
            times = words.count_of(len(openings), "time")
            return f"The test split has been opened {times}: every change made after a look at it biases its {name} upward."
        return ""
    if get_number(record.ensemble, "tests_seen"):
        return ""
    images = get_number(record.about, "data", "splits", "test")
    rest = words.count_of(int(images), "test image") if images else ""
    return f"Training left {rest} untouched: `goodfit evaluate RUN --test` measures on them, once." if rest else ""


def describe_gain(record: Record) -> list[str]:
    """Describe by how much an ensemble beats the best of its models, whether that could be luck, and what biases it."""
    split = record.headline_split
    gain = get(record.scores, split, "gain")
    difference, (low, high) = get_number(gain, "difference"), as_interval(get(gain, "interval"))
    sentences = []
    if difference is not None and low is not None and high is not None:
        distance = (
            f"{format_distance(record.figure, difference)} {'ahead of' if difference > 0 else 'behind'}" if difference else "level with"
        )
        luck = ", which could be luck" if difference and low <= 0 <= high else ""
        p, unit = get_number(gain, "p"), " points" if record.figure.is_share else ""
        ends = (record.figure.format_signed(x, 2) for x in (low, high))
        between = f"95{NBSP}% interval {' to '.join(ends)}"
        test = f", McNemar's p = {format_number(p, 2)}" if p is not None else ""
        sentences.append(f"On {split} it is {distance} the best single model ({between}{unit}, on the same images{test}){luck}.")
        if split == "validation" and get(record.ensemble, "select") == "greedy":
            sentences.append(
                "The models were chosen on these validation images, so the gain is biased upward; only test images measure it."
            )
    if seen := get_number(record.ensemble, "tests_seen"):
        images = words.count_of(int(seen), "test image")
        sentences.append(f"Some of the models were trained on {images}, so there is no honest test score.")
    return sentences


def find_notes(record: Record, is_sound: bool = True) -> list[Remark]:
    """What the trend and the shape of the loss tell of a training, and the gap, if nothing went wrong with it."""
    gap = measure_gap(record) if is_sound else None
    notes = [describe_gap(gap) if gap else None, describe_trend(record), describe_loss_shape(record)]
    return [note for note in notes if note]


def interpret_run(record: Record) -> list[str]:
    """Interpret a run in sentences: first what went wrong; only where nothing did, or training itself did not, the gap and the trend."""
    broken = find_broken_training(record)
    shortfalls = find_shortfalls(record, bool(broken))
    notes = [] if broken else find_notes(record, not shortfalls)
    sentences = [
        *map(str, [*broken, *shortfalls]),
        describe_end(record),
        describe_kept(record),
        *describe_gain(record),
        *map(str, notes),
        describe_balance(record),
        describe_majority(record),
        describe_forecast(record),
        describe_test_use(record),
    ]
    return [sentence for sentence in sentences if sentence]
