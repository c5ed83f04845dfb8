"""AlexNet: the net of torchvision in one tower, and that of 2012 in two groups."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Model
from goodfit.layers.activation import width_of
from goodfit.layers.noise import mask_weights
from goodfit.models.blocks import Look, Net, Order, biased, small_stem
from goodfit.models.classic import Classic, Layer, MeanTo, flat_conv, map_of, numbers, start_calm, units

LEAST = 64  # the smallest side for the imagenet stem
TOWER = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))  # filters, kernel, stride, padding
SMALL_STEM = (64, 5, 1, 2)
POOLED = (0, 1, 4)  # the convs with a pool after them


@dataclasses.dataclass(frozen=True)
class Alexnet(Classic):
    """Five convs, three of them with an overlapping pool, and three fully connected layers: AlexNet in one tower, as torchvision has it.

    Parameters are named as torchvision's alexnet where there is no norm. The small stem's first conv is 5x5 without a stride, and its
    fully connected layers have 512 units.

    Helps: as the net that began it; when torchvision's weights are at hand.
    Hurts: accuracy for its size: a resnet(18) has a fifth of the parameters and beats it by far.
    Cost: 61 million parameters, 96 % of them fully connected; 0.71 billion multiply-adds at 224 pixels.
    Source: Krizhevsky 2014 (one weird trick); Krizhevsky et al. 2012; CS231n, CNN architectures.
    """

    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = small_stem(self, size, LEAST)
        look, layers, n_in = Look(self.norm, self.act, self.order), list[nn.Module](), channels
        groups: dict[str, tuple[str, ...]] = {}
        for i, (n, kernel, stride, padding) in enumerate((SMALL_STEM, *TOWER[1:]) if small else TOWER):
            bias, first = biased(self.norm, self.order), len(layers)
            layers += flat_conv(nn.Conv2d(n_in, n * width_of(self.act), kernel, stride, padding, bias=bias), n, look)
            layers += [nn.MaxPool2d(3, 2, ceil_mode=small)] if i in POOLED else []
            groups[f"conv{i + 1}"], n_in = numbers("features", first, len(layers)), n
        features, mean = nn.Sequential(*layers), nn.Identity() if small else MeanTo(6)
        _, height, width = map_of(nn.Sequential(features, mean), channels, size)
        n, wide = units(self.hidden, small), width_of(self.act)
        head = nn.Linear(n, classes)
        classifier = [
            self.drop(), mask_weights(self.drop, nn.Linear(n_in * height * width, n * wide)), self.act(),
            self.drop(), mask_weights(self.drop, nn.Linear(n, n * wide)), self.act(), head,
        ]  # fmt: skip
        groups |= {"fc6": numbers("classifier", 0, 3), "fc7": numbers("classifier", 3, 6)}
        net = Net({"features": features, "avgpool": mean, "flatten": nn.Flatten(), "classifier": nn.Sequential(*classifier)}, groups)
        start_calm(net, self.norm, self.init, head)
        return net


@dataclasses.dataclass(frozen=True)
class Grouped(Model):
    """The setting that comes before the classic ones: the filters' groups."""

    groups: Literal[1, 2] = 2


@dataclasses.dataclass(frozen=True)
class Alexnet2012(Classic, Grouped):
    """AlexNet as it was: filters in two groups (one for each of its two GPUs), local response normalization, overlapping pools.

    Made for 227 pixels; at 224, the paper's number, the first conv is padded to the same maps. `groups=1` joins the two towers. A norm
    takes the place of the local response normalization. Small images are treated as in alexnet.

    Helps: to reproduce the paper's counts and training.
    Hurts: as alexnet; grouped convs are slow on a CPU.
    Cost: 61 million parameters, 0.72 billion multiply-adds at 227 pixels; 62 million and 1.1 billion with one group.
    Source: Krizhevsky et al. 2012; CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        padding = 0 if all((side - 11) % 4 == 0 for side in size) else 2  # at 227 the stride comes out even
        two = self.groups
        layers = (
            Layer(96, 11, 4, padding, lrn=True, pool=(3, 2)),
            Layer(256, 5, 1, 2, groups=two, lrn=True, pool=(3, 2)),
            Layer(384, 3, 1, 1),
            Layer(384, 3, 1, 1, groups=two),
            Layer(256, 3, 1, 1, groups=two, pool=(3, 2)),
        )
        return self.numbered(layers, LEAST, classes, channels, size)
