"""Network in network: convs with small fully connected nets at every pixel, and the mean over the map instead of large layers."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.layers import norm
from goodfit.layers.activation import Relu, width_of
from goodfit.layers.init import He
from goodfit.layers.noise import Dropout
from goodfit.models.blocks import NormAct, Stem, global_average_pool, named_sequential, needs_bias, uses_small_stem
from goodfit.models.classic import init_with_small_head

# Each stage: (filters, kernel, stride, padding) of its conv, and the filters of the 1x1 convs after it.
IMAGENET_STAGES = (
    ((96, 11, 4, 0), (96, 96)),
    ((256, 5, 1, 2), (256, 256)),
    ((384, 3, 1, 1), (384, 384)),
    ((1024, 3, 1, 1), (1024,)),
)
CIFAR_STAGES = (((192, 5, 1, 2), (160, 96)), ((192, 5, 1, 2), (192, 192)), ((192, 3, 1, 1), (192,)))


class PixelLinear(nn.Linear):
    """A linear layer at every pixel, which is a 1x1 conv: [B, C, H, W] -> [B, K, H, W]. As an `nn.Linear` it can be the head."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


@dataclasses.dataclass(frozen=True)
class Nin(Model):
    """Stages of a conv and 1x1 convs after it, pools and noise between them; the last 1x1 conv gives a map per class, whose means are the
    scores. There are no large fully connected layers.

    The small stem is the paper's net for CIFAR-10, the imagenet stem the authors' net for ImageNet. Theirs have a relu on the class maps,
    too; here there is none, so that scores may be negative.

    Helps: few parameters, little overfitting; the class maps show where a class was seen.
    Hurts: trains slowly without a norm.
    Cost: 1.0 million parameters and 0.22 billion multiply-adds at 32 pixels; 7.6 million and 1.1 billion at 224.
    Source: Lin et al. 2014; CS231n, CNN architectures.
    """

    stem: Stem = "auto"
    act: Activation = Relu()
    norm: Norm = norm.None_()
    init: Init = He()
    drop: Noise = Dropout()

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = uses_small_stem(self, size, 51)
        parts: dict[str, nn.Module] = {}
        stages, n_in = (CIFAR_STAGES, channels) if small else (IMAGENET_STAGES, channels)
        for i, (first, rest) in enumerate(stages, start=1):
            shapes = (first, *((n, 1, 1, 0) for n in rest))
            layers = {}
            for j, shape in enumerate(shapes):
                layers[f"conv{j + 1}"] = self._conv(n_in, *shape)
                n_in = shape[0]
            if i < len(stages):
                layers["pool"] = nn.MaxPool2d(3, 2, ceil_mode=True)
            if i < len(stages) and (small or i == len(stages) - 1):
                layers["drop"] = self.drop()
            parts[f"mlpconv{i}"] = named_sequential(layers)
        head = PixelLinear(n_in, classes)
        net = named_sequential({**parts, "head": named_sequential({"maps": head, **dict(global_average_pool().named_children())})})
        init_with_small_head(net, self.norm, self.init, head)
        return net

    def _conv(self, n_in: int, n: int, kernel: int, stride: int, padding: int) -> nn.Module:
        norm_act = NormAct(self.norm, self.act)
        conv = nn.Conv2d(n_in, n * width_of(self.act), kernel, stride, padding, bias=needs_bias(self.norm, norm_act.order))
        return named_sequential({"conv": conv, **norm_act.build(n)})
