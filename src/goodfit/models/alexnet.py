"""AlexNet: torchvision's net in one tower, and the original of 2012 in two groups."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Model
from goodfit.layers.activation import width_of
from goodfit.layers.noise import mask_weights
from goodfit.models.blocks import NormAct, Order, StagedSequential, needs_bias, uses_small_stem
from goodfit.models.classic import (
    AdaptiveMean,
    ClassicFamily,
    ConvSpec,
    child_names,
    hidden_width,
    init_with_small_head,
    output_shape,
    with_norm_act,
)

MIN_SIDE = 64  # of images, for the imagenet stem
CONVS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))  # filters, kernel, stride, padding
FIRST_CONV_OF_SMALL_STEM = (64, 5, 1, 2)
POOLED_CONVS = (0, 1, 4)  # indices of the convs with a pool after them


@dataclasses.dataclass(frozen=True)
class Alexnet(ClassicFamily):
    """Five convs, three of them with an overlapping pool, and three fully connected layers: AlexNet in one tower, as in torchvision.

    Without a norm, parameters have the names of torchvision's alexnet. The small stem's first conv is 5x5 without a stride, and its
    fully connected layers have 512 units.

    Helps: as the historical reference; when torchvision's weights are at hand.
    Hurts: accuracy for its size: a resnet(18) has a fifth of the parameters and beats it by far.
    Cost: 61 million parameters, 96 % of them fully connected; 0.71 billion multiply-adds at 224 pixels.
    Source: Krizhevsky 2014 (one weird trick); Krizhevsky et al. 2012; CS231n, CNN architectures.
    """

    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = uses_small_stem(self, size, MIN_SIDE)
        norm_act, layers, n_in = NormAct(self.norm, self.act, self.order), list[nn.Module](), channels
        groups: dict[str, tuple[str, ...]] = {}
        for i, (n, kernel, stride, padding) in enumerate((FIRST_CONV_OF_SMALL_STEM, *CONVS[1:]) if small else CONVS):
            bias, first = needs_bias(self.norm, self.order), len(layers)
            layers += with_norm_act(nn.Conv2d(n_in, n * width_of(self.act), kernel, stride, padding, bias=bias), n, norm_act)
            layers += [nn.MaxPool2d(3, 2, ceil_mode=small)] if i in POOLED_CONVS else []
            groups[f"conv{i + 1}"], n_in = child_names("features", first, len(layers)), n
        features, mean = nn.Sequential(*layers), nn.Identity() if small else AdaptiveMean(6)
        _, height, width = output_shape(nn.Sequential(features, mean), channels, size)
        n, wide = hidden_width(self.hidden, small), width_of(self.act)
        head = nn.Linear(n, classes)
        classifier = [
            self.drop(), mask_weights(self.drop, nn.Linear(n_in * height * width, n * wide)), self.act(),
            self.drop(), mask_weights(self.drop, nn.Linear(n, n * wide)), self.act(), head,
        ]  # fmt: skip
        groups |= {"fc6": child_names("classifier", 0, 3), "fc7": child_names("classifier", 3, 6)}
        net = StagedSequential(
            {"features": features, "avgpool": mean, "flatten": nn.Flatten(), "classifier": nn.Sequential(*classifier)}, groups
        )
        init_with_small_head(net, self.norm, self.init, head)
        return net


@dataclasses.dataclass(frozen=True)
class GroupsSetting(Model):
    """Adds the setting `groups` before those of `ClassicFamily`."""

    groups: Literal[1, 2] = 2


@dataclasses.dataclass(frozen=True)
class Alexnet2012(ClassicFamily, GroupsSetting):
    """The original AlexNet: filters in two groups (one for each of its two GPUs), local response normalization, overlapping pools.

    Designed for 227 pixels; at 224, the paper's number, the first conv is padded to give the same maps. `groups=1` joins the two
    towers. A norm replaces the local response normalization. Small images are treated as in alexnet.

    Helps: to reproduce the paper's counts and training.
    Hurts: as alexnet; grouped convs are slow on a CPU.
    Cost: 61 million parameters, 0.72 billion multiply-adds at 227 pixels; 62 million and 1.1 billion with one group.
    Source: Krizhevsky et al. 2012; CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        padding = 0 if all((side - 11) % 4 == 0 for side in size) else 2  # at 227 the stride divides the side evenly
        layers = (
            ConvSpec(96, 11, 4, padding, lrn=True, pool=(3, 2)),
            ConvSpec(256, 5, 1, 2, groups=self.groups, lrn=True, pool=(3, 2)),
            ConvSpec(384, 3, 1, 1),
            ConvSpec(384, 3, 1, 1, groups=self.groups),
            ConvSpec(256, 3, 1, 1, groups=self.groups, pool=(3, 2)),
        )
        return self.build_numbered(layers, MIN_SIDE, classes, channels, size)
