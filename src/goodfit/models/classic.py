"""What the nets of 2012 to 2014 share: local response normalization, numbered conv layers and wide fully connected ones."""

from __future__ import annotations

import copy
import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.core.settings import Count
from goodfit.layers import norm
from goodfit.layers.activation import Relu, width_of
from goodfit.layers.init import He, initialize
from goodfit.layers.noise import Dropout
from goodfit.layers.norm import normalizes
from goodfit.models.blocks import Look, Stem, biased, linear_norm_act, named, small_stem

Width = Literal["auto"] | Count
CALM = 0.1  # how much smaller a head starts that max pools feed without a norm
WIDE, NARROW = 4096, 512  # units of a fully connected layer, for the imagenet stem and for the small one


def units(hidden: Width, small: bool) -> int:
    """The width of the hidden fully connected layers."""
    return hidden if hidden != "auto" else NARROW if small else WIDE


def map_of(features: nn.Module, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
    """The shape [C, H, W] that a chain of layers makes of an image; on the meta device, so nothing is computed."""
    with torch.no_grad():
        made: Tensor = copy.deepcopy(features).to("meta").eval()(torch.empty(2, channels, *size, device="meta"))
    return tuple(made.shape[1:])


def start_calm(net: nn.Module, norm: Norm, init: Init, head: nn.Linear) -> None:
    """Initialize a net of this norm. Max pools pick what is large, so without a norm the head sees large numbers: it starts smaller."""
    initialize(net, init, head)
    if not normalizes(norm):
        with torch.no_grad():
            head.weight.mul_(CALM)


class LocalResponseNorm(nn.Module):
    """[B, C, H, W] -> x / (k + alpha * s)^beta, s the sum of squares over `size` neighboring channels at the same pixel.

    Torch's layer divides alpha by the size, and on a GPU its gradient repeats only for [B, C, N], which it is given here.
    Source: Krizhevsky et al. 2012, section 3.3, with its constants.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"

    def forward(self, x: Tensor) -> Tensor:
        flat = F.local_response_norm(x.flatten(2), self.size, self.alpha * self.size, self.beta, self.k)
        return flat.view_as(x)


class MeanTo(nn.Module):
    """[B, C, H, W] -> [B, C, side, side]: means over windows that tile the map, as torch's adaptive pooling has them.

    Written as two matrix products, whose gradient is the same at every run on a GPU too; torch's is not.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def extra_repr(self) -> str:
        return f"side={self.side}"

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] == (self.side, self.side):
            return x
        down, across = (windows(n, self.side).to(x.device, x.dtype) for n in x.shape[2:])
        return down @ x @ across.T


def windows(n: int, out: int) -> Tensor:
    """The matrix [out, n] of the means over the pixels from floor(i n / out) to ceil((i + 1) n / out)."""
    i, pixel = torch.arange(out, device="cpu")[:, None], torch.arange(n, device="cpu")
    inside = ((pixel >= i * n // out) & (pixel < -(-(i + 1) * n // out))).float()
    return inside / inside.sum(1, keepdim=True)


def flat_conv(made: nn.Conv2d, n: int, look: Look) -> list[nn.Module]:
    """A conv and what follows it, as torchvision numbers them: without a place for a norm that is none."""
    return [made, *(module for name, module in look.after(n).items() if name == "act" or normalizes(look.norm))]


def numbers(of: str, first: int, end: int) -> tuple[str, ...]:
    """The names of the children number `first` to `end` (not with it) of the child `of`."""
    return tuple(f"{of}.{i}" for i in range(first, end))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A conv layer of a net with numbered layers: `n` filters in `groups`, maybe local response normalization and max pooling after it.

    `pool` is (kernel, stride), its last window reaching over the edge with `over`.
    """

    n: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    lrn: bool = False
    pool: tuple[int, int] = (0, 0)
    over: bool = False

    def small(self) -> Layer:
        """The layer for small images: it keeps the size, and a pool halves it."""
        kernel = min(self.kernel, 5)
        pool = (3, 2) if self.pool[0] else (0, 0)
        return dataclasses.replace(self, kernel=kernel, stride=1, padding=kernel // 2, pool=pool, over=True)

    def __call__(self, n_in: int, look: Look) -> nn.Sequential:
        """Conv, norm and activation, local response normalization where there is no other norm, pool."""
        bias = biased(look.norm, look.order)
        n_out = self.n * width_of(look.act)
        made = nn.Conv2d(n_in, n_out, self.kernel, self.stride, self.padding, groups=self.groups, bias=bias)
        lrn = {"lrn": LocalResponseNorm()} if self.lrn and not normalizes(look.norm) else {}
        pool = {"pool": nn.MaxPool2d(*self.pool, ceil_mode=self.over)} if self.pool[0] else {}
        return named({"conv": made, **look.after(self.n), **lrn, **pool})


@dataclasses.dataclass(frozen=True)
class Classic(Model):
    """The settings that these nets share. Fields go from the last base to the first: one that comes before these is a base of its own."""

    stem: Stem = "auto"
    hidden: Width = "auto"
    act: Activation = Relu()
    norm: Norm = norm.None_()
    init: Init = He()
    drop: Noise = Dropout()

    def numbered(self, layers: tuple[Layer, ...], least: int, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        """conv1, conv2, ..., two fully connected layers and the scores, numbered on; for images of at least this side, or small ones."""
        small = small_stem(self, size, least)
        made = [layer.small() if small else layer for layer in layers]
        inputs, look, hidden = (channels, *(layer.n for layer in made)), Look(self.norm, self.act), units(self.hidden, small)
        parts: dict[str, nn.Module] = {f"conv{i}": layer(inputs[i - 1], look) for i, layer in enumerate(made, start=1)}
        n_in = torch.Size(map_of(named(parts), channels, size)).numel()
        plain, last = Look(norm.None_(), self.act), len(made)
        head = nn.Linear(hidden, classes)
        parts["flatten"] = nn.Flatten()
        for i, n in enumerate((n_in, hidden), start=last + 1):
            parts[f"fc{i}"] = linear_norm_act(n, hidden, plain, self.drop)
        net = named({**parts, f"fc{last + 3}": head})
        start_calm(net, self.norm, self.init, head)
        return net
