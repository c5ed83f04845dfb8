"""CNN-F, CNN-M and CNN-S: the fast, medium and slow nets between AlexNet and VGG."""

from __future__ import annotations

import dataclasses

from torch import nn

from goodfit.models.classic import ClassicFamily, ConvSpec

MIN_SIDE = 96  # of images: from smaller ones these layers leave nothing
# As in the models that the authors published. The paper's table pads conv2 of CNN-S by 1, which gives other maps than theirs.
FAST = (
    ConvSpec(64, 11, 4, lrn=True, pool=(3, 2), ceil_mode=True),
    ConvSpec(256, 5, 1, 2, lrn=True, pool=(3, 2), ceil_mode=True),
    ConvSpec(256, 3, 1, 1),
    ConvSpec(256, 3, 1, 1),
    ConvSpec(256, 3, 1, 1, pool=(3, 2), ceil_mode=True),
)
MEDIUM = (
    ConvSpec(96, 7, 2, lrn=True, pool=(3, 2), ceil_mode=True),
    ConvSpec(256, 5, 2, 1, lrn=True, pool=(3, 2), ceil_mode=True),
    ConvSpec(512, 3, 1, 1),
    ConvSpec(512, 3, 1, 1),
    ConvSpec(512, 3, 1, 1, pool=(3, 2), ceil_mode=True),
)
SLOW = (
    ConvSpec(96, 7, 2, lrn=True, pool=(3, 3), ceil_mode=True),
    ConvSpec(256, 5, 1, pool=(2, 2), ceil_mode=True),
    ConvSpec(512, 3, 1, 1),
    ConvSpec(512, 3, 1, 1),
    ConvSpec(512, 3, 1, 1, pool=(3, 3), ceil_mode=True),
)


@dataclasses.dataclass(frozen=True)
class VggF(ClassicFamily):
    """CNN-F, the fast one: AlexNet with fewer filters and a stride of 4 in its first conv. Small images are treated as in alexnet.

    Helps: as the cheapest of the three; comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 61 million parameters, 0.72 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014 (return of the devil in the details); CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self.build_numbered(FAST, MIN_SIDE, classes, channels, size)


@dataclasses.dataclass(frozen=True)
class VggM(ClassicFamily):
    """CNN-M, the medium one: a stride of 2 and smaller filters in the first conv, twice the filters in the last three.

    Helps: comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 103 million parameters, 1.7 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014; after Zeiler & Fergus 2014; CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self.build_numbered(MEDIUM, MIN_SIDE, classes, channels, size)


@dataclasses.dataclass(frozen=True)
class VggS(ClassicFamily):
    """CNN-S, the slow one: CNN-M with a dense second conv on larger maps, and larger pools.

    Helps: comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 103 million parameters, 2.6 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014; after Sermanet et al. 2014 (OverFeat); CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self.build_numbered(SLOW, MIN_SIDE, classes, channels, size)
