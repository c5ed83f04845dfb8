"""Parameter groups: which parameters decay, and their learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.parameters import weight_parameters

NO_RATES: Mapping[str, float] = {}


def parameter_groups(model: nn.Module, optimizer: Optimizer, rates: Mapping[str, float] = NO_RATES) -> list[dict[str, Any]]:
    """Divide the parameters of a model into groups: weights, which decay, and norms and biases, which do not.

    `rates` maps stages, by the start of their parameters' names, to a factor of the peak learning rate ({"stem": 0.1}); every factor has
    its own groups. Each group has "params", "weights" (whether these are weights), "weight_decay" and, if the optimizer has a setting lr,
    "lr" and "peak" (which the schedule multiplies). Parameters keep the model's order, and empty groups are left out. A full-batch
    optimizer gets all parameters in one group, one that `separates_ends` the weights of the first and the last of three or more layers in
    their own, whose "hidden" is false.

    Raises:
        UsageError: rates by stage for a full-batch optimizer.
    """
    if getattr(optimizer, "full_batch", False):
        if rates:
            raise UsageError(f'"{optimizer}" updates all weights as one vector: expected no rates by stage, received {dict(rates)}.')
        return [_group(optimizer, 1.0, True, list(model.parameters()))]
    decaying = weight_parameters(model)
    apart = end_weights(model) if getattr(optimizer, "separates_ends", False) else set()
    kinds = [(True, True), (True, False), (False, True)]  # whether they decay, whether they are of a hidden layer
    params_by_group: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for rate in dict.fromkeys([1.0, *rates.values()]):
        params_by_group |= {(rate, *kind): [] for kind in kinds}
    for name, parameter in model.named_parameters():
        rate = next((rate for stage, rate in rates.items() if f"{name}.".startswith(f"{stage}.")), 1.0)
        params_by_group[rate, name in decaying, id(parameter) not in apart].append(parameter)
    groups = [(_group(optimizer, rate, decays, params), hidden) for (rate, decays, hidden), params in params_by_group.items() if params]
    return [group if hidden else {**group, "hidden": False} for group, hidden in groups]


def end_weights(model: nn.Module) -> set[int]:
    """The ids of the weights of the first and the last linear or conv layer; of none where there are no others between them."""
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    return {id(weights[0]), id(weights[-1])} if len(weights) > 2 else set()


def _group(optimizer: Optimizer, rate: float, decays: bool, params: list[nn.Parameter]) -> dict[str, Any]:
    # A user's own optimizer by dotted name has no such settings here: its own defaults then apply to the group.
    settings = {name: getattr(optimizer, name) for name in ("lr", "weight_decay") if hasattr(optimizer, name)}
    group: dict[str, Any] = {"params": params, "rate": rate, "weights": decays}
    if "lr" in settings:
        group |= {"lr": settings["lr"] * rate, "peak": settings["lr"] * rate}
    if not decays:
        group["weight_decay"] = 0.0
    elif "weight_decay" in settings:
        group["weight_decay"] = settings["weight_decay"]
    return group


def make_optimizer(model: nn.Module, optimizer: Optimizer, rates: Mapping[str, float] = NO_RATES) -> torch.optim.Optimizer:
    """Make the torch optimizer for a model's parameter groups, each with its "peak" learning rate."""
    return record_peak_rates(optimizer(parameter_groups(model, optimizer, rates)))


def record_peak_rates(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Store the learning rate of each group as its "peak", which the schedule multiplies, where a plain torch optimizer has none."""
    for group in optimizer.param_groups:
        if "peak" not in group:
            group["lr"] = group["lr"] * group.get("rate", 1.0)
            group["peak"] = group["lr"]
    return optimizer
