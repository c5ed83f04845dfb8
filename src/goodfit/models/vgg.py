"""VGG: deep stacks of 3x3 convs, all configurations of the paper, with the parameter names of torchvision."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Model
from goodfit.layers.activation import width_of
from goodfit.layers.noise import mask_weights
from goodfit.layers.norm import LocalResponseNorm
from goodfit.models.blocks import NormAct, Order, StagedSequential, uses_small_stem
from goodfit.models.classic import (
    AdaptiveMean,
    ClassicFamily,
    child_names,
    hidden_width,
    init_with_small_head,
    output_shape,
    with_norm_act,
)

# The kernels of each stage's convs, by the letter of the paper's table 1; a pool ends each stage.
STAGES = {
    "A": ("3", "3", "33", "33", "33"),
    "A_lrn": ("3", "3", "33", "33", "33"),
    "B": ("33", "33", "33", "33", "33"),
    "C": ("33", "33", "331", "331", "331"),
    "D": ("33", "33", "333", "333", "333"),
    "E": ("33", "33", "3333", "3333", "3333"),
}
WIDTHS = (64, 128, 256, 512, 512)  # filters of a stage's convs
LETTERS = {11: "A", 13: "B", 16: "D", 19: "E"}


@dataclasses.dataclass(frozen=True)
class ConfigSetting(Model):
    """Adds the setting `config` before those of `ClassicFamily`: which net of the paper's table to build."""

    config: Literal[11, 13, 16, 19, "A", "A_lrn", "B", "C", "D", "E"] = 16


@dataclasses.dataclass(frozen=True)
class Vgg(ClassicFamily, ConfigSetting):
    """Five stages of 3x3 convs with a pool between them, and three fully connected layers.

    `config` is the number of layers or the letter of the paper's table: 11 = A, 13 = B, 16 = D, 19 = E, A_lrn (A with local response
    normalization after its first conv), C (16 layers, of which three convs are 1x1). Parameters have the names of torchvision's vgg16
    (norm=none) or vgg16_bn (norm=batch). The small stem drops the pools that would leave too little and has fully connected layers of
    512 units.

    Helps: features that transfer well; the plainest of the deep nets.
    Hurts: training from scratch without a norm: the deep ones start slowly, so give norm=batch.
    Cost: 138 million parameters (16 layers), 89 % of them fully connected; 15 billion multiply-adds at 224 pixels.
    Source: Simonyan & Zisserman 2015; CS231n, CNN architectures.
    """

    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = uses_small_stem(self, size, 32)
        features, groups = self._features(channels, min(size))
        mean = nn.Identity() if small else AdaptiveMean(7)
        maps, height, width = output_shape(nn.Sequential(features, mean), channels, size)
        n, wide = hidden_width(self.hidden, small), width_of(self.act)
        head = nn.Linear(n, classes)
        classifier = [
            mask_weights(self.drop, nn.Linear(maps * height * width, n * wide)), self.act(), self.drop(),
            mask_weights(self.drop, nn.Linear(n, n * wide)), self.act(), self.drop(), head,
        ]  # fmt: skip
        groups |= {"fc1": child_names("classifier", 0, 3), "fc2": child_names("classifier", 3, 6)}
        net = StagedSequential(
            {"features": features, "avgpool": mean, "flatten": nn.Flatten(), "classifier": nn.Sequential(*classifier)}, groups
        )
        init_with_small_head(net, self.norm, self.init, head)
        return net

    def _features(self, channels: int, side: int) -> tuple[nn.Sequential, dict[str, tuple[str, ...]]]:
        """Make the conv layers, numbered as in torchvision (a pool that is left out keeps its number), and say which form a stage."""
        letter = LETTERS[self.config] if isinstance(self.config, int) else self.config
        norm_act, layers, n_in = NormAct(self.norm, self.act, self.order), list[nn.Module](), channels
        groups: dict[str, tuple[str, ...]] = {}
        for i, (kernels, n) in enumerate(zip(STAGES[letter], WIDTHS, strict=True), start=1):
            first = len(layers)
            for kernel in map(int, kernels):
                # torchvision's convs have a bias before a norm, too
                layers += with_norm_act(nn.Conv2d(n_in, n * width_of(self.act), kernel, padding=kernel // 2), n, norm_act)
                n_in = n
            layers += [LocalResponseNorm()] if letter == "A_lrn" and i == 1 else []
            halved = side >= (2 if i == len(WIDTHS) else 4)  # no conv sees a map of one pixel
            layers.append(nn.MaxPool2d(2) if halved else nn.Identity())
            groups[f"stage{i}"] = child_names("features", first, len(layers))
            side = side // 2 if halved else side
        return nn.Sequential(*layers), groups
