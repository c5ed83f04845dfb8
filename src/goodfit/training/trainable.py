"""Which parts of a model learn, and how fast beside each other: freezing by progress, and rates by layer."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import torch
from torch import nn

from goodfit.core.catalog import Part, spell, steps
from goodfit.core.contracts import Rates, Trainable
from goodfit.core.errors import UsageError, one_of
from goodfit.core.settings import Natural, Positive, Range, Share
from goodfit.core.weights import is_norm
from goodfit.models.weights.stages import Stage, find_head, find_stages
from goodfit.schedules.compose import part_starts
from goodfit.schedules.span import T_TOLERANCE, Span, SpanSettings

Statistics = Literal["fixed", "moving"]
Decay = Annotated[float, Range(above=0, high=1)]


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
        return under(model, [find_head(model)[0]])


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
        there = find_stages(model)
        if self.stages > len(there):
            names = ", ".join(stage.name for stage in there)
            raise UsageError(f"last: expected at most {len(there)} stages ({names}), received {self.stages}.")
        return under(model, [*modules_of(there[len(there) - self.stages :]), find_head(model)[0]])


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
        there = find_stages(model)
        names = [stage.name for stage in there]
        if self.stage not in names:
            raise UsageError(one_of("stage", self.stage, names))
        return under(model, [*modules_of(there[names.index(self.stage) :]), find_head(model)[0]])


def modules_of(some: list[Stage]) -> list[str]:
    """The modules of some stages, by name."""
    return [module for stage in some for module in stage.modules]


def under(model: nn.Module, modules: list[str]) -> set[str]:
    """The parameters of the modules of those names."""
    return {name for name, _ in model.named_parameters() if any(name.startswith(f"{module}.") for module in modules)}


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training from `start` on: the parameters that learn, and the modules whose statistics stay fixed, by name."""

    start: float
    learning: frozenset[str]
    fixed: frozenset[str]


def phases(pipe: Part, model: nn.Module) -> tuple[Phase, ...]:
    """What learns when; empty where everything learns throughout.

    Raises:
        UsageError: a part names a stage that is not there, or nothing would learn.
    """
    found = []
    for start, part in zip(part_starts(pipe), steps(pipe), strict=False):
        learning = frozenset((part if callable(part) else All())(model))
        if not learning:
            raise UsageError(f'"{spell(part)}" freezes every parameter, so nothing would learn.')
        moving = getattr(part, "statistics", "fixed") == "moving"
        found.append(Phase(start, learning, frozenset() if moving else frozenset(still(model, learning))))
    everything = {name for name, _ in model.named_parameters()}
    return tuple(found) if any(phase.learning != everything for phase in found) else ()


def still(model: nn.Module, learning: frozenset[str]) -> set[str]:
    """The norms with running statistics in a frozen part: their own parameters are frozen, or, where they have none, all around them."""
    found = set()
    for name, module in model.named_modules():
        if is_norm(module) and getattr(module, "running_mean", None) is not None:
            own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
            beside = own or [other for other, _ in model.named_parameters() if other.startswith(name.rpartition(".")[0])]
            if not any(other in learning for other in beside):
                found.add(name)
    return found


def phase_at(found: tuple[Phase, ...], t: float) -> Phase | None:
    """The phase of progress t."""
    return next((phase for phase in reversed(found) if phase.start <= t + T_TOLERANCE), None)


def set_trainable(model: nn.Module, found: tuple[Phase, ...], t: float) -> None:
    """Let learn what learns at t. The rest gets no gradient, so no optimizer, decay or momentum moves it; its statistics stand still."""
    phase = phase_at(found, t)
    if phase is None:
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in phase.learning)
    for name, module in model.named_modules():
        if is_norm(module):
            module.training = model.training and name not in phase.fixed


def unfuse(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer with momentum take a group of which some parameters have learned before and some have not.

    Torch's fused SGD wants momentum of all or of none of them and stops with a TypeError; the other kernels take what there is.
    """
    for group in optimizer.param_groups:
        if "momentum" in group and group.get("fused"):
            group["fused"] = False


# ---- rates by layer -----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class None_(Rates):  # noqa: N801  spelled `none`
    """Every layer learns at the same rate.

    Helps: training from scratch.
    Hurts: fine-tuning, where early layers should change less.
    Cost: none.
    Source: -
    """

    def __call__(self, model: nn.Module) -> dict[str, float]:
        return {}


@dataclasses.dataclass(frozen=True)
class LayerDecay(Rates):
    """Each stage learns at `factor` times the rate of the stage after it; the head at the full rate.

    Helps: fine-tuning: general early features change little, special late ones much.
    Hurts: training from scratch, where early layers have the most to learn.
    Cost: none.
    Source: Howard & Ruder 2018 (discriminative fine-tuning); CS231n, transfer learning.
    """

    factor: Decay = 0.75

    def __call__(self, model: nn.Module) -> dict[str, float]:
        there = find_stages(model)
        return {module: self.factor ** (len(there) - place) for place, stage in enumerate(there) for module in stage.modules}


@dataclasses.dataclass(frozen=True)
class Backbone(Rates):
    """Everything but the head learns at `factor` times the rate.

    Helps: fine-tuning with a fresh head: a tenth of the rate keeps what was learned before.
    Hurts: training from scratch.
    Cost: none.
    Source: CS231n, transfer learning: "use a tenth of the original learning rate".
    """

    factor: Share = 0.1

    def __call__(self, model: nn.Module) -> dict[str, float]:
        return dict.fromkeys(modules_of(find_stages(model)), self.factor)


@dataclasses.dataclass(frozen=True)
class ByStage(Rates):
    """The stages of those names learn at `factors` times the rate, in the same order: by_stage(("stem", "stage1"), (0.1, 0.5)).

    Helps: when it is known which layers to hold back.
    Hurts: one more thing to tune.
    Cost: none.
    Source: Krizhevsky et al. 2012 (its code had a rate for every layer).
    """

    stages: tuple[str, ...] = ()
    factors: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.stages) != len(self.factors):
            raise UsageError(f"by_stage: expected a factor for each of {len(self.stages)} stages, received {len(self.factors)}.")

    def __call__(self, model: nn.Module) -> dict[str, float]:
        modules = {**dict(find_stages(model)), find_head(model)[0]: (find_head(model)[0],)}
        for name in self.stages:
            if name not in modules:
                raise UsageError(one_of("stage", name, modules))
        return {module: factor for name, factor in zip(self.stages, self.factors, strict=True) for module in modules[name]}
