"""Swift: the net that learns small images in seconds."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.core.errors import UsageError
from goodfit.core.settings import Count, Positive
from goodfit.layers import noise
from goodfit.layers.activation import Gelu, width_of
from goodfit.layers.data_init import Whitening
from goodfit.layers.init import initialize
from goodfit.layers.noise import mask_weights
from goodfit.layers.norm import Batch
from goodfit.layers.pool import Max
from goodfit.models.blocks import NormAct, conv_norm_act, named_sequential, require_side

MAX_SIDE_AFTER_STEM = 48  # the first conv's stride doubles until the shorter side of its map is at most this
MAX_SIDE_OF_LAST_MAP = 4  # groups halve the map until its shorter side is at most this
MIN_GROUPS = 3  # as far as there are pixels
MAX_WHITENING_FILTERS = 96  # of the first conv: with larger patches only the strongest directions get a filter


class GlobalMaxPool(nn.Module):
    """The maximum of every channel over its map: [B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Scale(nn.Module):
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
    """A 2x2 conv that whitens patches, then groups of two 3x3 convs with a pool after the first, the maximum of each map, and a linear
    head whose scores are multiplied by `scale`.

    Groups have `width` channels times the factors of `growth`, further ones as many as the last. The first conv has a filter for each
    principal direction of a patch and its opposite (96 at most); init=whitening sets them from training images. With `identity` the first
    filters of each 3x3 conv start as the identity on its input channels; its other filters start as init says. Larger images give the
    first conv a stride.

    Helps: CIFAR-like images up to about 64 pixels in a few epochs, at high learning rates and with label smoothing.
    Hurts: large images with fine classes; long trainings, where a resnet ends up more accurate.
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
    growth: tuple[Positive, ...] = (1.0, 4.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.growth:
            raise UsageError("swift: expected growth to have a factor for the first group at least, received none.")

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        require_side(self, size, 4)
        norm_act, stride, side = NormAct(self.norm, self.act), 1, min(size)
        while side > MAX_SIDE_AFTER_STEM:
            stride, side = 2 * stride, side // 2
        kernel = 2 * stride
        n_in = min(2 * channels * kernel**2, MAX_WHITENING_FILTERS)
        whiten = nn.Conv2d(channels, n_in * width_of(self.act), kernel, stride)
        parts: dict[str, nn.Module] = {"whiten": named_sequential({"conv": whiten, "act": self.act()})}
        side = (min(size) - kernel) // stride + 1
        groups = 0
        while side > MAX_SIDE_OF_LAST_MAP or (groups < MIN_GROUPS and side > 1):
            groups += 1
            n = max(1, round(self.width * self.growth[min(groups, len(self.growth)) - 1]))
            pooled, second = conv_norm_act(n_in, n, norm_act, pool=Max()), conv_norm_act(n, n, norm_act)
            parts[f"group{groups}"], n_in, side = named_sequential({"first": pooled, "second": second}), n, side // 2
        head = mask_weights(self.drop, nn.Linear(n_in, classes, bias=False))
        net = named_sequential({**parts, "peak": GlobalMaxPool(), "scale": Scale(self.scale), "drop": self.drop(), "head": head})
        initialize(net, self.init, head)
        if self.identity:
            init_identity(net)
        return net


@torch.no_grad()
def init_identity(net: nn.Module) -> None:
    """Set the first filters of each 3x3 conv to the identity: filter i passes input channel i on."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.dirac_(module.weight[: module.in_channels])
