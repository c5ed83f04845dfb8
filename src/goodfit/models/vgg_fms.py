"""CNN-F, CNN-M and CNN-S: the fast, medium and slow nets between AlexNet and VGG."""

from __future__ import annotations

import dataclasses

from torch import nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.layers import norm
from goodfit.layers.activation import Relu
from goodfit.layers.init import He
from goodfit.layers.noise import Dropout
from goodfit.models.blocks import Look, Stem, needs_size, small_stem
from goodfit.models.classic import Layer, Width, numbered, start_calm, units

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
class Chatfield(Model):
    """What the three have in common: five convs, two fully connected layers and the scores."""

    stem: Stem = "auto"
    hidden: Width = "auto"
    act: Activation = Relu()
    norm: Norm = norm.None_()
    init: Init = He()
    drop: Noise = Dropout()

    def _net(self, layers: tuple[Layer, ...], classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = small_stem(self.stem, size)
        needs_size(self, size, 8 if small else 96)
        made = tuple(layer.small() for layer in layers) if small else layers
        look = Look(self.norm, self.act)
        net, head = numbered(made, units(self.hidden, small), look, self.drop, classes, channels, size)
        start_calm(net, self.norm, self.init, head)
        return net


@dataclasses.dataclass(frozen=True)
class VggF(Chatfield):
    """CNN-F, the fast one: AlexNet with fewer filters and a stride of 4 in its first conv. Small images are treated as in alexnet.

    Helps: as the cheapest net of its time; comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 61 million parameters, 0.72 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014 (return of the devil in the details); CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self._net(FAST, classes, channels, size)


@dataclasses.dataclass(frozen=True)
class VggM(Chatfield):
    """CNN-M, the medium one: a stride of 2 and smaller filters in the first conv, twice the filters in the last three.

    Helps: comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 103 million parameters, 1.7 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014; after Zeiler & Fergus 2014; CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self._net(MEDIUM, classes, channels, size)


@dataclasses.dataclass(frozen=True)
class VggS(Chatfield):
    """CNN-S, the slow one: CNN-M with a dense second conv on larger maps, and larger pools.

    Helps: comparisons with the lecture's table.
    Hurts: accuracy for its size, as alexnet.
    Cost: 103 million parameters, 2.6 billion multiply-adds at 224 pixels.
    Source: Chatfield et al. 2014; after Sermanet et al. 2014 (OverFeat); CS231n, CNN architectures.
    """

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        return self._net(SLOW, classes, channels, size)
