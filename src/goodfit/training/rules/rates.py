"""Learning rates by layer, as factors of the optimizer's rate."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from torch import nn

from goodfit.core.contracts import Rates
from goodfit.core.errors import UsageError, unknown_name
from goodfit.core.parameters import is_norm
from goodfit.core.settings import Positive, Range, Share
from goodfit.models.weights.stages import find_head, find_stages
from goodfit.training.rules.trainable import module_names

Decay = Annotated[float, Range(above=0, high=1)]


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
        all_stages = find_stages(model)
        n = len(all_stages)
        return {module: self.factor ** (n - index) for index, stage in enumerate(all_stages) for module in stage.modules}


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
        return dict.fromkeys(module_names(find_stages(model)), self.factor)


@dataclasses.dataclass(frozen=True)
class NormBiases(Rates):
    """The biases of norms learn at `factor` times the rate.

    Helps: nets of many norms in a few epochs, in which biases at the rate of the weights hardly move.
    Hurts: long trainings, and rates near the highest that are stable.
    Cost: none.
    Source: Page 2018 (how to train your ResNet); Jordan 2024 (airbench94, a factor of 64).
    """

    factor: Positive = 64.0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        biases = (f"{name}.bias" for name, module in model.named_modules() if is_norm(module) and getattr(module, "bias", None) is not None)
        return dict.fromkeys(biases, self.factor)


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
                raise UsageError(unknown_name("stage", name, modules))
        return {module: factor for name, factor in zip(self.stages, self.factors, strict=True) for module in modules[name]}
