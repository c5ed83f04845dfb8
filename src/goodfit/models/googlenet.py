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
from goodfit.models.blocks import NormAct, Order, named_sequential, uses_small_stem
from goodfit.models.branches import Branches, InceptionFamily, NetWithAuxHeads, basic_conv, init_aux_heads
from goodfit.models.classic import AdaptiveMean

BLOCKS = {  # channels of the 1x1 path, the 3x3 path's 1x1 and 3x3, the 5x5 path's 1x1 and 5x5, and the 1x1 behind the pool
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
POOLS_AFTER = {"3b": ("maxpool3", 3), "4e": ("maxpool4", 2)}  # block -> the pool behind it, and its window
AUX_HEADS = {"inception4a": "aux1", "inception4d": "aux2"}
STAGE_GROUPS = {
    "stem": ("conv1", "maxpool1", "conv2", "conv3", "maxpool2"),
    "inception3": ("inception3a", "inception3b", "maxpool3"),
    "inception4": ("aux1", "aux2", *(f"inception4{x}" for x in "abcde"), "maxpool4"),
    "inception5": ("inception5a", "inception5b"),
}


@dataclasses.dataclass(frozen=True)
class Googlenet(InceptionFamily):
    """Nine blocks of four parallel paths (1x1, 3x3, 5x5, pool), each kept cheap by 1x1 convs, and a head on the mean of the map.

    In training, two auxiliary heads classify the outputs of blocks 4a and 4d; their losses count `aux` times, and 0 removes the heads.
    The imagenet stem divides the sides by 8; the small one divides them by 2, with a 3x3 conv; auto takes the small one below 96 pixels.
    `kernel` is that of the 5x5 path. torchvision's weights have 3 there, and batch norm where the paper had none; the paper's net is
    googlenet(kernel=5, norm=none). `drop` is noise before the head, `aux_drop` before the auxiliary heads.

    Helps: good accuracy with few parameters; to see what auxiliary heads do.
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
        small = uses_small_stem(self, size, 32)
        norm_act = NormAct(self.norm, self.act, self.order)
        kernel, stride = (3, 1) if small else (7, 2)
        parts: dict[str, nn.Module] = {
            "conv1": basic_conv(channels, 64, norm_act, kernel, stride=stride),
            "maxpool1": nn.Identity() if small else nn.MaxPool2d(3, 2, ceil_mode=True),
            "conv2": basic_conv(64, 64, norm_act),
            "conv3": basic_conv(64, 192, norm_act, 3),
            "maxpool2": nn.MaxPool2d(3, 2, ceil_mode=True),
        }
        n, channels_after = 192, {}
        for name, widths in BLOCKS.items():
            parts[f"inception{name}"] = inception_block(n, widths, norm_act, self.kernel)
            n = widths[0] + widths[2] + widths[4] + widths[5]
            channels_after[f"inception{name}"] = n
            if name in POOLS_AFTER:
                pool, window = POOLS_AFTER[name]
                parts[pool] = nn.MaxPool2d(window, 2, ceil_mode=True)
        extra = {name: self._aux_head(channels_after[block], classes, norm_act) for block, name in AUX_HEADS.items()} if self.aux else {}
        head = mask_weights(self.drop, nn.Linear(n, classes))
        tail = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "dropout": self.drop(), "fc": head}
        net = NetWithAuxHeads({**parts, **extra, **tail}, AUX_HEADS if self.aux else {}, self.aux, STAGE_GROUPS)
        initialize(net, self.init, head)
        init_aux_heads([m.get_submodule("fc2") for m in extra.values()])  # type: ignore[misc]
        return net

    def _aux_head(self, n: int, classes: int, norm_act: NormAct) -> nn.Module:
        """Make an auxiliary head on a map of n channels."""
        return named_sequential({
            "pool": AdaptiveMean(4), "conv": basic_conv(n, 128, norm_act), "flatten": nn.Flatten(),
            "fc1": nn.Linear(4 * 4 * 128, 1024 * width_of(self.act)), "act": self.act(),
            "drop": self.aux_drop(), "fc2": mask_weights(self.aux_drop, nn.Linear(1024, classes)),
        })  # fmt: skip


def inception_block(n: int, widths: tuple[int, ...], norm_act: NormAct, kernel: int) -> Branches:
    """Make a block of four parallel paths over n channels; `widths` are those of a row of `BLOCKS`."""
    n1, n3_in, n3, n5_in, n5, n_pool = widths
    paths = {
        "branch1": basic_conv(n, n1, norm_act),
        "branch2": nn.Sequential(basic_conv(n, n3_in, norm_act), basic_conv(n3_in, n3, norm_act, 3)),
        "branch3": nn.Sequential(basic_conv(n, n5_in, norm_act), basic_conv(n5_in, n5, norm_act, kernel)),
        "branch4": nn.Sequential(nn.MaxPool2d(3, 1, padding=1), basic_conv(n, n_pool, norm_act)),
    }
    return Branches(paths, [(name,) for name in paths])
