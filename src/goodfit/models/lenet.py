"""LeNet-5, the conv net that read checks."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.layers import noise, norm
from goodfit.layers.activation import Tanh, width_of
from goodfit.layers.init import Xavier, initialize
from goodfit.models.blocks import Look, biased, linear_norm_act, named, needs_size
from goodfit.models.classic import map_of

FULL = 32  # digits of 28 pixels were put on 32; smaller images get a border in the first conv
WHOLE = 8  # a smaller map gets a border before the second conv, so that one is left


@dataclasses.dataclass(frozen=True)
class Lenet(Model):
    """Two 5x5 convs, each with a 2x2 pool, and three fully connected layers: conv, pool, conv, pool, fc, fc, scores.

    Made for 32 pixels, and for 28 with a border of 2. Pools are means (or "max") without the weights they once had, the second conv sees
    all of the first's maps, and the scores are linear. A norm acts on the convs.

    Helps: digits and other small gray images; to see a whole conv net at a glance.
    Hurts: photos: six filters in the first conv are few.
    Cost: 62 thousand parameters and 0.42 million multiply-adds for digits of 28 pixels.
    Source: LeCun et al. 1998; CS231n, CNN architectures.
    """

    pool: Literal["mean", "max"] = "mean"
    act: Activation = Tanh()
    norm: Norm = norm.None_()
    init: Init = Xavier()
    drop: Noise = noise.None_()

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        needs_size(self, size, 4)
        side = min(size)
        border = 2 if side < FULL else 0
        border2 = 2 if (side + 2 * border - 4) // 2 < WHOLE else 0
        parts: dict[str, nn.Module] = {"conv1": self._conv(channels, 6, border), "conv2": self._conv(6, 16, border2)}
        maps, height, width = map_of(named(parts), channels, size)
        plain = Look(norm.None_(), self.act)
        parts["flatten"] = nn.Flatten()
        parts["fc1"] = linear_norm_act(maps * height * width, 120, plain, self.drop)
        parts["fc2"] = linear_norm_act(120, 84, plain, self.drop)
        head = nn.Linear(84, classes)
        net = named({**parts, "head": head})
        initialize(net, self.init, head)
        return net

    def _conv(self, n_in: int, n: int, border: int) -> nn.Module:
        look = Look(self.norm, self.act)
        made = nn.Conv2d(n_in, n * width_of(self.act), 5, padding=border, bias=biased(self.norm, look.order))
        pool = nn.AvgPool2d(2) if self.pool == "mean" else nn.MaxPool2d(2)
        return named({"conv": made, **look.after(n), "pool": pool})
