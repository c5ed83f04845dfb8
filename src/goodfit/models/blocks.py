"""Building blocks that several families of models share."""

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


class StagedSequential(nn.Sequential):
    """An `nn.Sequential` of named modules that declares which of them make up which stage (see `goodfit.models.weights.stages`)."""

    def __init__(self, children: Mapping[str, nn.Module], stage_groups: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(OrderedDict(children))
        self.stage_groups = dict(stage_groups)


def named_sequential(children: Mapping[str, nn.Module]) -> nn.Sequential:
    """Make an `nn.Sequential` of modules with these names."""
    return nn.Sequential(OrderedDict(children))


def require_side(model: Part, size: tuple[int, int], min_side: int) -> None:
    """Refuse images that are too small for a model.

    Raises:
        UsageError: a side is below `min_side`.
    """
    if min(size) < min_side:
        required, received = f"{min_side}x{min_side}", f"{size[0]}x{size[1]}"
        raise UsageError(f"{part_name(model)}: expected images of at least {required} pixels, received {received}; use a larger --size.")


Stem = Literal["auto", "imagenet", "small"]  # the first layers: as for ImageNet, or with fewer strides; auto depends on the image size
SMALL_STEM_BELOW = 96  # stem=auto takes the small stem for images below this side
MIN_SIDE_OF_SMALL_STEM = 8


def uses_small_stem(model: Any, size: tuple[int, int], min_side: int) -> bool:
    """Whether a model with a setting `stem` uses its small stem for images of this size; the imagenet stem needs sides of `min_side`.

    Raises:
        UsageError: the images are too small for the stem.
    """
    small = min(size) < SMALL_STEM_BELOW if model.stem == "auto" else model.stem == "small"
    require_side(model, size, MIN_SIDE_OF_SMALL_STEM if small else min_side)
    return bool(small)


def scale_residual_branches(last_convs: Sequence[nn.Conv2d]) -> None:
    """Scale the last conv of each of n residual branches by 1 / sqrt(n): without norms every block would double the variance."""
    with torch.no_grad():
        for conv in last_convs:
            conv.weight.mul_(len(last_convs) ** -0.5)


def global_average_pool() -> nn.Sequential:
    """Make the layers that average every channel over its pixels: [B, C, H, W] -> [B, C]."""
    return named_sequential({"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()})


Order = Literal["norm_act", "act_norm"]  # whether the norm comes before the activation, as in the paper, or after it
Kernel = int | tuple[int, int]  # the sides of a conv's kernel, rows and columns


def make_conv(
    n_in: int, n_out: int, kernel: Kernel = 3, *, stride: int = 1, norm: Norm, order: Order = "norm_act", pad: bool = True, groups: int = 1
) -> nn.Conv2d:
    """Make a conv layer, with biases only where no norm follows; `pad` keeps the size of the map, divided by the stride."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (rows // 2, columns // 2) if pad else (0, 0)
    return nn.Conv2d(n_in, n_out, (rows, columns), stride, padding, groups=groups, bias=needs_bias(norm, order))


def needs_bias(norm: Norm, order: Order) -> bool:
    """Whether a layer needs biases: a norm right after it would subtract them again."""
    return order == "act_norm" or not normalizes(norm)


@dataclasses.dataclass(frozen=True)
class NormAct:
    """The norm and activation that follow every layer of a net, in either order."""

    norm: Norm
    act: Activation
    order: Order = "norm_act"

    def build(self, n: int) -> dict[str, nn.Module]:
        """Make the modules that turn n * width_of(act) channels into n, by name."""
        if self.order == "act_norm":
            return {"act": self.act(), "norm": self.norm(n)}
        return {"norm": self.norm(n * width_of(self.act)), "act": self.act()}


def conv_norm_act(n_in: int, n_out: int, norm_act: NormAct, *, kernel: int = 3, stride: int = 1, pool: Pool | None = None) -> nn.Sequential:
    """Make a conv, pool, norm and activation; the pool comes first, so that norm and activation have less to do."""
    conv = make_conv(n_in, n_out * width_of(norm_act.act), kernel, stride=stride, norm=norm_act.norm, order=norm_act.order)
    pooling = {"pool": pool()} if pool is not None else {}
    return named_sequential({"conv": conv, **pooling, **norm_act.build(n_out)})


def linear_norm_act(n_in: int, n_out: int, norm_act: NormAct, drop: Noise) -> nn.Sequential:
    """Make a linear layer, norm, activation and noise."""
    linear = nn.Linear(n_in, n_out * width_of(norm_act.act), bias=needs_bias(norm_act.norm, norm_act.order))
    return named_sequential({"linear": mask_weights(drop, linear), **norm_act.build(n_out), "drop": drop()})
