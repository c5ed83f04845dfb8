"""CNN-F, CNN-M and CNN-S: the fast, medium and slow nets between AlexNet and VGG."""

from __future__ import annotations

import dataclasses

from torch import nn

from goodfit.models.classic import Classic, Layer

LEAST = 96  # the smallest side that these layers leave something of
# As in the models that the authors published; the paper's table has CNN-S with a padding of 1 in conv2, which gives maps they did not use.
FAST = (
    Layer(64, 11, 4, lrn=True, pool=(3, 2), over=True),
    Layer(256, 5, 1, 2, lrn=True, pool=(3, 2), over=True),
    Layer(256, 3, 1, 1),
    Layer(256, 3, 1, 1),
    Layer(256, 3, 1, 1, pool=(3, 2), over=True),
)
MEDIUM = (
    Layer(96, 7, 2, lrn=True, pool=(3, 2), over=True),
    Layer(256, 5, 2, 1, lrn=True, pool=(3, 2), over=True),
    Layer(512, 3, 1, 1),
    Layer(512, 3, 1, 1),
    Layer(512, 3, 1, 1, pool=(3, 2), over=True),
)
SLOW = (
    Layer(96, 7, 2, lrn=True, pool=(3, 3), over=True),
    Layer(256, 5, 1, pool=(2, 2), over=True),
    Layer(512, 3, 1, 1),
    Layer(512, 3, 1, 1),
    Layer(512, 3, 1, 1, pool=(3, 3), over=True),
)


@dataclasses.dataclass(frozen=True)
class VggF(Classic):
    """CNN-F, the fast one: AlexNet with fewer filters and a stride of 4 in its first conv. Small images are treated as in alexnet.

    Helps: as the cheapest net of its time; comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 61 million parameters, 0.72 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014 (return of the devil in the details); CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self.numbered(FAST, LEAST, classes, channels, size)


@dataclasses.dataclass(frozen=True)
class VggM(Classic):
    """CNN-M, the medium one: a stride of 2 and smaller filters in the first conv, twice the filters in the last three.

    Helps: comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 103 million parameters, 1.7 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014; after Zeiler & Fergus 2014; CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self.numbered(MEDIUM, LEAST, classes, channels, size)


@dataclasses.dataclass(frozen=True)
class VggS(Classic):
    """CNN-S, the slow one: CNN-M with a dense second conv on larger maps, and larger pools.

    Helps: comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 103 million parameters, 2.6 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014; after Sermanet et al. 2014 (OverFeat); CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self.numbered(SLOW, LEAST, classes, channels, size)
