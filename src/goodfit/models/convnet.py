"""Convnet, the default net for small images."""

from __future__ import annotations

import dataclasses

from torch import nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm, Pool
from goodfit.core.settings import Count
from goodfit.layers import noise
from goodfit.layers.activation import Relu
from goodfit.layers.init import He, initialize
from goodfit.layers.noise import mask_weights
from goodfit.layers.norm import Batch
from goodfit.layers.pool import Max, factor_of
from goodfit.models.blocks import NormAct, Order, conv_norm_act, global_average_pool, named_sequential, require_side

MAX_SIDE_AFTER_STEM = 48  # the stem's stride doubles until the shorter side of its map is at most this
MAX_SIDE_OF_LAST_MAP = 4  # stages halve the map until its shorter side is at most this
STAGE_WIDTHS = (1, 4, 4, 8)  # of the stages, in stem widths; further stages have the last


@dataclasses.dataclass(frozen=True)
class Convnet(Model):
    """A stem, then stages of two 3x3 convs with a pool between them, the mean over the map, and a linear head.

    The stem and first stage have `width` channels, later stages a multiple of it. There are as many stages as it takes to shrink the
    map to 4 pixels; larger images get a stem with a stride.

    Helps: images up to about 128 pixels, trainings of minutes on a CPU.
    Hurts: large images with fine classes, where a pretrained resnet does better.
    Cost: 43 million multiply-adds for a 32x32 image at width 32.
    Source: after Page 2018 (how to train your ResNet) and Jordan 2024 (94 % on CIFAR-10 in 3.29 seconds; act=gelu there).
    """

    width: Count = 32
    act: Activation = Relu()
    norm: Norm = Batch()
    init: Init = He()
    drop: Noise = noise.None_()
    pool: Pool = Max()
    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        require_side(self, size, 4)
        stride, side = 1, min(size)
        while side > MAX_SIDE_AFTER_STEM:
            stride, side = stride * 2, -(-side // 2)
        norm_act = NormAct(self.norm, self.act, self.order)
        parts: dict[str, nn.Module] = {"stem": conv_norm_act(channels, self.width, norm_act, kernel=2 * stride + 1, stride=stride)}
        widths = [self.width]
        while side > MAX_SIDE_OF_LAST_MAP or len(widths) == 1:
            widths.append(self.width * STAGE_WIDTHS[min(len(widths), len(STAGE_WIDTHS)) - 1])
            parts[f"stage{len(widths) - 1}"] = self._stage(widths[-2], widths[-1], norm_act)
            side = int(side / factor_of(self.pool))
        head = mask_weights(self.drop, nn.Linear(widths[-1], classes))
        net = named_sequential({**parts, "pool": global_average_pool(), "drop": self.drop(), "head": head})
        initialize(net, self.init, head)
        return net

    def _stage(self, n_in: int, n_out: int, norm_act: NormAct) -> nn.Module:
        return named_sequential(
            {"first": conv_norm_act(n_in, n_out, norm_act, pool=self.pool), "second": conv_norm_act(n_out, n_out, norm_act)}
        )
