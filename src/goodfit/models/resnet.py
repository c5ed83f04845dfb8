"""Residual nets, with the parameter names of torchvision."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.layers import noise
from goodfit.layers.activation import Relu, width_of
from goodfit.layers.init import He, start
from goodfit.layers.noise import at_depth, mask_weights
from goodfit.layers.norm import Batch, normalizes
from goodfit.models.blocks import Look, Order, conv, named, needs_size

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
SMALL = 96  # images below this side get the small stem, where the stem is to be chosen


class Block(nn.Module):
    """A residual block: y = act(branch(x) + shortcut(x)), two 3x3 convs, or 1x1, 3x3, 1x1 with `bottleneck` (the 3x3 has the stride).

    An activation that wants a wider input gets it from every conv before it and from the shortcut. `noise` acts on the branch's output
    or on its weights. With norms after the activations, the last norm is the block's last step.
    """

    expansion = 4

    def __init__(self, n_in: int, n: int, stride: int, look: Look, noise: Noise, bottleneck: bool) -> None:
        super().__init__()
        wide = width_of(look.act)
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (n, n, n * self.expansion) if bottleneck else (n, n)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        self.length, self.order = len(kernels), look.order
        inputs = (n_in, *widths)
        for i in range(self.length):
            made = conv(inputs[i], widths[i] * wide, kernels[i], stride=strides[i], norm=look.norm, order=look.order)
            after = look.after(widths[i])
            for name, module in (("conv", mask_weights(noise, made)), ("bn", after["norm"]), ("act", after["act"])):
                self.add_module(f"{name}{i + 1}", module)
        out = widths[-1] * wide
        self.noise = noise()
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != out:
            self.downsample = nn.Sequential(conv(n_in, out, 1, stride=stride, norm=look.norm), look.norm(out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, W] -> [B, n_out, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        first, second = ("bn", "act") if self.order == "norm_act" else ("act", "bn")
        for i in range(1, self.length):
            for name in ("conv", first, second):
                x = self._do(name, i, x)
        x = self._do("conv", self.length, x)
        if self.order == "norm_act":
            return self._do("act", self.length, self.noise(self._do("bn", self.length, x)) + shortcut)
        return self._do("bn", self.length, self._do("act", self.length, self.noise(x) + shortcut))

    def _do(self, name: str, i: int, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(f"{name}{i}")(x)
        return y


def soften(net: nn.Module) -> None:
    """Without normalization every block would double the variance: make each branch as much smaller as there are blocks."""
    blocks = [m for m in net.modules() if isinstance(m, Block)]
    with torch.no_grad():
        for block in blocks:
            last = block.get_parameter(f"conv{block.length}.weight")
            last.mul_(len(blocks) ** -0.5)


@dataclasses.dataclass(frozen=True)
class Resnet(Model):
    """A deep conv net whose blocks add to their input; depth 18, 34, 50, 101 or 152.

    The imagenet stem is a 7x7 conv of stride 2 and a max pool; the small one a 3x3 conv of stride 1 and no pool; auto takes the
    small one below 96 pixels. Parameters have torchvision's names and shapes, so its published weights fit.

    `drop` is noise before the head, `branch` noise on the branch of each block, such as stochastic_depth.

    Helps: the workhorse from a thousand images up, and the usual start for transfer.
    Hurts: on a CPU a training of minutes gets further with a smaller net.
    Cost: depth 18 at 224 pixels 1.8 billion multiply-adds; the small stem 0.56 billion at 32 pixels.
    Source: He et al. 2015; the stride on the 3x3 conv of bottlenecks as in torchvision ("v1.5"); CS231n, CNN architectures.
    """

    depth: Literal[18, 34, 50, 101, 152] = 18
    stem: Literal["auto", "imagenet", "small"] = "auto"
    act: Activation = Relu()
    norm: Norm = Batch()
    init: Init = He("out")
    drop: Noise = noise.None_()
    branch: Noise = noise.None_()
    order: Order = "norm_act"

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = min(size) < SMALL if self.stem == "auto" else self.stem == "small"
        needs_size(self, size, 8 if small else 32)
        look = Look(self.norm, self.act, self.order)
        wide = 64 * width_of(self.act)
        kernel, stride = (3, 1) if small else (7, 2)
        parts: dict[str, nn.Module] = {
            "conv1": conv(channels, wide, kernel, stride=stride, norm=self.norm, order=self.order),
            **{"bn1" if name == "norm" else name: module for name, module in look.after(64).items()},
            "maxpool": nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1),
        }
        n_in, total = 64, sum(DEPTHS[self.depth])
        shares = iter((i + 1) / total for i in range(total))  # of the depth, block by block
        for i, blocks in enumerate(DEPTHS[self.depth], start=1):
            noises = [at_depth(self.branch, next(shares)) for _ in range(blocks)]
            parts[f"layer{i}"], n_in = self._layer(n_in, 32 * 2**i, 1 if i == 1 else 2, look, noises)
        head = mask_weights(self.drop, nn.Linear(n_in, classes))
        net = named({**parts, "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "drop": self.drop(), "fc": head})
        start(net, self.init, head)
        if not normalizes(self.norm):
            soften(net)
        return net

    def _layer(self, n_in: int, n: int, stride: int, look: Look, noises: list[Noise]) -> tuple[nn.Module, int]:
        bottleneck = self.depth >= 50
        n_out = n * Block.expansion if bottleneck else n
        made = [Block(n_out if i else n_in, n, 1 if i else stride, look, each, bottleneck) for i, each in enumerate(noises)]
        return nn.Sequential(*made), n_out
