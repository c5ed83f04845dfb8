"""Pieces that several families of models are built from."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from goodfit.core.contracts import Activation, Noise, Norm, Pool
from goodfit.core.errors import UsageError
from goodfit.core.parts import Part, part_name
from goodfit.layers.activation import width_of
from goodfit.layers.noise import mask_weights
from goodfit.layers.norm import normalizes


class Net(nn.Sequential):
    """Modules one after the other, by name, and which of them make up which stage (see `goodfit.models.weights.stages`)."""

    def __init__(self, children: Mapping[str, nn.Module], stage_groups: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(OrderedDict(children))
        self.stage_groups = dict(stage_groups)


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
        raise UsageError(
            f"{part_name(model)}: expected images of at least {least}x{least} pixels, received {received}; use a larger --size."
        )


Stem = Literal["auto", "imagenet", "small"]  # how a net begins: as for ImageNet, or with fewer strides; auto goes by the images
SMALL = 96  # images below this side get the small stem, where the stem is to be chosen
LEAST = 8  # the smallest side for a small stem


def small_stem(model: Any, size: tuple[int, int], least: int) -> bool:
    """Whether a model with a setting `stem` gives images of this size its small stem; the imagenet one takes sides from `least` on.

    Raises:
        UsageError: they are too small for it.
    """
    small = min(size) < SMALL if model.stem == "auto" else model.stem == "small"
    needs_size(model, size, LEAST if small else least)
    return bool(small)


def soften(lasts: Sequence[nn.Conv2d]) -> None:
    """Without normalization every residual block would double the variance: make its branch, by the last conv, as much smaller as there
    are blocks.
    """
    with torch.no_grad():
        for last in lasts:
            last.weight.mul_(len(lasts) ** -0.5)


def pooled() -> nn.Sequential:
    """The mean of every channel over its pixels: [B, C, H, W] -> [B, C]."""
    return named({"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()})


Order = Literal["norm_act", "act_norm"]  # whether the norm comes before the activation, as in the paper, or after it
Kernel = int | tuple[int, int]  # the sides of a conv's kernel, rows and columns


def conv(
    n_in: int, n_out: int, kernel: Kernel = 3, *, stride: int = 1, norm: Norm, order: Order = "norm_act", pad: bool = True, groups: int = 1
) -> nn.Conv2d:
    """A conv layer with biases only where no norm follows; with `pad` it keeps the size (divided by its stride)."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (rows // 2, columns // 2) if pad else (0, 0)
    return nn.Conv2d(n_in, n_out, (rows, columns), stride, padding, groups=groups, bias=biased(norm, order))


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
