"""MobileNet v2, with the parameter names of torchvision."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.core.settings import Positive
from goodfit.layers import noise
from goodfit.layers.activation import Relu6, width_of
from goodfit.layers.init import He, initialize
from goodfit.layers.noise import Dropout, mask_weights, scale_to_depth
from goodfit.layers.norm import Batch, normalizes
from goodfit.models.blocks import Kernel, NormAct, Order, StagedSequential, Stem, make_conv, scale_residual_branches, uses_small_stem

STAGES = (  # expansion (inner channels over input channels of a block), output channels, blocks, and stride of the first block
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
STEM_CHANNELS, TOP_CHANNELS = 32, 1280  # before and after the blocks


class InvertedResidual(nn.Module):
    """A residual block that is wide inside: 1x1 conv to the inner width, depthwise 3x3 conv, 1x1 conv back, without activation.

    The input is added where its shape is the output's. `noise` acts on the branch, where there is a sum, or on its last conv's weights.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int, norm_act: NormAct, noise: Noise) -> None:
        super().__init__()
        inner = n_in * expansion
        layers = [conv_layer(n_in, inner, norm_act, 1)] if expansion > 1 else []
        layers.append(conv_layer(inner, inner, norm_act, 3, stride=stride, groups=inner))
        last = mask_weights(noise, make_conv(inner, n_out, 1, norm=norm_act.norm))
        self.conv = nn.Sequential(*layers, last, norm_act.norm(n_out))
        self.has_shortcut = stride == 1 and n_in == n_out
        self.noise = noise() if self.has_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, W] -> [B, n_out, H / stride, W / stride]."""
        branch: Tensor = self.noise(self.conv(x))
        return x + branch if self.has_shortcut else branch


def conv_layer(n_in: int, n_out: int, norm_act: NormAct, kernel: Kernel, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Make a conv, norm and activation with torchvision's names, which are numbers."""
    conv = make_conv(n_in, n_out * width_of(norm_act.act), kernel, stride=stride, norm=norm_act.norm, order=norm_act.order, groups=groups)
    return nn.Sequential(conv, *norm_act.build(n_out).values())


@dataclasses.dataclass(frozen=True)
class MobilenetV2(Model):
    """A net of few multiply-adds: depthwise convs with 1x1 convs between them, in residual blocks that are wide inside.

    `width` multiplies all channels (rounded to multiples of 8), but the last 1280 only where it is above 1. The imagenet stem and the
    second stage have a stride of 2; with the small stem neither has; auto takes the small one below 96 pixels. Names and shapes are
    torchvision's, so its published weights fit at width 1. `drop` is noise before the head, `branch` noise on the branch of each block.

    Helps: slow processors; transfer where the model has to be small.
    Hurts: on a GPU it is slower than its multiply-adds suggest: depthwise convs are limited by memory bandwidth.
    Cost: 0.30 billion multiply-adds at 224 pixels, 0.09 billion at 32; 2.2 million parameters and a head, at width 1.
    Source: Sandler et al. 2018 (inverted residuals); Howard et al. 2017 (depthwise separable convs, width multiplier); CS231n,
        CNN architectures.
    """

    width: Positive = 1.0
    stem: Stem = "auto"
    act: Activation = Relu6()
    norm: Norm = Batch()
    init: Init = He()
    drop: Noise = Dropout(0.2)
    branch: Noise = noise.None_()
    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = uses_small_stem(self, size, 32)
        norm_act = NormAct(self.norm, self.act, self.order)
        n = round_channels(STEM_CHANNELS * self.width)
        features: list[nn.Module] = [conv_layer(channels, n, norm_act, 3, stride=1 if small else 2)]
        groups: dict[str, tuple[str, ...]] = {"stem": ("features.0",)}
        blocks = sum(length for _, _, length, _ in STAGES)
        for i, (expansion, width, length, stride) in enumerate(STAGES, start=1):
            groups[f"stage{i}"] = tuple(f"features.{len(features) + j}" for j in range(length))
            for j in range(length):
                step = 1 if j or (small and i == 2) else stride
                branch = scale_to_depth(self.branch, len(features) / blocks)
                features.append(InvertedResidual(n, n := round_channels(width * self.width), step, expansion, norm_act, branch))
        top = round_channels(TOP_CHANNELS * max(1.0, self.width))
        groups["top"] = (f"features.{len(features)}",)
        features.append(conv_layer(n, top, norm_act, 1))
        head = mask_weights(self.drop, nn.Linear(top, classes))
        parts = {"features": nn.Sequential(*features), "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        net = StagedSequential({**parts, "classifier": nn.Sequential(self.drop(), head)}, groups)
        initialize(net, self.init, head)
        if not normalizes(self.norm):
            scale_residual_branches([m.conv[-2] for m in features if isinstance(m, InvertedResidual) and m.has_shortcut])  # type: ignore[misc]
        return net


def round_channels(channels: float) -> int:
    """Round a number of channels to a multiple of 8: the nearest, or the next one up where that would lose more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
