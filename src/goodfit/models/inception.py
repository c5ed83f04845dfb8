"""Inception v3, with the parameter names of torchvision."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.layers.init import initialize
from goodfit.layers.noise import mask_weights
from goodfit.models.blocks import Kernel, Look, Order, named, small_stem
from goodfit.models.branches import Branches, Branching, Tapped, calm, unit
from goodfit.models.classic import MeanTo


class Conv(NamedTuple):
    """One conv of a block: its name, channels, kernel and stride."""

    name: str
    n: int
    kernel: Kernel = 1
    stride: int = 1


Path = tuple[Conv | str, ...]  # convs one after the other; "mean" and "max" are pools
ROW, COLUMN = (1, 7), (7, 1)  # a 7x7 kernel in two factors


def fine(pool: int) -> tuple[Path, ...]:
    """A block for 35x35 maps: two 3x3 convs beside a 5x5."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)),
        ("mean", Conv("branch_pool", pool)),
    )


def factored(n: int) -> tuple[Path, ...]:
    """A block for 17x17 maps: 7x7 kernels as 1x7 and 7x1, n channels inside."""
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", n), Conv("branch7x7_2", n, ROW), Conv("branch7x7_3", 192, COLUMN)),
        (
            Conv("branch7x7dbl_1", n), Conv("branch7x7dbl_2", n, COLUMN), Conv("branch7x7dbl_3", n, ROW),
            Conv("branch7x7dbl_4", n, COLUMN), Conv("branch7x7dbl_5", 192, ROW),
        ),
        ("mean", Conv("branch_pool", 192)),
    )  # fmt: skip


def wide() -> tuple[Path, ...]:
    """A block for 8x8 maps: 1x3 and 3x1 side by side."""
    single, double = Conv("branch3x3_1", 384), (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, 3))
    return (
        (Conv("branch1x1", 320),),
        (single, Conv("branch3x3_2a", 384, (1, 3))),
        (single, Conv("branch3x3_2b", 384, (3, 1))),
        (*double, Conv("branch3x3dbl_3a", 384, (1, 3))),
        (*double, Conv("branch3x3dbl_3b", 384, (3, 1))),
        ("mean", Conv("branch_pool", 192)),
    )


REDUCE_TO_17: tuple[Path, ...] = (
    (Conv("branch3x3", 384, 3, 2),),
    (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3, 2)),
    ("max",),
)
REDUCE_TO_8: tuple[Path, ...] = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 2)),
    (Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, ROW), Conv("branch7x7x3_3", 192, COLUMN), Conv("branch7x7x3_4", 192, 3, 2)),
    ("max",),
)
BLOCKS = {
    "Mixed_5b": fine(32), "Mixed_5c": fine(64), "Mixed_5d": fine(64), "Mixed_6a": REDUCE_TO_17,
    "Mixed_6b": factored(128), "Mixed_6c": factored(160), "Mixed_6d": factored(160), "Mixed_6e": factored(192),
    "Mixed_7a": REDUCE_TO_8, "Mixed_7b": wide(), "Mixed_7c": wide(),
}  # fmt: skip
TAPPED, TAP = "Mixed_6e", "AuxLogits"
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2")
GROUPS = {
    "stem": STEM,
    "mixed5": ("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    "mixed6": (TAP, *(f"Mixed_6{x}" for x in "abcde")),
    "mixed7": ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}


@dataclasses.dataclass(frozen=True)
class InceptionV3(Branching):
    """GoogLeNet's idea with factored filters: 5x5 as two 3x3, 7x7 as 1x7 and 7x1, and batch norm; made for images of 299 pixels.

    In training an auxiliary head classifies what block 6e puts out; its loss counts `aux` times, and 0 leaves it out. The imagenet stem
    divides the sides by 8 and needs 75 pixels; the small one by 2, and it pads every conv; auto takes the small one below 96 pixels.
    `drop` is noise before the head. Names and shapes are torchvision's, so its published weights fit.

    Helps: transfer, with images of 299 pixels.
    Hurts: small images: most of its depth works on maps of a few pixels.
    Cost: 5.7 billion multiply-adds at 299 pixels, 1.2 billion at 32; 21.8 million parameters and a head, and 2.6 million for the
        auxiliary one.
    Source: Szegedy et al. 2015 (rethinking the inception architecture); CS231n, CNN architectures.
    """

    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = small_stem(self, size, 75)
        look = Look(self.norm, self.act, self.order)
        parts: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": unit(channels, 32, look, 3, stride=1 if small else 2, pad=small),
            "Conv2d_2a_3x3": unit(32, 32, look, 3, pad=small),
            "Conv2d_2b_3x3": unit(32, 64, look, 3),
            "maxpool1": nn.Identity() if small else nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": unit(64, 80, look),
            "Conv2d_4a_3x3": unit(80, 192, look, 3, pad=small),
            "maxpool2": nn.MaxPool2d(3, 2, padding=int(small)),
        }
        n, extra = 192, {}
        for name, paths in BLOCKS.items():
            parts[name], n = block(n, paths, look, small)
            if name == TAPPED and self.aux:
                parts[TAP] = extra[TAP] = self._extra(n, classes, look)
        head = mask_weights(self.drop, nn.Linear(n, classes))
        tail = {"avgpool": nn.AdaptiveAvgPool2d(1), "dropout": self.drop(), "flatten": nn.Flatten(), "fc": head}
        net = Tapped({**parts, **tail}, {TAPPED: TAP} if self.aux else {}, self.aux, GROUPS)
        initialize(net, self.init, head)
        calm([m.get_submodule("fc") for m in extra.values()])  # type: ignore[misc]
        return net

    def _extra(self, n: int, classes: int, look: Look) -> nn.Module:
        """The auxiliary head on a map of n channels."""
        return named({
            "pool": FiveByFive(5), "conv0": unit(n, 128, look), "conv1": unit(128, 768, look, 5, pad=False),
            "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(768, classes),
        })  # fmt: skip


class FiveByFive(MeanTo):
    """Means of windows of 5 pixels, 3 apart, which of a 17x17 map are 5x5; a grid of 5x5 where the map is smaller."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 5, 3) if min(x.shape[2:]) >= 17 else super().forward(x)


def block(n_in: int, paths: tuple[Path, ...], look: Look, small: bool) -> tuple[Branches, int]:
    """A block over n_in channels, and how many it puts out; `small` pads what makes the map smaller too."""
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
                case Conv(name, width, kernel, stride):
                    children.setdefault(name, unit(n, width, look, kernel, stride=stride, pad=small or stride == 1))
                    n = width
        total += n
    return Branches(children, [tuple(x if isinstance(x, str) else x.name for x in path) for path in paths]), total
