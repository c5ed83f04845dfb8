"""GoogLeNet, with the parameter names of torchvision."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Noise
from goodfit.core.settings import NonNegative
from goodfit.layers.activation import width_of
from goodfit.layers.init import initialize
from goodfit.layers.noise import Dropout, mask_weights
from goodfit.models.blocks import Look, Order, named, small_stem
from goodfit.models.branches import Branches, Branching, Tapped, calm, unit
from goodfit.models.classic import MeanTo

BLOCKS = {  # channels of the 1x1 path, of the 3x3 path's 1x1 and 3x3, of the 5x5 path's 1x1 and 5x5, of the 1x1 behind the pool
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
POOLED = {"3b": ("maxpool3", 3), "4e": ("maxpool4", 2)}  # the pool behind a block, and its window
TAPS = {"inception4a": "aux1", "inception4d": "aux2"}
GROUPS = {
    "stem": ("conv1", "maxpool1", "conv2", "conv3", "maxpool2"),
    "inception3": ("inception3a", "inception3b", "maxpool3"),
    "inception4": ("aux1", "aux2", *(f"inception4{x}" for x in "abcde"), "maxpool4"),
    "inception5": ("inception5a", "inception5b"),
}


@dataclasses.dataclass(frozen=True)
class Googlenet(Branching):
    """Nine blocks of four paths side by side (1x1, 3x3, 5x5, pool), each kept cheap by 1x1 convs, and a head on the mean of the map.

    In training two auxiliary heads classify what blocks 4a and 4d put out; their losses count `aux` times, and 0 leaves them out. The
    imagenet stem divides the sides by 8; the small one by 2, with a 3x3 conv; auto takes the small one below 96 pixels. `kernel` is
    that of the 5x5 path: torchvision's weights have 3 there, and batch norm where the paper had none; the paper's net is
    googlenet(kernel=5, norm=none). `drop` is noise before the head, `aux_drop` before the auxiliary ones.

    Helps: accuracy for its few parameters; to see what auxiliary heads do.
    Hurts: on small data a resnet is simpler and trains as fast.
    Cost: 1.5 billion multiply-adds at 224 pixels, 0.5 billion at 32; 5.6 million parameters and a head, and 3.2 million for each
        auxiliary head.
    Source: Szegedy et al. 2014 (going deeper with convolutions); CS231n, CNN architectures.
    """

    aux: NonNegative = 0.3
    drop: Noise = Dropout(0.2)
    aux_drop: Noise = Dropout(0.7)
    kernel: Literal[3, 5] = 3
    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = small_stem(self, size, 32)
        look = Look(self.norm, self.act, self.order)
        kernel, stride = (3, 1) if small else (7, 2)
        parts: dict[str, nn.Module] = {
            "conv1": unit(channels, 64, look, kernel, stride=stride),
            "maxpool1": nn.Identity() if small else nn.MaxPool2d(3, 2, ceil_mode=True),
            "conv2": unit(64, 64, look),
            "conv3": unit(64, 192, look, 3),
            "maxpool2": nn.MaxPool2d(3, 2, ceil_mode=True),
        }
        n, taken = 192, {}
        for name, widths in BLOCKS.items():
            parts[f"inception{name}"] = inception(n, widths, look, self.kernel)
            n = widths[0] + widths[2] + widths[4] + widths[5]
            taken[f"inception{name}"] = n
            if name in POOLED:
                pool, window = POOLED[name]
                parts[pool] = nn.MaxPool2d(window, 2, ceil_mode=True)
        extra = {name: self._extra(taken[block], classes, look) for block, name in TAPS.items()} if self.aux else {}
        head = mask_weights(self.drop, nn.Linear(n, classes))
        tail = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dropout": self.drop(), "fc": head}
        net = Tapped({**parts, **extra, **tail}, TAPS if self.aux else {}, self.aux, GROUPS)
        initialize(net, self.init, head)
        calm([m.get_submodule("fc2") for m in extra.values()])  # type: ignore[misc]
        return net

    def _extra(self, n: int, classes: int, look: Look) -> nn.Module:
        """An auxiliary head on a map of n channels."""
        return named({
            "pool": MeanTo(4), "conv": unit(n, 128, look), "flatten": nn.Flatten(),
            "fc1": nn.Linear(4 * 4 * 128, 1024 * width_of(self.act)), "act": self.act(),
            "drop": self.aux_drop(), "fc2": mask_weights(self.aux_drop, nn.Linear(1024, classes)),
        })  # fmt: skip


def inception(n: int, widths: tuple[int, ...], look: Look, kernel: int) -> Branches:
    """A block of four paths over n channels."""
    one, three_in, three, five_in, five, pool = widths
    paths = {
        "branch1": unit(n, one, look),
        "branch2": nn.Sequential(unit(n, three_in, look), unit(three_in, three, look, 3)),
        "branch3": nn.Sequential(unit(n, five_in, look), unit(five_in, five, look, kernel)),
        "branch4": nn.Sequential(nn.MaxPool2d(3, 1, padding=1), unit(n, pool, look)),
    }
    return Branches(paths, [(name,) for name in paths])
