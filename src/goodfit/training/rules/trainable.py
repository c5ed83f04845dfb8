"""Which parameters of a model are trained, stage by stage."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Trainable
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.settings import Natural
from goodfit.models.weights.stages import Stage, find_head, find_stages
from goodfit.schedules.span import Span, SpanSettings

Statistics = Literal["fixed", "moving"]


@dataclasses.dataclass(frozen=True)
class All(SpanSettings, Trainable):
    """Every parameter learns.

    Helps: training from scratch; the end of a transfer, after the head has settled.
    Hurts: few images on a pretrained net, whose features are soon overwritten.
    Cost: none.
    Source: -
    """

    length: Span = 1.0

    def __call__(self, model: nn.Module) -> set[str]:
        return {name for name, _ in model.named_parameters()}


@dataclasses.dataclass(frozen=True)
class Head(SpanSettings, Trainable):
    """Only the head (the last linear layer) learns, for `length` of the budget: as in head(0.2) | all.

    `statistics` says whether the batch statistics of the frozen layers stay fixed or keep moving with the data.

    Helps: few images on a pretrained net; a fresh head before the rest joins in.
    Hurts: images far from those of the pretraining, for which the features themselves must change.
    Cost: a step takes about a third of the time, for nothing is computed backward below the head.
    Source: Yosinski et al. 2014; CS231n, transfer learning.
    """

    length: Span = 1.0
    statistics: Statistics = "fixed"

    def __call__(self, model: nn.Module) -> set[str]:
        return parameters_of(model, [find_head(model)[0]])


@dataclasses.dataclass(frozen=True)
class Last(SpanSettings, Trainable):
    """The head and the last `stages` stages before it learn, for `length` of the budget.

    Helps: a middling number of images on a pretrained net.
    Hurts: the early layers keep what they saw before.
    Cost: between that of head and that of all.
    Source: Yosinski et al. 2014; CS231n, transfer learning.
    """

    stages: Natural = 1
    length: Span = 1.0
    statistics: Statistics = "fixed"

    def __call__(self, model: nn.Module) -> set[str]:
        all_stages = find_stages(model)
        if self.stages > len(all_stages):
            names = ", ".join(stage.name for stage in all_stages)
            raise UsageError(f"last: expected at most {len(all_stages)} stages ({names}), received {self.stages}.")
        return parameters_of(model, [*module_names(all_stages[len(all_stages) - self.stages :]), find_head(model)[0]])


@dataclasses.dataclass(frozen=True)
class Since(SpanSettings, Trainable):
    """The stage of that name and everything after it learn, for `length` of the budget.

    Helps: freezing up to a layer whose features are known to be general.
    Hurts: as last does.
    Cost: between that of head and that of all.
    Source: Yosinski et al. 2014 (transfer from layer n).
    """

    stage: str = ""
    length: Span = 1.0
    statistics: Statistics = "fixed"

    def __call__(self, model: nn.Module) -> set[str]:
        all_stages = find_stages(model)
        names = [stage.name for stage in all_stages]
        if self.stage not in names:
            raise UsageError(unknown_name("stage", self.stage, names))
        return parameters_of(model, [*module_names(all_stages[names.index(self.stage) :]), find_head(model)[0]])


def module_names(stages: list[Stage]) -> list[str]:
    """The names of the modules of some stages."""
    return [module for stage in stages for module in stage.modules]


def parameters_of(model: nn.Module, modules: list[str]) -> set[str]:
    """The names of the parameters in the modules with these names."""
    return {name for name, _ in model.named_parameters() if any(name.startswith(f"{module}.") for module in modules)}
