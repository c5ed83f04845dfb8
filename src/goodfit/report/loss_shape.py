"""The shape of the training loss: that of a learning rate that is very high, high, good or low."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Literal

from goodfit.report.record import Record, get_number
from goodfit.report.remark import Remark

Shape = Literal["very high", "high", "good", "low"]
MIN_LOSSES = 50  # that have a shape
WINDOW = 5  # losses whose median stands for the one in the middle
EXPLOSION, OVERSHOOT = 3.0, 1.15  # of the highest loss over the first: it exploded, or overshot
NOT_FALLEN, HALF_WAY = 0.95, 0.3  # of the last loss over the first
STILL_FALLING = 0.05  # share of the whole fall that falls in the last tenth of the steps


def classify_loss_shape(losses: Sequence[float]) -> Shape | None:
    """Classify the losses of all steps of a training at one learning rate; None for fewer than 50, or a shape that no rate gives.

    Very high: they are not finite in the end, explode, or end no lower than they began. High: they overshoot their start, then fall.
    Low: they fall so slowly, and still do in the end, that most of the way is left. Good: they fall fast, then ever more slowly.

    Source: CS231n, babysitting the learning process (the figure of the loss by epoch at four rates).
    """
    if len(losses) < MIN_LOSSES:
        return None
    if not all(map(math.isfinite, losses[-WINDOW:])):
        return "very high"
    smooth = smooth_losses([loss if math.isfinite(loss) else math.inf for loss in losses])
    tenth = len(losses) // 10
    first, last, before = losses[0], fmean(smooth[-tenth:]), fmean(smooth[-2 * tenth : -tenth])
    peak = max(smooth)
    if peak > EXPLOSION * first or (last >= NOT_FALLEN * first and peak > OVERSHOOT * first):
        return "very high" if last > HALF_WAY * first else "high"
    if peak > OVERSHOOT * first:
        return "high"
    if last <= HALF_WAY * first:
        return "good"
    return "low" if before - last > STILL_FALLING * max(first - last, 0.02 * first) else None


def smooth_losses(losses: Sequence[float]) -> list[float]:
    """The running median of losses [N], from the first full window on: [N - WINDOW + 1]."""
    return [median(losses[i : i + WINDOW]) for i in range(len(losses) - WINDOW + 1)]


def describe_loss_shape(record: Record) -> Remark | None:
    """Say of a training whose loss has the shape of a rate that is too high or too low that it does."""
    losses = [loss for row in record.train if (loss := get_number(row, "loss")) is not None]
    match classify_loss_shape(losses):
        case "high":
            rose = "The training loss rose above its start before it fell: the shape of a learning rate that is too high, or of no warm-up."
            return Remark(rose, "", "lr_too_high")
        case "low":
            slow = (
                "The training loss fell slowly to the end: the shape of a learning rate that is too low, or of a budget that is too short."
            )
            return Remark(slow, "", "lr_too_low")
    return None
