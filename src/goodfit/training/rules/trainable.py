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

# What the batch statistics of norms do: those of frozen layers stay fixed, all move with the data, or all stay fixed.
Statistics = Literal["fixed", "moving", "all_fixed"]


@dataclasses.dataclass(frozen=True)
class All(SpanSettings, Trainable):
    """Every parameter learns.

    With `statistics="all_fixed"` batch norms keep the running statistics they start with, in training too; their scale and shift learn.

    Helps: training from scratch; the end of a transfer, after the head has settled. Fixed statistics: fine-tuning with small batches, whose
        own statistics are noise.
    Hurts: few images on a pretrained net, whose features are soon overwritten. Fixed statistics: images far from those of the
        pretraining; from scratch they normalize nothing.
    Cost: none; fixed statistics save a pass over the maps.
    Source: fixed statistics: He et al. 2016 (ResNet, fine-tuned for detection with the batch norms of ImageNet).
    """

    length: Span = 1.0
    statistics: Statistics = "moving"

    def __call__(self, model: nn.Module) -> set[str]:
        return {name for name, _ in model.named_parameters()}


@dataclasses.dataclass(frozen=True)
class Head(SpanSettings, Trainable):
    """Only the head (the last linear layer) learns, for `length` of the budget: as in head(0.2) | all.

    `statistics` says whether the batch statistics of the frozen layers stay fixed or keep moving with the data; with "all_fixed" those of
    the layers that learn stay fixed too.

    Helps: few images on a pretrained net; a fresh head before the rest joins in.
    Hurts: images far from those of the pretraining, for which the features themselves must change. Refused without --from: the rest
        would stay random.
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


@dataclasses.dataclass(frozen=True)
class Gradual(SpanSettings, Trainable):
    """The head learns first; then one stage more joins in at equal steps, the last first, until after `length` of the budget all learn.

    Helps: fine-tuning on few images: a layer moves only once those after it have settled, so less of what it knows is lost.
    Hurts: long budgets on many images, where it delays the early layers for nothing.
    Cost: less than that of all: nothing is computed backward below the stages that learn.
    Source: Howard & Ruder 2018 (ULMFiT, gradual unfreezing).
    """

    length: Span = 0.5
    statistics: Statistics = "fixed"

    def __call__(self, model: nn.Module) -> set[str]:
        """All names, for in the end every parameter learns."""
        return {name for name, _ in model.named_parameters()}

    def phases(self, model: nn.Module) -> list[tuple[float, set[str]]]:
        all_stages, head = find_stages(model), find_head(model)[0]
        n = len(all_stages)
        starts = [self.share * k / n for k in range(n)]
        growing = [parameters_of(model, [*module_names(all_stages[n - k :]), head]) for k in range(n)]
        return [*zip(starts, growing, strict=True), (self.share if n else 0.0, self(model))]


def module_names(stages: list[Stage]) -> list[str]:
    """The names of the modules of some stages."""
    return [module for stage in stages for module in stage.modules]


def parameters_of(model: nn.Module, modules: list[str]) -> set[str]:
    """The names of the parameters in the modules with these names."""
    return {name for name, _ in model.named_parameters() if any(name.startswith(f"{module}.") for module in modules)}
