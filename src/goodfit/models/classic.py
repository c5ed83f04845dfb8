"""What the nets of 2012 to 2014 share: local response normalization, numbered conv layers and wide fully connected layers."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.core.settings import Count
from goodfit.layers import norm
from goodfit.layers.activation import Relu, width_of
from goodfit.layers.init import He, initialize
from goodfit.layers.noise import Dropout
from goodfit.layers.norm import LocalResponseNorm, normalizes
from goodfit.models.anatomy.meta import to_meta
from goodfit.models.blocks import NormAct, Stem, linear_norm_act, named_sequential, needs_bias, uses_small_stem

HiddenWidth = Literal["auto"] | Count
HEAD_SCALE_WITHOUT_NORM = 0.1  # multiplies the initial weights of a head behind max pools
HIDDEN_WIDTH_IMAGENET, HIDDEN_WIDTH_SMALL = 4096, 512  # units of a fully connected layer behind the imagenet and the small stem


def hidden_width(hidden: HiddenWidth, small: bool) -> int:
    """The width of the hidden fully connected layers; "auto" depends on the stem."""
    return hidden if hidden != "auto" else HIDDEN_WIDTH_SMALL if small else HIDDEN_WIDTH_IMAGENET


def output_shape(features: nn.Module, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
    """The shape [C, H, W] of what these layers make of an image, found on the meta device, where nothing is computed."""
    with torch.no_grad():
        output: Tensor = to_meta(features).eval()(torch.empty(2, channels, *size, device="meta"))
    return tuple(output.shape[1:])


def init_with_small_head(net: nn.Module, norm: Norm, init: Init, head: nn.Linear) -> None:
    """Initialize a net; without a norm its head starts smaller, since max pools then feed it large values."""
    initialize(net, init, head)
    if not normalizes(norm):
        with torch.no_grad():
            head.weight.mul_(HEAD_SCALE_WITHOUT_NORM)


class AdaptiveMean(nn.Module):
    """[B, C, H, W] -> [B, C, side, side]: the means over the windows of torch's AdaptiveAvgPool2d.

    They are computed as two matrix products, whose gradient is deterministic on a GPU; that of torch's layer is not.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def extra_repr(self) -> str:
        return f"side={self.side}"

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] == (self.side, self.side):
            return x
        down, across = (mean_windows(n, self.side).to(x.device, x.dtype) for n in x.shape[2:])
        return down @ x @ across.T


def mean_windows(n: int, out: int) -> Tensor:
    """The matrix [out, n] that averages the pixels from floor(i n / out) to ceil((i + 1) n / out) for each output i."""
    i, pixel = torch.arange(out, device="cpu")[:, None], torch.arange(n, device="cpu")
    inside = ((pixel >= i * n // out) & (pixel < -(-(i + 1) * n // out))).float()
    return inside / inside.sum(1, keepdim=True)


def with_norm_act(conv: nn.Conv2d, n: int, norm_act: NormAct) -> list[nn.Module]:
    """A conv with its norm and activation, in a list numbered as torchvision's: norm=none takes no place in it."""
    return [conv, *(module for name, module in norm_act.build(n).items() if name == "act" or not isinstance(norm_act.norm, norm.None_))]


def child_names(parent: str, start: int, stop: int) -> tuple[str, ...]:
    """The dotted names of the children number `start` to `stop` - 1 of the module `parent`."""
    return tuple(f"{parent}.{i}" for i in range(start, stop))


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """A conv layer of a net with numbered layers, optionally followed by local response normalization and max pooling.

    `pool` is (kernel, stride) of the max pool, (0, 0) for none; `ceil_mode` is torch's setting of that name.
    """

    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    lrn: bool = False
    pool: tuple[int, int] = (0, 0)
    ceil_mode: bool = False

    def for_small_images(self) -> ConvSpec:
        """The same layer for small images: the conv keeps the size of the map, and a pool halves it."""
        kernel = min(self.kernel, 5)
        pool = (3, 2) if self.pool[0] else (0, 0)
        return dataclasses.replace(self, kernel=kernel, stride=1, padding=kernel // 2, pool=pool, ceil_mode=True)

    def build(self, n_in: int, norm_act: NormAct) -> nn.Sequential:
        """Make the conv, norm and activation, local response normalization where there is no other norm, and pool."""
        bias = needs_bias(norm_act.norm, norm_act.order)
        n_out = self.filters * width_of(norm_act.act)
        conv = nn.Conv2d(n_in, n_out, self.kernel, self.stride, self.padding, groups=self.groups, bias=bias)
        lrn = {"lrn": LocalResponseNorm()} if self.lrn and isinstance(norm_act.norm, norm.None_) else {}
        pool = {"pool": nn.MaxPool2d(*self.pool, ceil_mode=self.ceil_mode)} if self.pool[0] else {}
        return named_sequential({"conv": conv, **norm_act.build(self.filters), **lrn, **pool})


@dataclasses.dataclass(frozen=True)
class ClassicFamily(Model):
    """The settings that these nets share. Dataclass fields go from the last base to the first, so a setting before these needs its own
    base class.
    """

    stem: Stem = "auto"
    hidden: HiddenWidth = "auto"
    act: Activation = Relu()
    norm: Norm = norm.None_()
    init: Init = He()
    drop: Noise = Dropout()

    def build_numbered(self, layers: tuple[ConvSpec, ...], min_side: int, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        """Make a net of conv1, conv2, ..., two fully connected layers and the scores, numbered consecutively.

        Raises:
            UsageError: a side is below `min_side`, for the imagenet stem.
        """
        small = uses_small_stem(self, size, min_side)
        layers = tuple(layer.for_small_images() for layer in layers) if small else layers
        inputs, norm_act = (channels, *(layer.filters for layer in layers)), NormAct(self.norm, self.act)
        hidden = hidden_width(self.hidden, small)
        parts: dict[str, nn.Module] = {f"conv{i}": layer.build(inputs[i - 1], norm_act) for i, layer in enumerate(layers, start=1)}
        n_in = torch.Size(output_shape(named_sequential(parts), channels, size)).numel()
        act_only, last = NormAct(norm.None_(), self.act), len(layers)
        head = nn.Linear(hidden, classes)
        parts["flatten"] = nn.Flatten()
        for i, n in enumerate((n_in, hidden), start=last + 1):
            parts[f"fc{i}"] = linear_norm_act(n, hidden, act_only, self.drop)
        net = named_sequential({**parts, f"fc{last + 3}": head})
        init_with_small_head(net, self.norm, self.init, head)
        return net
