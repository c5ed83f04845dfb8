"""Inception v3, with the parameter names of torchvision."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.layers.init import initialize
from goodfit.layers.noise import mask_weights
from goodfit.models.blocks import Kernel, NormAct, Order, named_sequential, uses_small_stem
from goodfit.models.branches import Branches, InceptionFamily, NetWithAuxHeads, basic_conv, init_aux_heads
from goodfit.models.classic import AdaptiveMean


class BranchConv(NamedTuple):
    """One conv of a block: its name, output channels, kernel and stride."""

    name: str
    channels: int
    kernel: Kernel = 1
    stride: int = 1


Path = tuple[BranchConv | str, ...]  # convs in sequence; "mean" and "max" are pools
ROW, COLUMN = (1, 7), (7, 1)  # kernels: the two factors of 7x7


def inception_a(pool: int) -> tuple[Path, ...]:
    """torchvision's InceptionA, for 35x35 maps: two 3x3 convs beside a 5x5."""
    return (
        (BranchConv("branch1x1", 64),),
        (BranchConv("branch5x5_1", 48), BranchConv("branch5x5_2", 64, 5)),
        (BranchConv("branch3x3dbl_1", 64), BranchConv("branch3x3dbl_2", 96, 3), BranchConv("branch3x3dbl_3", 96, 3)),
        ("mean", BranchConv("branch_pool", pool)),
    )


def inception_c(n: int) -> tuple[Path, ...]:
    """torchvision's InceptionC, for 17x17 maps: 7x7 kernels factored into 1x7 and 7x1, with n channels inside."""
    return (
        (BranchConv("branch1x1", 192),),
        (BranchConv("branch7x7_1", n), BranchConv("branch7x7_2", n, ROW), BranchConv("branch7x7_3", 192, COLUMN)),
        (
            BranchConv("branch7x7dbl_1", n), BranchConv("branch7x7dbl_2", n, COLUMN), BranchConv("branch7x7dbl_3", n, ROW),
            BranchConv("branch7x7dbl_4", n, COLUMN), BranchConv("branch7x7dbl_5", 192, ROW),
        ),
        ("mean", BranchConv("branch_pool", 192)),
    )  # fmt: skip


def inception_e() -> tuple[Path, ...]:
    """torchvision's InceptionE, for 8x8 maps: 1x3 and 3x1 in parallel."""
    single, double = BranchConv("branch3x3_1", 384), (BranchConv("branch3x3dbl_1", 448), BranchConv("branch3x3dbl_2", 384, 3))
    return (
        (BranchConv("branch1x1", 320),),
        (single, BranchConv("branch3x3_2a", 384, (1, 3))),
        (single, BranchConv("branch3x3_2b", 384, (3, 1))),
        (*double, BranchConv("branch3x3dbl_3a", 384, (1, 3))),
        (*double, BranchConv("branch3x3dbl_3b", 384, (3, 1))),
        ("mean", BranchConv("branch_pool", 192)),
    )


INCEPTION_B: tuple[Path, ...] = (  # from 35x35 maps to 17x17
    (BranchConv("branch3x3", 384, 3, 2),),
    (BranchConv("branch3x3dbl_1", 64), BranchConv("branch3x3dbl_2", 96, 3), BranchConv("branch3x3dbl_3", 96, 3, 2)),
    ("max",),
)
INCEPTION_D: tuple[Path, ...] = (  # from 17x17 maps to 8x8
    (BranchConv("branch3x3_1", 192), BranchConv("branch3x3_2", 320, 3, 2)),
    (
        BranchConv("branch7x7x3_1", 192),
        BranchConv("branch7x7x3_2", 192, ROW),
        BranchConv("branch7x7x3_3", 192, COLUMN),
        BranchConv("branch7x7x3_4", 192, 3, 2),
    ),
    ("max",),
)
BLOCKS = {
    "Mixed_5b": inception_a(32), "Mixed_5c": inception_a(64), "Mixed_5d": inception_a(64), "Mixed_6a": INCEPTION_B,
    "Mixed_6b": inception_c(128), "Mixed_6c": inception_c(160), "Mixed_6d": inception_c(160), "Mixed_6e": inception_c(192),
    "Mixed_7a": INCEPTION_D, "Mixed_7b": inception_e(), "Mixed_7c": inception_e(),
}  # fmt: skip
BLOCK_BEFORE_AUX_HEAD, AUX_HEAD = "Mixed_6e", "AuxLogits"
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2")
STAGE_GROUPS = {
    "stem": STEM,
    "mixed5": ("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    "mixed6": (AUX_HEAD, *(f"Mixed_6{x}" for x in "abcde")),
    "mixed7": ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}


@dataclasses.dataclass(frozen=True)
class InceptionV3(InceptionFamily):
    """GoogLeNet's idea with factored filters: 5x5 as two 3x3, 7x7 as 1x7 and 7x1, and batch norm; designed for images of 299 pixels.

    In training, an auxiliary head classifies the output of block 6e; its loss counts `aux` times, and 0 removes the head. The imagenet
    stem divides the sides by 8 and needs 75 pixels; the small one divides them by 2 and pads every conv; auto takes the small one below
    96 pixels. `drop` is noise before the head. Names and shapes are torchvision's, so its published weights fit.

    Helps: transfer, with images of 299 pixels.
    Hurts: small images: most of its depth works on maps of a few pixels.
    Cost: 5.7 billion multiply-adds at 299 pixels, 1.2 billion at 32; 21.8 million parameters and a head, and 2.6 million for the
        auxiliary one.
    Source: Szegedy et al. 2015 (rethinking the inception architecture); CS231n, CNN architectures.
    """

    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = uses_small_stem(self, size, 75)
        norm_act = NormAct(self.norm, self.act, self.order)
        parts: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": basic_conv(channels, 32, norm_act, 3, stride=1 if small else 2, pad=small),
            "Conv2d_2a_3x3": basic_conv(32, 32, norm_act, 3, pad=small),
            "Conv2d_2b_3x3": basic_conv(32, 64, norm_act, 3),
            "maxpool1": nn.Identity() if small else nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": basic_conv(64, 80, norm_act),
            "Conv2d_4a_3x3": basic_conv(80, 192, norm_act, 3, pad=small),
            "maxpool2": nn.MaxPool2d(3, 2, padding=int(small)),
        }
        n, extra = 192, {}
        for name, paths in BLOCKS.items():
            parts[name], n = build_block(n, paths, norm_act, small)
            if name == BLOCK_BEFORE_AUX_HEAD and self.aux:
                parts[AUX_HEAD] = extra[AUX_HEAD] = self._aux_head(n, classes, norm_act)
        head = mask_weights(self.drop, nn.Linear(n, classes))
        tail = {"avgpool": nn.AdaptiveAvgPool2d(1), "dropout": self.drop(), "flatten": nn.Flatten(), "fc": head}
        net = NetWithAuxHeads({**parts, **tail}, {BLOCK_BEFORE_AUX_HEAD: AUX_HEAD} if self.aux else {}, self.aux, STAGE_GROUPS)
        initialize(net, self.init, head)
        init_aux_heads([m.get_submodule("fc") for m in extra.values()])  # type: ignore[misc]
        return net

    def _aux_head(self, n: int, classes: int, norm_act: NormAct) -> nn.Module:
        """Make the auxiliary head on a map of n channels."""
        return named_sequential({
            "pool": Mean5x5(5), "conv0": basic_conv(n, 128, norm_act), "conv1": basic_conv(128, 768, norm_act, 5, pad=False),
            "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(768, classes),
        })  # fmt: skip


class Mean5x5(AdaptiveMean):
    """Means of 5x5 windows at a stride of 3, which turn a 17x17 map into 5x5; a smaller map is averaged to 5x5."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 5, 3) if min(x.shape[2:]) >= 17 else super().forward(x)


def build_block(n_in: int, paths: tuple[Path, ...], norm_act: NormAct, small: bool) -> tuple[Branches, int]:
    """Make a block over n_in channels; returns it and its output channels. `small` also pads the layers that shrink the map."""
    children: dict[str, nn.Module] = {}
    total = 0
    for path in paths:
        n = n_in
        for step in path:
            match step:
                case "mean":
                    children[step] = nn.AvgPool2d(3, 1, padding=1)
                case "max":
                    children[step] = nn.MaxPool2d(3, 2, padding=int(small))
                case BranchConv(name, width, kernel, stride):
                    children.setdefault(name, basic_conv(n, width, norm_act, kernel, stride=stride, pad=small or stride == 1))
                    n = width
        total += n
    return Branches(children, [tuple(x if isinstance(x, str) else x.name for x in path) for path in paths]), total
