"""Swift: the net that learns small images in seconds."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.core.settings import Count, Positive
from goodfit.layers import noise
from goodfit.layers.activation import Gelu, width_of
from goodfit.layers.data_init import Whitening
from goodfit.layers.init import initialize
from goodfit.layers.noise import mask_weights
from goodfit.layers.norm import Batch
from goodfit.layers.pool import Max
from goodfit.models.blocks import Look, conv_norm_act, named, needs_size

FINEST = 48  # the first conv strides until the shorter side of its map is at most this
COARSEST = 4  # groups halve the map until it is at most this; there are three at least, as far as there are pixels
GROUPS = 3
MOST = 96  # filters of the first conv: with larger patches only the strongest directions have one
WIDER = 4  # how many times the channels of the first group the others have


class Peak(nn.Module):
    """The largest number of every channel's map: [B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Scaled(nn.Module):
    """Its input times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:.4g}"

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@dataclasses.dataclass(frozen=True)
class Swift(Model):
    """A 2x2 conv that whitens patches, then groups of two 3x3 convs with a pool after the first, the largest number of each map, and a
    linear head whose scores are `scale` times as large.

    The first group has `width` channels, later ones four times as many. The first conv has a filter for each direction of a patch and
    its opposite (96 at most); init=whitening fills it from training images. With `identity` the 3x3 convs start by handing their input
    channels on, as far as there are; their other filters start as init says. Larger images give the first conv a stride.

    Helps: CIFAR-like images up to about 64 pixels in a few epochs, at high learning rates and with label smoothing.
    Hurts: large images with fine classes; long trainings, where a resnet ends higher.
    Cost: 2.0 million parameters and 0.12 billion multiply-adds for a 32x32 image at width 64.
    Source: Jordan 2024 (94 % on CIFAR-10 in 3.29 seconds: airbench94); Page 2018 (how to train your ResNet).
    """

    width: Count = 64
    act: Activation = Gelu()
    norm: Norm = Batch(momentum=0.4)
    init: Init = Whitening()
    drop: Noise = noise.None_()
    scale: Positive = 1 / 9
    identity: bool = True

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        needs_size(self, size, 4)
        look, stride, side = Look(self.norm, self.act), 1, min(size)
        while side > FINEST:
            stride, side = 2 * stride, side // 2
        kernel = 2 * stride
        n_in = min(2 * channels * kernel**2, MOST)
        whiten = nn.Conv2d(channels, n_in * width_of(self.act), kernel, stride)
        parts: dict[str, nn.Module] = {"whiten": named({"conv": whiten, "act": self.act()})}
        side = (min(size) - kernel) // stride + 1
        groups = 0
        while side > COARSEST or (groups < GROUPS and side > 1):
            groups += 1
            n = self.width if groups == 1 else WIDER * self.width
            pooled, second = conv_norm_act(n_in, n, look, pool=Max()), conv_norm_act(n, n, look)
            parts[f"group{groups}"], n_in, side = named({"first": pooled, "second": second}), n, side // 2
        head = mask_weights(self.drop, nn.Linear(n_in, classes, bias=False))
        net = named({**parts, "peak": Peak(), "scale": Scaled(self.scale), "drop": self.drop(), "head": head})
        initialize(net, self.init, head)
        if self.identity:
            hand_on(net)
        return net


@torch.no_grad()
def hand_on(net: nn.Module) -> None:
    """Let the first filters of each 3x3 conv of a group hand on the input channel of their own number."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.dirac_(module.weight[: module.in_channels])
