"""What is predicted of one image: its class, its labels or its numbers, as Python, JSON, text and CSV have it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from goodfit.core.errors import UsageError
from goodfit.core.task import Labels, Numbers, Task
from goodfit.core.words import format_percent


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one image: `classes` and their `probabilities`, likeliest first; or the `problem` with the image."""

    name: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str = ""

    columns: ClassVar[tuple[str, ...]] = ("class", "probability")  # of `rows`

    @property
    def label(self) -> str:
        """The likeliest class; empty for an image with a problem."""
        return self.classes[0] if self.classes else ""

    @property
    def probability(self) -> float:
        """The probability of the likeliest class; 0 for an image with a problem."""
        return self.probabilities[0] if self.probabilities else 0.0

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        names = ("name", "label", "probability", "classes", "probabilities", "problem")
        return {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        """The answer as text."""
        return ", ".join(f"{name} {format_percent(x)}" for name, x in zip(self.classes, self.probabilities, strict=True))

    def rows(self) -> list[tuple[object, ...]]:
        """The answer as rows of a table, a name first."""
        return list(zip(self.classes, self.probabilities, strict=True))


@dataclasses.dataclass(frozen=True)
class LabelPrediction(Prediction):
    """The prediction of labels: `labels` are those given, by their thresholds; `classes` the likeliest ones, given or not."""

    labels: tuple[str, ...] = ()

    columns: ClassVar[tuple[str, ...]] = ("label", "probability", "given")

    def plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "labels", "classes", "probabilities", "problem")}

    def describe(self) -> str:
        pairs = list(zip(self.classes, self.probabilities, strict=True))
        given = [f"{name} {format_percent(x)}" for name, x in pairs if name in self.labels]
        unseen = [name for name in self.labels if name not in self.classes]
        return ", ".join([*given, *unseen]) or f"no label (the likeliest is {pairs[0][0]}, {format_percent(pairs[0][1])})"

    def rows(self) -> list[tuple[object, ...]]:
        return [(name, x, str(name in self.labels).lower()) for name, x in zip(self.classes, self.probabilities, strict=True)]


@dataclasses.dataclass(frozen=True)
class NumberPrediction(Prediction):
    """The prediction of numbers: `classes` are their names, `probabilities` their values, and `half_widths` say how far from each the true
    one lies in nine of ten images; none where that is not known.
    """

    half_widths: tuple[float, ...] = ()

    columns: ClassVar[tuple[str, ...]] = ("number", "value", "low", "high")

    @property
    def numbers(self) -> dict[str, float]:
        """The values by name."""
        return dict(zip(self.classes, self.probabilities, strict=True))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The interval around each value, by name."""
        return {name: (x - h, x + h) for (name, x), h in zip(self.numbers.items(), self.half_widths, strict=False)}

    def plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "numbers", "intervals", "problem")}

    def describe(self) -> str:
        ends = {name: f" ({low:.4g} to {high:.4g})" for name, (low, high) in self.intervals.items()}
        return ", ".join(f"{name} {x:.4g}{ends.get(name, '')}" for name, x in self.numbers.items())

    def rows(self) -> list[tuple[object, ...]]:
        return [(name, x, *self.intervals.get(name, ("", ""))) for name, x in self.numbers.items()]


def make_prediction(task: Task, name: str, answers: Tensor, top: int) -> Prediction:
    """The prediction for an image by its answers [K]: the `top` likeliest classes or labels, or all numbers."""
    values = answers.tolist()
    if isinstance(task, Numbers):
        return NumberPrediction(name, task.outputs, tuple(values), half_widths=task.half_widths)
    best = answers.topk(min(top, len(task.outputs)))
    likeliest = tuple(task.outputs[i] for i in best.indices.tolist())
    if isinstance(task, Labels):
        return LabelPrediction(name, likeliest, tuple(best.values.tolist()), labels=task.chosen(values))
    return Prediction(name, likeliest, tuple(best.values.tolist()))


def broken_prediction(task: Task, name: str, problem: str) -> Prediction:
    """The prediction for an image that cannot be read."""
    kind = NumberPrediction if isinstance(task, Numbers) else LabelPrediction if isinstance(task, Labels) else Prediction
    return kind(name, problem=problem)


def refuse_rejection(run: str, task: str, reject_below: float) -> None:
    """Refuse to reject the answers of other tasks than classes.

    Raises:
        UsageError: that is asked.
    """
    if reject_below and task != "classes":
        raise UsageError(f'--reject-below is for classes, and "{run}" answers {task}: leave it out.')
