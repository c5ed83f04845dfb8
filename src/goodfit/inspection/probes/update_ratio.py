"""How far a step moves the weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from goodfit.core.contracts import Probe
from goodfit.core.settings import Count


@dataclasses.dataclass(frozen=True)
class UpdateRatio(Probe):
    """The norm of each weight tensor's update over the norm of the tensor; about 0.001 is usual.

    Helps: to see a learning rate that is too high or too low, layer by layer.
    Hurts: read for biases and tensors that start at zero; only weights of two or more dimensions are read.
    Cost: a copy of the weights and one pass over them, every `every` steps.
    Source: lecture "track the ratio of weight updates / weight magnitudes".
    """

    every: Count = 50

    def before(self, state: Any) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in state.model.named_parameters() if p.dim() > 1}

    def read(self, view: Any) -> dict[str, Any]:
        now = dict(view.state.model.named_parameters())
        return {
            "update_ratio": {name: ((now[name].detach() - old).norm() / old.norm().clamp(min=1e-12)) for name, old in view.before.items()}
        }
