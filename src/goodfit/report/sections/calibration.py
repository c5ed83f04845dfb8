"""Whether the model is right as often as it says, and what withholding its least sure answers brings."""

from __future__ import annotations

import math

from goodfit.core import words
from goodfit.core.interval import wilson_interval
from goodfit.report.markup import NOTHING, Column, Html, folded, paragraph, percent, section, significant, table, tag, with_code
from goodfit.report.plot import Plot, Scale
from goodfit.report.record import Record, at, number, rows, share

LARGEST, SMALLEST = 11.0, 2.5  # radius of the fullest bin's dot, and the least; their areas go by the images
NEAR = 0.01  # distance of confidence and accuracy, or of two temperatures, that is not worth a word
SHOWN = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # shares of the images that are answered, in the table
EXAMPLE = 0.9  # and in the sentence

Bin = tuple[float, float, float]  # images, their mean confidence, and the share of them that is right
Given = tuple[float, float, float]  # share of the images that is answered, accuracy on it, and confidence below which none is given


def calibration(record: Record) -> Html:
    """The calibration of a run or an ensemble on the split that is shown."""
    found = at(record.scores, record.shown, "calibration")
    if record.ensemble is not None:
        return calibrated(found, record.shown, "An ensemble stores no temperature: its answers are given as they are, before scaling.")
    command = "`goodfit predict RUN --reject-below {below}`"
    fitted, stored = number(found, "temperature"), number(record.config, "temperature")
    if fitted is not None and stored is not None and math.isclose(fitted, stored, rel_tol=NEAR):
        return calibrated(found, record.shown, "It is stored with the model, and predict applies it.", command)
    if stored is None:
        kept = "It is not stored with the model: `goodfit evaluate RUN --calibrate` stores it, and predict applies it from then on."
    else:
        kept = f"Another one, {stored:.2f}, is stored with the model: `goodfit evaluate RUN --calibrate` stores it anew."
    return calibrated(found, record.shown, kept, f"{command}, once this temperature is stored")


def calibrated(found: object, split: str, kept: str, command: str = "") -> Html:
    """What a dictionary of calibration says of a split. `kept` is the sentence on where the temperature is stored; `command`, where there
    is one that withholds answers by it, has a place for the probability `below`.
    """
    bins = [
        (n, sure, right)
        for row in rows(at(found, "bins"))
        if (n := number(row, "images") or 0) >= 1
        and (sure := share(row, "confidence")) is not None
        and (right := share(row, "accuracy")) is not None
    ]
    given = [
        (answered, right, below)
        for row in rows(at(found, "rejection"))
        if (answered := share(row, "coverage"))
        and (right := share(row, "accuracy")) is not None
        and (below := share(row, "below")) is not None
    ]
    if not bins and not given:
        return NOTHING
    return section(
        "calibration",
        "Calibration",
        paragraph(with_code(" ".join(part for part in (balance(bins, split), scaling(found), kept) if part))),
        paragraph(with_code(said)) if given and (said := withheld(given, command)) else None,
        tag("div.charts.large", diagram(bins, split) if bins else NOTHING, curve(given, command) if given else NOTHING),
        _errors(found),
        _bins(bins) if bins else None,
        _given(given, command) if given else None,
    )


# ---- in words ------------------------------------------------------------------------------------------------------------------


def balance(bins: list[Bin], split: str) -> str:
    """Confidence beside accuracy, over all images."""
    images = sum(n for n, *_ in bins)
    if not images:
        return ""
    sure, right = (sum(row[0] * row[place] for row in bins) / images for place in (1, 2))
    word = "about as sure as it is right" if abs(sure - right) < NEAR else "overconfident" if sure > right else "underconfident"
    return f"On {split} the model was {percent(sure)} sure on average and right {percent(right)} of the time: {word}."


def scaling(found: object) -> str:
    """What the temperature makes of the expected calibration error."""
    temperature, before, after = (number(found, key) for key in ("temperature", "ece", "ece_after"))
    if temperature is None or before is None or after is None:
        return ""
    moved = "brings" if after < before else "would move"
    more = "" if after < before else ", which is no gain"
    return (
        f"A temperature of {temperature:.2f}, fitted to validation images, {moved} the expected calibration error"
        f" from {percent(before)} to {percent(after)}{more}."
    )


def withheld(given: list[Given], command: str) -> str:
    """What is gained where the least sure answers are withheld; empty where all are equally sure."""
    whole = max(given)[1]
    answered, right, below = min(given, key=lambda row: abs(row[0] - EXAMPLE))
    if answered > 1 - NEAR:
        return ""
    said = (
        f"If the {percent(1 - answered, 0)} of images that it is least sure of went to a person, {percent(right)} of the other answers"
        f" would be right instead of {percent(whole)}"
    )
    return f"{said}: {command.format(below=_short(below))}." if command else f"{said}."


def _short(below: float) -> str:
    """A probability just below, so that the answers that are to be given are; with more digits near 1."""
    digits = 3 if below >= 1 else min(9, max(3, 1 - math.floor(math.log10(1 - below))))
    return f"{math.floor(below * 10**digits) / 10**digits:.{digits}f}".rstrip("0").rstrip(".")


# ---- as pictures and tables ----------------------------------------------------------------------------------------------------


def diagram(bins: list[Bin], split: str) -> Html:
    """The reliability diagram, before scaling: a dot for each bin, its area the number of images, its whisker the 95 % interval."""
    plot = Plot(Scale("confidence", share=True), Scale("share right", share=True))
    plot.line([(0, 0), (1, 1)], "dashed")
    most = max(n for n, *_ in bins)
    for n, sure, right in bins:
        plot.line([(sure, end) for end in wilson_interval(round(n * right), round(n))], "whisker")
    for n, sure, right in bins:
        said = f"{words.count_of(round(n), 'image')}: {percent(sure)} sure, {percent(right)} right"
        plot.dot(sure, right, said, "accent", max(SMALLEST, LARGEST * math.sqrt(n / most)))
    said = f"Reliability on {split}: " + "; ".join(f"{percent(right, 0)} right where {percent(sure, 0)} sure" for _, sure, right in bins)
    caption = "Before scaling. Below the diagonal the model is surer than it is right. Areas are images, whiskers 95 % intervals."
    return plot.figure("Reliability", f"{said}.", caption)


def curve(given: list[Given], command: str) -> Html:
    """The reject-option curve."""
    low = min(right for _, right, _ in given)
    plot = Plot(Scale("share answered, the surest first", share=True), Scale("accuracy on these", max(0.0, low - 0.02), 1.0, share=True))
    plot.line([(answered, right) for answered, right, _ in given], "accent")
    for answered, right, below in given:
        limit = f", reject below {_short(below)}" if command else ""
        plot.dot(answered, right, f"{percent(answered, 0)} answered: {percent(right)} right{limit}", "accent", 3.5)
    said = "; ".join(f"{percent(right)} right of the surest {percent(answered, 0)}" for answered, right, _ in given)
    return plot.figure("Reject option", f"Reject option: {said}.", "After scaling. The less sure answers are withheld, the further left.")


def _errors(found: object) -> Html:
    """Error and log loss, before and after."""
    body = [
        [name, said(number(found, key)), said(number(found, f"{key}_after"))]
        for name, key, said in (("Expected calibration error", "ece", percent), ("Log loss", "log_loss", significant))
        if number(found, key) is not None
    ]
    columns = [Column(""), Column("Before scaling", "number"), Column("After", "number")]
    return table(columns, body) if body else NOTHING


def _bins(bins: list[Bin]) -> Html:
    """The numbers of the diagram, with how many images each dot stands for."""
    columns = [Column("Confidence"), *(Column(title, "number") for title in ("Share right", "Difference in points", "Images"))]
    body = [[percent(sure), percent(right), f"{100 * (right - sure):+.1f}", f"{n:,.0f}"] for n, sure, right in bins]
    return folded("The bins of the diagram as a table", table(columns, body))


def _given(given: list[Given], command: str) -> Html:
    """The accuracy on some shares of the images, and the probability that leaves them, where there is one for predict."""
    limits = [Column("--reject-below", "number")] if command else []
    columns = [Column("Answered"), Column("Accuracy on these", "number"), *limits]
    body = [
        [percent(answered, 0), percent(right), *([_short(below)] if command else [])]
        for answered, right, below in given
        if any(abs(answered - wanted) < NEAR for wanted in SHOWN)
    ]
    return folded("The reject option as a table", table(columns, body)) if body else NOTHING
