"""What a person does to a training by hand, at which step: as `goodfit steer` records it in the recipe, so that a rerun does it again."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from goodfit.core.parts import Part
from goodfit.core.settings import Natural, Range

Factor = Annotated[float, Range(above=0)]


@dataclasses.dataclass(frozen=True)
class Lr(Part):
    """Multiplies the learning rate by `factor` from the step after `step` on, besides the schedule and the changes before.

    Helps: a loss that has stood still (0.1), or a rate that shakes it (0.5), seen while it trains.
    Hurts: beside a schedule that anneals, which has the same in mind.
    Cost: nothing.
    Source: Krizhevsky et al. 2012 (AlexNet: divided by ten by hand when validation stopped improving); CS231n, learning rate.
    """

    kind: ClassVar[str] = "steering"
    piped: ClassVar[bool] = True
    factor: Factor = 0.1
    step: Natural = 0


@dataclasses.dataclass(frozen=True)
class Snapshot(Part):
    """Keeps the weights after `step` steps besides those at the end, for `goodfit ensemble`.

    Helps: to come back to what is good now; to average the answers of several stages of a training.
    Hurts: at a high rate the weights are noisy: better at a low one.
    Cost: a file as large as the model, and its scoring at the end.
    Source: Huang et al. 2017 (snapshot ensembles); CS231n, model ensembles.
    """

    kind: ClassVar[str] = "steering"
    piped: ClassVar[bool] = True
    step: Natural = 0


@dataclasses.dataclass(frozen=True)
class Finish(Part):
    """Ends the training after `step` steps as a stop rule would: the model is evaluated, kept and reported.

    Helps: when validation falls and nothing better is to come.
    Hurts: before the schedule has annealed, which is when most of the accuracy comes.
    Cost: nothing.
    Source: CS231n, early stopping.
    """

    kind: ClassVar[str] = "steering"
    piped: ClassVar[bool] = True
    step: Natural = 0


Command = Lr | Snapshot | Finish
