"""Residual nets, with the parameter names of torchvision, and the plain and pre-activation nets to compare them with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.layers import noise
from goodfit.layers.activation import Relu, width_of
from goodfit.layers.init import He, initialize
from goodfit.layers.noise import mask_weights, scale_to_depth
from goodfit.layers.norm import Batch, normalizes
from goodfit.models.blocks import NormAct, Order, StagedSequential, Stem, make_conv, scale_residual_branches, uses_small_stem

BLOCKS = {  # depth -> the number of blocks in each stage
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
    20: (3, 3, 3), 32: (5, 5, 5), 44: (7, 7, 7), 56: (9, 9, 9), 110: (18, 18, 18),
}  # fmt: skip
BOTTLENECKS = (50, 101, 152)
Shortcut = Literal["projection", "pad", "none"]


class ResidualBlock(nn.Module):
    """A residual block: y = act(branch(x) + shortcut(x)), two 3x3 convs, or 1x1, 3x3, 1x1 with `bottleneck` (the 3x3 has the stride).

    Where the map or its channels change, the shortcut is a 1x1 conv with a norm ("projection"), or skips pixels and appends channels of
    zeros ("pad"); "none" leaves only the branch. An activation that needs a wider input gets it from every conv before it and from the
    shortcut. `noise` acts on the branch's output or on its weights. With norms after the activations, the block ends in a norm.
    """

    expansion = 4
    preact = False

    def __init__(self, n_in: int, n: int, stride: int, norm_act: NormAct, noise: Noise, bottleneck: bool, shortcut: Shortcut) -> None:
        super().__init__()
        wide = width_of(norm_act.act)
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (n, n, n * self.expansion) if bottleneck else (n, n)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        self.length, self.order = len(kernels), norm_act.order
        inputs = (n_in, *widths)
        for i in range(self.length):
            conv = make_conv(inputs[i], widths[i] * wide, kernels[i], stride=strides[i], norm=norm_act.norm, order=norm_act.order)
            after = norm_act.build(inputs[i] if self.preact else widths[i])
            for name, module in (("conv", mask_weights(noise, conv)), ("bn", after["norm"]), ("act", after["act"])):
                self.add_module(f"{name}{i + 1}", module)
        out = widths[-1] * wide
        self.noise, self.has_shortcut = noise(), shortcut != "none"
        self.downsample: nn.Module | None = None
        if self.has_shortcut and (stride != 1 or (n_in * wide if self.preact else n_in) != out):
            self.downsample = ZeroPaddedShortcut(stride, out) if shortcut == "pad" else self._projection(n_in, out, stride, norm_act)

    def _projection(self, n_in: int, out: int, stride: int, norm_act: NormAct) -> nn.Module:
        return nn.Sequential(make_conv(n_in, out, 1, stride=stride, norm=norm_act.norm), norm_act.norm(out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, W] -> [B, n_out, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        first, second = self._after_conv()
        for i in range(1, self.length):
            for name in ("conv", first, second):
                x = self._run(name, i, x)
        x = self._run("conv", self.length, x)
        if self.order == "norm_act":
            return self._run("act", self.length, self._add_shortcut(self._run("bn", self.length, x), shortcut))
        return self._run("bn", self.length, self._run("act", self.length, self._add_shortcut(x, shortcut)))

    def _add_shortcut(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        noisy: Tensor = self.noise(branch)
        return noisy + shortcut if self.has_shortcut else noisy

    def _after_conv(self) -> tuple[str, str]:
        return ("bn", "act") if self.order == "norm_act" else ("act", "bn")

    def _run(self, name: str, i: int, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(f"{name}{i}")(x)
        return y


class PreactBlock(ResidualBlock):
    """A residual block with norm and activation before each conv: y = branch(x) + x, so the path from block to block is the identity.

    A projection takes the first activation's output, and has no norm of its own.
    """

    preact = True

    def _projection(self, n_in: int, out: int, stride: int, norm_act: NormAct) -> nn.Module:
        return make_conv(n_in, out, 1, stride=stride, norm=norm_act.norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in * width, H, W] -> [B, n_out * width, H / stride, W / stride], the width that of the activation."""
        first, second = self._after_conv()
        y = self._run(second, 1, self._run(first, 1, x))
        shortcut = x if self.downsample is None else self.downsample(x if isinstance(self.downsample, ZeroPaddedShortcut) else y)
        y = self._run("conv", 1, y)
        for i in range(2, self.length + 1):
            for name in (first, second, "conv"):
                y = self._run(name, i, y)
        return self._add_shortcut(y, shortcut)


class ZeroPaddedShortcut(nn.Module):
    """A shortcut without parameters: it takes every `stride`-th pixel and appends channels of zeros, up to `n_out` channels."""

    def __init__(self, stride: int, n_out: int) -> None:
        super().__init__()
        self.stride, self.n_out = stride, n_out

    def extra_repr(self) -> str:
        return f"stride={self.stride}, n_out={self.n_out}"

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.n_out - x.shape[1]))


@dataclasses.dataclass(frozen=True)
class Resnet(Model):
    """A deep conv net whose blocks add to their input; depth 18, 34, 50, 101, 152, or 20, 32, 44, 56, 110 as made for CIFAR.

    Depths 50, 101 and 152 have bottlenecks. The nets for CIFAR have three stages of 16, 32 and 64 channels, the others four of 64 to 512
    (256 to 2048 with bottlenecks). The imagenet stem is a conv of stride 2 with a 7x7 kernel, and a max pool; the
    small one a 3x3 conv of stride 1 and no pool; auto takes the small one below 96 pixels. With projections and without `preact`,
    depths 18 to 152 have torchvision's names and shapes, so its published weights fit.

    `shortcut` is the kind of shortcut where the map changes: a 1x1 conv (projection), or zeros for the missing channels (pad); none
    removes all shortcuts, which leaves the plain net of the same depth; auto pads in the nets for CIFAR and projects in the others.
    `preact` puts norm and activation before each conv instead of after it. `drop` is noise before the head, `branch` noise on the branch
    of each block, such as stochastic_depth.

    Helps: the workhorse from a thousand images up, and the usual start for transfer.
    Hurts: on a CPU a training of minutes gets further with a smaller net.
    Cost: depth 18 at 224 pixels 1.8 billion multiply-adds; the small stem 0.56 billion at 32 pixels; depth 20 there 0.041 billion.
    Source: He et al. 2015 (the nets, shortcuts A: pad, and B: projection); He et al. 2016 (preact); the stride on the 3x3 conv of
        bottlenecks as in torchvision ("v1.5"); CS231n, CNN architectures.
    """

    depth: Literal[18, 20, 32, 34, 44, 50, 56, 101, 110, 152] = 18
    stem: Stem = "auto"
    act: Activation = Relu()
    norm: Norm = Batch()
    init: Init = He("out")
    drop: Noise = noise.None_()
    branch: Noise = noise.None_()
    order: Order = "norm_act"
    shortcut: Literal["auto", "projection", "pad", "none"] = "auto"
    preact: bool = False

    def __call__(self, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
        small = uses_small_stem(self, size, 32)
        norm_act = NormAct(self.norm, self.act, self.order)
        kernel, stride = (3, 1) if small else (7, 2)
        width = 16 if len(BLOCKS[self.depth]) == 3 else 64
        layers, n_out = self._layers(width, norm_act)
        parts = {
            "conv1": make_conv(channels, width * width_of(self.act), kernel, stride=stride, norm=self.norm, order=self.order),
            **({} if self.preact else outer_norm_act(norm_act, width)),
            "maxpool": nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1),
            **layers,
            **(outer_norm_act(norm_act, n_out) if self.preact else {}),
        }
        head = mask_weights(self.drop, nn.Linear(n_out, classes))
        tail = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "drop": self.drop(), "fc": head}
        net = StagedSequential({**parts, **tail}, stage_groups_of(list(parts)))
        initialize(net, self.init, head)
        if not normalizes(self.norm) and self.shortcut != "none":
            scale_residual_branches([m.get_submodule(f"conv{m.length}") for m in net.modules() if isinstance(m, ResidualBlock)])  # type: ignore[misc]
        return net

    def _layers(self, width: int, norm_act: NormAct) -> tuple[dict[str, nn.Module], int]:
        """Make the stages of blocks by name; also returns their output channels, not counting what a wider activation adds."""
        bottleneck, block = self.depth in BOTTLENECKS, PreactBlock if self.preact else ResidualBlock
        layers: dict[str, nn.Module] = {}
        n_in, noises = width, self._noises()
        for i, length in enumerate(BLOCKS[self.depth]):
            n = width * 2**i
            blocks = []
            for j in range(length):
                blocks.append(block(n_in, n, 2 if i and not j else 1, norm_act, next(noises), bottleneck, self._shortcut()))
                n_in = n * ResidualBlock.expansion if bottleneck else n
            layers[f"layer{i + 1}"] = nn.Sequential(*blocks)
        return layers, n_in

    def _noises(self) -> Iterator[Noise]:
        """The noise of each branch, by the block's share of the depth."""
        total = sum(BLOCKS[self.depth])
        return (scale_to_depth(self.branch, (i + 1) / total) for i in range(total))

    def _shortcut(self) -> Shortcut:
        if self.shortcut != "auto":
            return self.shortcut
        return "pad" if len(BLOCKS[self.depth]) == 3 else "projection"


def outer_norm_act(norm_act: NormAct, n: int) -> dict[str, nn.Module]:
    """Make the norm and activation outside of the blocks, with torchvision's names."""
    return {"bn1" if name == "norm" else name: module for name, module in norm_act.build(n).items()}


def stage_groups_of(parts: list[str]) -> dict[str, tuple[str, ...]]:
    """The names of the parts by stage: the stem, then each layer of blocks; the last has what comes after it too."""
    first = next(i for i, name in enumerate(parts) if name.startswith("layer"))
    last = max(i for i, name in enumerate(parts) if name.startswith("layer"))
    return {"stem": tuple(parts[:first]), **{name: (name,) for name in parts[first:last]}, parts[last]: tuple(parts[last:])}
