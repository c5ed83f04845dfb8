"""Pieces that several families of models are built from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from goodfit.core.catalog import Part, name_of
from goodfit.core.contracts import Activation, Noise, Norm
from goodfit.core.errors import UsageError
from goodfit.layers.activation import width_of
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


def conv(n_in: int, n_out: int, kernel: int = 3, *, stride: int = 1, norm: Norm) -> nn.Conv2d:
    """A conv layer that keeps the size (divided by its stride), with biases only where no norm follows."""
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=not normalizes(norm))


def conv_norm_act(n_in: int, n_out: int, *, kernel: int = 3, stride: int = 1, pool: int = 1, norm: Norm, act: Activation) -> nn.Sequential:
    """Conv, max pool, norm, activation; the pool comes before norm and activation, which then have less to do."""
    wide = n_out * width_of(act)
    parts: dict[str, nn.Module] = {"conv": conv(n_in, wide, kernel, stride=stride, norm=norm)}
    if pool > 1:
        parts["pool"] = nn.MaxPool2d(pool)
    return named({**parts, "norm": norm(wide), "act": act()})


def linear_norm_act(n_in: int, n_out: int, *, norm: Norm, act: Activation, drop: Noise) -> nn.Sequential:
    """Linear layer, norm, activation, noise."""
    wide = n_out * width_of(act)
    return named({"linear": nn.Linear(n_in, wide, bias=not normalizes(norm)), "norm": norm(wide), "act": act(), "drop": drop()})
