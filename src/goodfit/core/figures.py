"""Figures: the one number by which a model is judged, for each task; the higher the better. Without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from goodfit.core.interval import Z_95, is_clearly_below
from goodfit.core.run_files import get
from goodfit.core.words import format_percent

TaskName = Literal["classes", "labels", "numbers"]


@dataclasses.dataclass(frozen=True)
class Figure:
    """The figure of a task: the `key` and the `plural` under which JSON has one and several of it, its `name` in sentences and `title` over
    columns, and whether it is a share of 1, which is written in percent.
    """

    key: str
    plural: str
    name: str
    title: str
    is_share: bool
    loss_key: str = "log_loss"  # under which JSON has the mean loss of averaged answers
    worst: float = 0.0  # what a training that diverged has, for a search

    @property
    def heading(self) -> str:
        """Its title with a capital letter."""
        return f"{self.title[0].upper()}{self.title[1:]}"

    @property
    def label(self) -> str:
        """Its name with a capital letter."""
        return f"{self.name[0].upper()}{self.name[1:]}"

    def format(self, value: float | None, digits: int = 1) -> str:
        """Format the figure, `95.3 %` or `0.953`; what is not known is a dash."""
        if value is None:
            return "-"
        return format_percent(value, digits) if self.is_share else f"{value:.{digits + 2}f}"

    def format_difference(self, difference: float, digits: int = 1) -> str:
        """Format a difference of two, `+1.8 points` or `+0.018`."""
        return f"{self.format_signed(difference, digits)}{' points' if self.is_share else ''}"

    def format_signed(self, difference: float, digits: int = 1) -> str:
        """Format a difference of two without its unit, as an end of an interval, `+1.8` or `+0.018`."""
        return f"{100 * difference:+.{digits}f}" if self.is_share else f"{difference:+.{digits + 2}f}"

    def is_clearly_below(self, value: float, best: float, images: int) -> bool:
        """Whether a value measured on so many images lies below the 95 % interval of the `best` one, so that noise does not explain it.

        A share has Wilson's interval; R2 that of its large-sample error, 2 R (1 - R2) / sqrt(n) (Kendall & Stuart; Cohen et al. 2003), or
        where that is larger, as for a low R2, of the error of a mean of squares, (1 - R2) sqrt(2 / n).
        """
        if self.is_share:
            return is_clearly_below(value, best, images)
        return value < best - Z_95 * max(2 * math.sqrt(max(0.0, best)), math.sqrt(2)) * (1 - best) / math.sqrt(images)


FIGURES: dict[str, Figure] = {
    "classes": Figure("accuracy", "accuracies", "accuracy", "accuracy", True),
    "labels": Figure("mean_average_precision", "mean_average_precisions", "mean average precision", "mean AP", True),
    "numbers": Figure("r2", "r2s", "R2", "R2", False, "squared_error", worst=-1.0),
}
ACCURACY = FIGURES["classes"]


def find_figure(scores: Mapping[str, Any]) -> Figure:
    """The figure that scores have, as those of an evaluation in the log."""
    return next((figure for figure in FIGURES.values() if figure.key in scores), ACCURACY)


def figure_of(content: object) -> Figure:
    """The figure of the task that a recipe, scores or another JSON object names under "task"; accuracy where it names none."""
    return FIGURES.get(str(get(content, "task")), ACCURACY)
