"""Noise layers: random in training, averaged in evaluation; they draw from torch's default generator."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Noise
from goodfit.core.settings import NonNegative, Share

NoiseRamp = Literal["none", "linear"]  # strength over progress: always full, or rising from 0 at the start to full at the end

MaskableLayer = TypeVar("MaskableLayer", nn.Linear, nn.Conv2d)


class NoiseLayer(nn.Module):
    """A layer that draws noise in training mode, at a strength that may follow progress.

    `goodfit.training.noise` recognizes noise layers by `noisy`, and calls `progress(t)` before each step. The strength is a buffer, so that
    it is saved with the weights it belongs to; without a ramp there is none.
    """

    noisy: ClassVar[bool] = True
    strength: Tensor | None

    def set_ramp(self, ramp: NoiseRamp) -> None:
        """Register the strength that `ramp` needs."""
        self.register_buffer("strength", torch.ones(()) if ramp == "linear" else None)

    def progress(self, t: float) -> None:
        """Set the strength for progress t in 0..1."""
        if self.strength is not None:
            self.strength.fill_(t)

    def at_strength(self, amount: float) -> Tensor | float:
        """Return `amount` times the current strength."""
        return amount if self.strength is None else amount * self.strength


# ---- the layers ------------------------------------------------------------------------------------------------------------------


class DropUnits(NoiseLayer):
    """Set each number to zero with probability p; `inverted` scales the others in training, otherwise evaluation scales everything."""

    def __init__(self, p: float, inverted: bool, ramp: NoiseRamp) -> None:
        super().__init__()
        self.p, self.inverted = p, inverted
        self.set_ramp(ramp)

    def extra_repr(self) -> str:
        return f"p={self.p}, inverted={self.inverted}"

    def forward(self, x: Tensor) -> Tensor:
        p = self.at_strength(self.p)
        if not self.training:
            return x if self.inverted else x * (1 - p)
        kept = x * (torch.rand_like(x, dtype=torch.float32) >= p)
        return kept / torch.as_tensor(1 - p).clamp(min=1e-12) if self.inverted else kept


class DropImages(NoiseLayer):
    """Set all numbers of an image to zero with probability p; evaluation scales by the probability of keeping them."""

    def __init__(self, p: float, ramp: NoiseRamp) -> None:
        super().__init__()
        self.p = p
        self.set_ramp(ramp)

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        p = self.at_strength(self.p)
        if not self.training:
            return x * (1 - p)
        draws = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device)
        return x * (draws >= p).to(x.dtype)


class AddGaussian(NoiseLayer):
    """Add zero-mean normal noise."""

    def __init__(self, std: float, ramp: NoiseRamp) -> None:
        super().__init__()
        self.std = std
        self.set_ramp(ramp)

    def extra_repr(self) -> str:
        return f"std={self.std}"

    def forward(self, x: Tensor) -> Tensor:
        return x + self.at_strength(self.std) * torch.randn_like(x) if self.training else x


class DropLinear(NoiseLayer, nn.Linear):
    """A linear layer whose weights are set to zero with probability p, one mask for the whole batch; evaluation takes their mean."""

    def __init__(self, like: nn.Linear, p: float, ramp: NoiseRamp) -> None:
        super().__init__(like.in_features, like.out_features, like.bias is not None, like.weight.device, like.weight.dtype)
        self.p = p
        self.set_ramp(ramp)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        return F.linear(input, drop_weights(self.weight, self.at_strength(self.p), self.training), self.bias)


class DropConv(NoiseLayer, nn.Conv2d):
    """A conv layer whose weights are set to zero with probability p, one mask for the whole batch; evaluation takes their mean."""

    def __init__(self, like: nn.Conv2d, p: float, ramp: NoiseRamp) -> None:
        super().__init__(
            like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding,  # type: ignore[arg-type]
            like.dilation, like.groups, like.bias is not None, like.padding_mode,  # type: ignore[arg-type]
        )  # fmt: skip
        self.p = p
        self.set_ramp(ramp)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        maps: Tensor = self._conv_forward(input, drop_weights(self.weight, self.at_strength(self.p), self.training), self.bias)
        return maps


def drop_weights(weight: Tensor, p: Tensor | float, random: bool) -> Tensor:
    """Set each weight to zero with probability p if `random`; otherwise return the mean over all masks."""
    return weight * (torch.rand_like(weight) >= p) if random else weight * (1 - p)


def mask_weights(noise: Noise, layer: MaskableLayer) -> MaskableLayer:
    """Return the layer with this noise on its weights, if the noise is of that kind; otherwise the layer unchanged."""
    if isinstance(noise, Dropconnect) and isinstance(layer, nn.Linear):
        return DropLinear(layer, noise.p, noise.ramp)
    if isinstance(noise, Dropconnect) and isinstance(layer, nn.Conv2d):
        return DropConv(layer, noise.p, noise.ramp)
    return layer


def scale_to_depth(noise: Noise, share: float) -> Noise:
    """Return the noise for a block at `share` of a net's depth (1: the last): stochastic depth grows with depth, other noise does not."""
    if isinstance(noise, StochasticDepth) and noise.rule == "linear":
        return dataclasses.replace(noise, p=noise.p * share)
    return noise


# ---- the parts -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class None_(Noise):  # noqa: N801  spelled `none`
    """No noise.

    Helps: when the net does not overfit, and for optimizers that need a deterministic loss.
    Hurts: large nets on little data overfit.
    Cost: none.
    Source: CS231n, regularization.
    """

    def __call__(self) -> nn.Module:
        return nn.Identity()


@dataclasses.dataclass(frozen=True)
class Dropout(Noise):
    """Sets each number to zero with probability p; inverted: divides the others by 1 - p; not inverted (vanilla): evaluation scales.

    Helps: wide fully connected layers on little data.
    Hurts: slows training; between conv layers with batch norm it often costs accuracy.
    Cost: one random number per unit.
    Source: Srivastava et al. 2014; CS231n, dropout (in its code p is the share kept; scaling "by the dropout probability", as a slide
        says, is correct for 0.5 only).
    """

    p: Share = 0.5
    inverted: bool = True
    ramp: NoiseRamp = "none"

    def __call__(self) -> nn.Module:
        return nn.Dropout(self.p) if self.inverted and self.ramp == "none" else DropUnits(self.p, self.inverted, self.ramp)


@dataclasses.dataclass(frozen=True)
class Dropconnect(Noise):
    """Sets each weight of its layer to zero with probability p; evaluation uses all connections, at their mean.

    Its layer is every hidden layer in an mlp; in alexnet, vgg, vgg_f, vgg_m, vgg_s and lenet the hidden fully connected layers, in swift
    and the other conv nets the head, and as `branch` of a resnet or mobilenet_v2 convs of its blocks. One mask serves the batch, or each
    piece of it.

    Helps: wide fully connected layers on little data; more kinds of thinned nets than dropout has.
    Hurts: slows training; usually close to dropout.
    Cost: one random number per weight and piece.
    Source: Wan et al. 2013; CS231n, dropout family. (What timm and Keras call drop_connect is stochastic depth.)
    """

    p: Share = 0.5
    ramp: NoiseRamp = "none"

    def __call__(self) -> nn.Module:
        return nn.Identity()  # it acts through `mask_weights`


@dataclasses.dataclass(frozen=True)
class StochasticDepth(Noise):
    """Drops the whole branch of a residual block with probability p, image by image; evaluation scales by the probability of keeping.

    Made for the `branch` of a resnet: a block whose branch is dropped is the identity. With the rule linear, p is that of the last
    block, and earlier ones drop less in proportion to their depth.

    Helps: very deep residual nets.
    Hurts: shallow nets and short trainings.
    Cost: next to nothing; the dropped branches are still computed.
    Source: Huang et al. 2016 (linear, to 0.5); CS231n, dropout family.
    """

    p: Share = 0.5
    rule: Literal["linear", "uniform"] = "linear"
    ramp: NoiseRamp = "none"

    def __call__(self) -> nn.Module:
        return DropImages(self.p, self.ramp)


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Noise):
    """Adds normal noise of standard deviation `std`.

    Helps: smooths what the net computes; small data.
    Hurts: activations that are small next to it; a norm after it hides its size.
    Cost: one normal number per unit.
    Source: Bishop 1995; CS231n, a common pattern of regularization.
    """

    std: NonNegative = 0.1
    ramp: NoiseRamp = "none"

    def __call__(self) -> nn.Module:
        return AddGaussian(self.std, self.ramp)
