"""LeNet-5, the conv net that read checks for banks."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.layers import noise, norm
from goodfit.layers.activation import Tanh, width_of
from goodfit.layers.init import Xavier, initialize
from goodfit.models.blocks import NormAct, linear_norm_act, named_sequential, needs_bias, require_side
from goodfit.models.classic import output_shape

PAD_FIRST_CONV_BELOW = 32  # the paper put digits of 28 pixels on 32; here the first conv pads smaller images
PAD_SECOND_CONV_BELOW = 8  # the second conv pads a smaller map, so that something is left of it


@dataclasses.dataclass(frozen=True)
class Lenet(Model):
    """Two 5x5 convs, each with a 2x2 pool, and three fully connected layers: conv, pool, conv, pool, fc, fc, scores.

    Designed for 32 pixels, and for 28 with a border of 2. Unlike the paper's, the pools (means, or "max") have no weights, the second conv
    sees all of the first's maps, and the scores are linear. A norm acts on the convs.

    Helps: digits and other small gray images; to see a whole conv net at a glance.
    Hurts: photos: six filters in the first conv are few.
    Cost: 62 thousand parameters and 0.42 million multiply-adds for digits of 28 pixels.
    Source: LeCun et al. 1998; CS231n, CNN architectures.
    """

    pool: Literal["mean", "max"] = "mean"
    act: Activation = Tanh()
    norm: Norm = norm.None_()
    init: Init = Xavier()
    drop: Noise = noise.None_()

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        require_side(self, size, 4)
        side = min(size)
        border = 2 if side < PAD_FIRST_CONV_BELOW else 0
        border2 = 2 if (side + 2 * border - 4) // 2 < PAD_SECOND_CONV_BELOW else 0
        parts: dict[str, nn.Module] = {"conv1": self._conv(channels, 6, border), "conv2": self._conv(6, 16, border2)}
        maps, height, width = output_shape(named_sequential(parts), channels, size)
        act_only = NormAct(norm.None_(), self.act)
        parts["flatten"] = nn.Flatten()
        parts["fc1"] = linear_norm_act(maps * height * width, 120, act_only, self.drop)
        parts["fc2"] = linear_norm_act(120, 84, act_only, self.drop)
        head = nn.Linear(84, classes)
        net = named_sequential({**parts, "head": head})
        initialize(net, self.init, head)
        return net

    def _conv(self, n_in: int, n: int, border: int) -> nn.Module:
        norm_act = NormAct(self.norm, self.act)
        conv = nn.Conv2d(n_in, n * width_of(self.act), 5, padding=border, bias=needs_bias(self.norm, norm_act.order))
        pool = nn.AvgPool2d(2) if self.pool == "mean" else nn.MaxPool2d(2)
        return named_sequential({"conv": conv, **norm_act.build(n), "pool": pool})
