"""Pieces that several families of models are built from."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

from torch import nn

from goodfit.core.catalog import Part, name_of
from goodfit.core.contracts import Activation, Noise, Norm, Pool
from goodfit.core.errors import UsageError
from goodfit.layers.activation import width_of
from goodfit.layers.noise import mask_weights
from goodfit.layers.norm import normalizes


def named(children: Mapping[str, nn.Module]) -> nn.Sequential:
    """Modules one after the other, by name."""
    return nn.Sequential(OrderedDict(children))


def needs_size(model: Part, size: tuple[int, int], least: int) -> None:
    """Refuse images too small for a model.

    Raises:
        UsageError: a side is below `least`.
    """
    if min(size) < least:
        received = f"{size[0]}x{size[1]}"
        raise UsageError(f"{name_of(model)}: expected images of at least {least}x{least} pixels, received {received}; use a larger --size.")


def pooled() -> nn.Sequential:
    """The mean of every channel over its pixels: [B, C, H, W] -> [B, C]."""
    return named({"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()})


Order = Literal["norm_act", "act_norm"]  # whether the norm comes before the activation, as in the paper, or after it


def conv(n_in: int, n_out: int, kernel: int = 3, *, stride: int = 1, norm: Norm, order: Order = "norm_act") -> nn.Conv2d:
    """A conv layer that keeps the size (divided by its stride), with biases only where no norm follows."""
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=biased(norm, order))


def biased(norm: Norm, order: Order) -> bool:
    """Whether a layer needs biases: a norm right after it would take them off again."""
    return order == "act_norm" or not normalizes(norm)


@dataclasses.dataclass(frozen=True)
class Look:
    """What follows every layer of a net: a norm and an activation, in one order or the other."""

    norm: Norm
    act: Activation
    order: Order = "norm_act"

    def after(self, n: int) -> dict[str, nn.Module]:
        """The modules that turn n * width_of(act) channels into n, by name."""
        if self.order == "act_norm":
            return {"act": self.act(), "norm": self.norm(n)}
        return {"norm": self.norm(n * width_of(self.act)), "act": self.act()}


def conv_norm_act(n_in: int, n_out: int, look: Look, *, kernel: int = 3, stride: int = 1, pool: Pool | None = None) -> nn.Sequential:
    """Conv, pool, norm, activation; the pool comes before norm and activation, which then have less to do."""
    made = conv(n_in, n_out * width_of(look.act), kernel, stride=stride, norm=look.norm, order=look.order)
    pooling = {"pool": pool()} if pool is not None else {}
    return named({"conv": made, **pooling, **look.after(n_out)})


def linear_norm_act(n_in: int, n_out: int, look: Look, drop: Noise) -> nn.Sequential:
    """Linear layer, norm, activation, noise."""
    linear = nn.Linear(n_in, n_out * width_of(look.act), bias=biased(look.norm, look.order))
    return named({"linear": mask_weights(drop, linear), **look.after(n_out), "drop": drop()})
