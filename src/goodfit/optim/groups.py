"""Parameter groups: which parameters decay, and which learn at what rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.parameters import weight_parameters

ALL_ALIKE: Mapping[str, float] = {}


def groups(model: nn.Module, optimizer: Optimizer, rates: Mapping[str, float] = ALL_ALIKE) -> list[dict[str, Any]]:
    """The parameters of a model in groups: weights first, which decay, then norms and biases, which do not.

    `rates` gives stages, by the start of their names, a share of the peak learning rate ({"stem": 0.1}); every rate makes a group of
    its own. Each group has "params", "weights" (whether these are weights), "weight_decay" and, where the optimizer says its lr, "lr"
    and "peak" (what the schedule multiplies). The order is the model's own, empty groups are left out. A full-batch optimizer gets all
    parameters in one group.

    Raises:
        UsageError: rates by stage for a full-batch optimizer.
    """
    if getattr(optimizer, "full_batch", False):
        if rates:
            raise UsageError(f'"{optimizer}" moves all weights as one vector: expected no rates by stage, received {dict(rates)}.')
        return [_group(optimizer, 1.0, True, list(model.parameters()))]
    decaying = weight_parameters(model)
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for rate in dict.fromkeys([1.0, *rates.values()]):
        found |= {(rate, True): [], (rate, False): []}
    for name, parameter in model.named_parameters():
        rate = next((rate for stage, rate in rates.items() if f"{name}.".startswith(f"{stage}.")), 1.0)
        found[rate, name in decaying].append(parameter)
    return [_group(optimizer, rate, decays, params) for (rate, decays), params in found.items() if params]


def _group(optimizer: Optimizer, rate: float, decays: bool, params: list[nn.Parameter]) -> dict[str, Any]:
    # A user's own optimizer by dotted name keeps its settings to itself: torch's defaults for the group then hold.
    said = {name: getattr(optimizer, name) for name in ("lr", "weight_decay") if hasattr(optimizer, name)}
    group: dict[str, Any] = {"params": params, "rate": rate, "weights": decays}
    if "lr" in said:
        group |= {"lr": said["lr"] * rate, "peak": said["lr"] * rate}
    if not decays:
        group["weight_decay"] = 0.0
    elif "weight_decay" in said:
        group["weight_decay"] = said["weight_decay"]
    return group


def optimizer_for(model: nn.Module, optimizer: Optimizer, rates: Mapping[str, float] = ALL_ALIKE) -> torch.optim.Optimizer:
    """The torch optimizer over a model's groups; every group has its "peak" rate."""
    return with_peaks(optimizer(groups(model, optimizer, rates)))


def with_peaks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Note in each group that lacks it its learning rate as "peak"; for plain torch optimizers, which are welcome too."""
    for group in optimizer.param_groups:
        if "peak" not in group:
            group["lr"] = group["lr"] * group.get("rate", 1.0)
            group["peak"] = group["lr"]
    return optimizer
