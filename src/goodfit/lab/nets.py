"""Small nets of the claims that the catalog does not have: narrow ones that differ in one thing."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Activation, Model, Norm
from goodfit.core.settings import Count
from goodfit.layers import noise, norm
from goodfit.layers.activation import Relu
from goodfit.layers.init import He, initialize
from goodfit.models.blocks import NormAct, conv_norm_act, global_average_pool, named_sequential
from goodfit.models.resnet import ResidualBlock


@dataclasses.dataclass(frozen=True)
class Stages(Model):
    """Stages of `convs` convs each, of `widths` channels, at whose ends the map is halved, then the mean over the map and a linear head.

    It is halved by a max pool, or by the stride of the stage's last conv. Source: after Simonyan & Zisserman 2015.
    """

    convs: tuple[Count, ...] = (1, 1, 2)
    widths: tuple[Count, ...] = (16, 16, 16)
    kernel: Count = 3
    norm: Norm = norm.None_()
    act: Activation = Relu()
    halved_by: Literal["pool", "stride"] = "pool"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        norm_act, layers, n_in = NormAct(self.norm, self.act, "norm_act"), dict[str, nn.Module](), channels
        for s, (convs, n) in enumerate(zip(self.convs, self.widths, strict=True), 1):
            for k in range(1, convs + 1):
                stride = 2 if k == convs and self.halved_by == "stride" else 1
                layers[f"stage{s}_{k}"] = conv_norm_act(n_in, n, norm_act, kernel=self.kernel, stride=stride)
                n_in = n
            if self.halved_by == "pool":
                layers[f"pool{s}"] = nn.MaxPool2d(2, ceil_mode=True)
        head = nn.Linear(n_in, classes)
        net = named_sequential({**layers, "mean": global_average_pool(), "head": head})
        initialize(net, He(), head)
        return net


@dataclasses.dataclass(frozen=True)
class NarrowResnet(Model):
    """The nets of 6 `blocks` + 2 layers for CIFAR, from `width` channels on and at half the side; without shortcuts the plain nets.

    Source: after He et al. 2015.
    """

    blocks: Count = 3
    width: Count = 8
    shortcut: Literal["pad", "none"] = "pad"
    norm: Norm = norm.Batch()

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        norm_act, n_in = NormAct(self.norm, Relu(), "norm_act"), self.width
        layers: dict[str, nn.Module] = {"stem": conv_norm_act(channels, n_in, norm_act, stride=2)}
        for s, n in enumerate((self.width, 2 * self.width, 4 * self.width)):
            for k in range(self.blocks):
                stride = 2 if s and not k else 1
                layers[f"stage{s + 1}_{k}"] = ResidualBlock(n_in, n, stride, norm_act, noise.None_(), False, self.shortcut)
                n_in = n
        head = nn.Linear(n_in, classes)
        net = named_sequential({**layers, "mean": global_average_pool(), "head": head})
        initialize(net, He("out"), head)
        return net
