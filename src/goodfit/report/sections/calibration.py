"""Calibration: whether the model is right as often as it is confident, and what withholding its least confident answers gains."""

from __future__ import annotations

import math

from goodfit.core import words
from goodfit.core.figures import ACCURACY
from goodfit.core.interval import wilson_interval
from goodfit.core.run_files import get
from goodfit.report.charts import Chart, Points, Series, render_chart
from goodfit.report.markup import EMPTY, Column, Html, details, format_number, format_percent, inline_code, paragraph, section, table, tag
from goodfit.report.record import Record, as_rows, get_number, get_share

MAX_RADIUS, MIN_RADIUS = 11.0, 2.5  # of the dot of the fullest bin, and of any, in pixels
NEGLIGIBLE = 0.01  # difference of confidence and accuracy, of shares, or of two temperatures relative to each other
TABLE_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # shares of the images that are answered, in the table
EXAMPLE_COVERAGE = 0.9  # the same, in the sentence

Bin = tuple[float, float, float]  # number of images, their mean confidence, and their accuracy
Rejection = tuple[float, float, float]  # share of the images that is answered, accuracy on it, and the confidence below which none is


def render_calibration(record: Record) -> Html:
    """Render the calibration of a run or an ensemble on the split that is shown."""
    scores = get(record.scores, record.split, "calibration")
    if record.ensemble is not None:
        return render_calibration_scores(
            scores, record.split, "An ensemble stores no temperature: predict gives its answers before scaling."
        )
    command, run = "`goodfit predict RUN --reject-below {below}`" if record.figure is ACCURACY else "", record.shell_path
    fitted, stored = get_number(scores, "temperature"), get_number(record.config, "temperature")
    if fitted is not None and stored is not None and math.isclose(fitted, stored, rel_tol=NEGLIGIBLE):
        return render_calibration_scores(scores, record.split, "It is stored with the model, and predict applies it.", command, run)
    if stored is None:
        storage = "It is not stored with the model: `goodfit evaluate RUN --calibrate` stores it, and predict then applies it."
    else:
        storage = f"Another one, {stored:.2f}, is stored with the model: `goodfit evaluate RUN --calibrate` replaces it."
    return render_calibration_scores(scores, record.split, storage, f"{command}, once this temperature is stored" if command else "", run)


def render_calibration_scores(scores: object, split: str, storage: str, command: str = "", run: str = "RUN") -> Html:
    """Render the calibration scores of a split. `storage` is the sentence that says where the temperature is stored. `command`, if
    there is one that withholds answers, has a field for the probability `below`. In both, RUN stands for `run`.
    """
    bins = [
        (n, confidence, accuracy)
        for row in as_rows(get(scores, "bins"))
        if (n := get_number(row, "images") or 0) >= 1
        and (confidence := get_share(row, "confidence")) is not None
        and (accuracy := get_share(row, "accuracy")) is not None
    ]
    rejections = [
        (answered, accuracy, below)
        for row in as_rows(get(scores, "rejection"))
        if (answered := get_share(row, "coverage"))
        and (accuracy := get_share(row, "accuracy")) is not None
        and (below := get_share(row, "below")) is not None
    ]
    if not bins and not rejections:
        return EMPTY
    return section(
        "calibration",
        "Calibration",
        paragraph(
            inline_code(" ".join(part for part in (describe_confidence(bins, split), describe_scaling(scores), storage) if part), run)
        ),
        paragraph(inline_code(gain, run)) if rejections and (gain := describe_rejection(rejections, command)) else None,
        tag(
            "div.charts.large",
            render_chart(build_reliability_chart(bins, split)) if bins else EMPTY,
            render_chart(build_rejection_chart(rejections, command)) if rejections else EMPTY,
        ),
        _render_errors(scores),
        _render_bins(bins) if bins else None,
        _render_rejection(rejections, command) if rejections else None,
    )


# ---- sentences -----------------------------------------------------------------------------------------------------------------


def describe_confidence(bins: list[Bin], split: str) -> str:
    """Compare the mean confidence with the accuracy, over all images."""
    images = sum(n for n, *_ in bins)
    if not images:
        return ""
    confidence, accuracy = (sum(row[0] * row[column] for row in bins) / images for column in (1, 2))
    verdict = "overconfident" if confidence > accuracy else "underconfident"
    verdict = "about as sure as it is right" if abs(confidence - accuracy) < NEGLIGIBLE else verdict
    sure, right = format_percent(confidence), format_percent(accuracy)
    return f"On {split} the model was {sure} sure on average and right {right} of the time: {verdict}."


def describe_scaling(scores: object) -> str:
    """Say how the temperature changes the expected calibration error."""
    temperature, before, after = (get_number(scores, key) for key in ("temperature", "ece", "ece_after"))
    if temperature is None or before is None or after is None:
        return ""
    verb = "lowers" if after < before else "would change"
    remark = "" if after < before else ", which is no gain"
    return (
        f"A temperature of {temperature:.2f}, fitted to validation images, {verb} the expected calibration error"
        f" from {format_percent(before)} to {format_percent(after)}{remark}."
    )


def describe_rejection(points: list[Rejection], command: str) -> str:
    """Say what is gained by withholding the least confident answers; empty if all are equally confident."""
    accuracy_on_all = max(points)[1]
    answered, accuracy, below = min(points, key=lambda row: abs(row[0] - EXAMPLE_COVERAGE))
    if answered > 1 - NEGLIGIBLE:
        return ""
    withheld, improved, before = format_percent(1 - answered, 0), format_percent(accuracy), format_percent(accuracy_on_all)
    sentence = (
        f"If the {withheld} of images that it is least sure of went to a person, {improved} of the other answers would be right instead of"
        f" {before}"
    )
    return f"{sentence}: {command.format(below=_round_down(below))}." if command else f"{sentence}."


def _round_down(below: float) -> str:
    """Format a probability rounded down, so that no answer is rejected that should be given; with more digits near 1."""
    digits = 3 if below >= 1 else min(9, max(3, 1 - math.floor(math.log10(1 - below))))
    return f"{math.floor(below * 10**digits) / 10**digits:.{digits}f}".rstrip("0").rstrip(".")


# ---- charts and tables ---------------------------------------------------------------------------------------------------------


def build_reliability_chart(bins: list[Bin], split: str) -> Chart:
    """Build the reliability diagram before scaling: a dot for each bin, whose area is its number of images, with a 95 % interval."""
    fullest = max(n for n, *_ in bins)
    intervals: Points = []
    for n, confidence, accuracy in bins:
        low, high = wilson_interval(round(n * accuracy), round(n))
        intervals += [(confidence, low), (confidence, high), (confidence, None)]
    dots = Series(
        "bins",
        [(confidence, accuracy) for _, confidence, accuracy in bins],
        "accent",
        tuple(round(max(MIN_RADIUS, MAX_RADIUS * math.sqrt(n / fullest)), 1) for n, *_ in bins),
        tuple(
            f"{words.count_of(round(n), 'image')}: {format_percent(confidence)} sure, {format_percent(accuracy)} right"
            for n, confidence, accuracy in bins
        ),
    )
    clauses = "; ".join(
        f"{format_percent(accuracy, 0)} right where {format_percent(confidence, 0)} sure" for _, confidence, accuracy in bins
    )
    return Chart(
        "Reliability",
        (Series("as sure as right", [(0, 0), (1, 1)], "guide"), Series("95 % interval", intervals, "whisker"), dots),
        "Before scaling. Below the diagonal the model is more confident than accurate. The area of a dot is its number of images.",
        x="confidence",
        y="share right",
        unit="percent",
        x_unit="percent",
        summary=f"Reliability on {split}: {clauses}.",
    )


def build_rejection_chart(points: list[Rejection], command: str) -> Chart:
    """Build the curve of the accuracy over the share of the images that is answered."""
    points = sorted(points)
    notes = tuple(
        f"{format_percent(answered, 0)} answered: {format_percent(accuracy)} right"
        + (f", reject below {_round_down(below)}" if command else "")
        for answered, accuracy, below in points
    )
    clauses = "; ".join(f"{format_percent(accuracy)} right of the surest {format_percent(answered, 0)}" for answered, accuracy, _ in points)
    return Chart(
        "Reject option",
        (Series("accuracy", [(answered, accuracy) for answered, accuracy, _ in points], "accent", notes=notes),),
        "After scaling. Further to the left, more of the less confident answers are withheld.",
        x="share answered, the surest first",
        y="accuracy on these",
        unit="percent",
        x_unit="percent",
        summary=f"Reject option: {clauses}.",
    )


def _render_errors(scores: object) -> Html:
    """Render calibration error and log loss before and after scaling."""
    body = [
        [name, format_value(get_number(scores, key)), format_value(get_number(scores, f"{key}_after"))]
        for name, key, format_value in (("Expected calibration error", "ece", format_percent), ("Log loss", "log_loss", format_number))
        if get_number(scores, key) is not None
    ]
    columns = [Column(""), Column("Before scaling", "number"), Column("After", "number")]
    return table(columns, body) if body else EMPTY


def _render_bins(bins: list[Bin]) -> Html:
    """Render the numbers of the reliability diagram."""
    columns = [Column("Confidence"), *(Column(title, "number") for title in ("Share right", "Difference in points", "Images"))]
    body = [
        [format_percent(confidence), format_percent(accuracy), f"{100 * (accuracy - confidence):+.1f}", f"{n:,.0f}"]
        for n, confidence, accuracy in bins
    ]
    return details("The bins of the diagram as a table", table(columns, body))


def _render_rejection(points: list[Rejection], command: str) -> Html:
    """Render the accuracy on some shares of the images, and the probability for predict that answers them, if there is a command."""
    limits = [Column("--reject-below", "number")] if command else []
    columns = [Column("Answered"), Column("Accuracy on these", "number"), *limits]
    body = [
        [format_percent(answered, 0), format_percent(accuracy), *([_round_down(below)] if command else [])]
        for answered, accuracy, below in points
        if any(abs(answered - coverage) < NEGLIGIBLE for coverage in TABLE_COVERAGES)
    ]
    return details("The reject option as a table", table(columns, body)) if body else EMPTY
