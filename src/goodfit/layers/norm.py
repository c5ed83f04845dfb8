"""Normalization layers, for [B, C] and [B, C, H, W] alike."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Norm
from goodfit.core.errors import UsageError
from goodfit.core.settings import Count, Positive, Share


def normalizes(norm: Norm) -> bool:
    """Whether a norm sets mean and scale anew; if not, the layer before it needs a bias, and the initialization to keep the scale."""
    return not isinstance(norm, (None_, Lrn))


class BatchNorm(nn.BatchNorm2d):
    """Torch's batch norm for any number of dimensions; batches with one number per channel are normalized by the running statistics."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  torch's name
        pass

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        # A last batch of one image has no variance of its own; torch would raise an error.
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class InstanceNorm(nn.GroupNorm):
    """Normalize each channel of each image over its pixels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if input.ndim == 2:
            raise UsageError("Expected maps of pixels for norm=instance, received one number per channel: use norm=layer or batch.")
        if input.shape[2:].numel() == 1:  # torch refuses a map of one pixel, which minus its mean is 0
            return self.bias[:, None, None] + 0 * (input + self.weight[:, None, None])
        return super().forward(input)


class LocalResponseNorm(nn.Module):
    """[B, C] or [B, C, H, W] -> x / (k + alpha * s)^beta, with s the sum of squares over `size` neighboring channels at the same pixel.

    Torch's layer divides alpha by the size, which is undone here. It gets [B, C, H * W], because on a GPU its gradient is deterministic
    for that shape only.
    Source: Krizhevsky et al. 2012, section 3.3, with its constants.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"

    def forward(self, x: Tensor) -> Tensor:
        flat = F.local_response_norm(x.reshape(*x.shape[:2], -1), self.size, self.alpha * self.size, self.beta, self.k)
        return flat.view_as(x)


@dataclasses.dataclass(frozen=True)
class None_(Norm):  # noqa: N801  spelled `none`
    """No normalization; layers have biases instead.

    Helps: as the control; where batch statistics are unwanted (L-BFGS, tiny batches).
    Hurts: deep nets need careful initialization and smaller learning rates.
    Cost: none.
    Source: CS231n, batch normalization.
    """

    def __call__(self, channels: int) -> nn.Module:
        return nn.Identity()


@dataclasses.dataclass(frozen=True)
class Batch(Norm):
    """Normalizes each channel over the batch, then scales and shifts it; running averages serve evaluation.

    `momentum` is the weight of each new batch in the running averages.

    Helps: higher learning rates, less sensitivity to initialization, some regularization by the noise of the batch.
    Hurts: batches under about 16 images; statistics differ between training and evaluation.
    Cost: 3 to 7 % of a step; two parameters a channel.
    Source: Ioffe & Szegedy 2015; CS231n, batch normalization.
    """

    momentum: Share = 0.1
    eps: Positive = 1e-5

    def __call__(self, channels: int) -> nn.Module:
        return BatchNorm(channels, eps=self.eps, momentum=self.momentum)


@dataclasses.dataclass(frozen=True)
class Layer(Norm):
    """Normalizes each image over all its channels and pixels, then scales and shifts each channel.

    Helps: small batches; the same in training and evaluation.
    Hurts: usually behind batch norm in conv nets.
    Cost: as batch norm.
    Source: Ba et al. 2016; CS231n, layer normalization.
    """

    eps: Positive = 1e-5

    def __call__(self, channels: int) -> nn.Module:
        return nn.GroupNorm(1, channels, eps=self.eps)


@dataclasses.dataclass(frozen=True)
class Group(Norm):
    """Normalizes each image over groups of channels, then scales and shifts each channel.

    Where `groups` does not divide the channels, their greatest common divisor is taken. With as many groups as channels it would be
    instance norm, so the default is fewer than the paper's 32, for narrower nets.

    Helps: small batches; the same in training and evaluation.
    Hurts: a little behind batch norm at large batches.
    Cost: as batch norm.
    Source: Wu & He 2018; CS231n, group normalization.
    """

    groups: Count = 8
    eps: Positive = 1e-5

    def __call__(self, channels: int) -> nn.Module:
        return nn.GroupNorm(math.gcd(self.groups, channels), channels, eps=self.eps)


@dataclasses.dataclass(frozen=True)
class Instance(Norm):
    """Normalizes each channel of each image over its pixels, then scales and shifts it.

    Helps: removes an image's own contrast and color cast; style transfer.
    Hurts: classification by brightness or color, or by the mean over the last map, which it makes alike for all images; useless on
        vectors, and refused there.
    Cost: as batch norm.
    Source: Ulyanov et al. 2016; CS231n, instance normalization.
    """

    eps: Positive = 1e-5

    def __call__(self, channels: int) -> nn.Module:
        return InstanceNorm(channels, channels, eps=self.eps)


@dataclasses.dataclass(frozen=True)
class Lrn(Norm):
    """Local response normalization: divides each number by (k + alpha times the squares of `size` channels around it) ^ beta.

    It sets neither mean nor scale, so layers keep their biases. In alexnet2012 it follows the first two convs by itself; as `norm` it
    follows every one, with order=act_norm after the activation, as in the paper.

    Helps: to see what nets had before batch norm; the same in training and evaluation.
    Hurts: hardly changes accuracy (VGG's nets are as good without it); does not help deep nets to train.
    Cost: more than batch norm on a CPU; no parameters.
    Source: Krizhevsky et al. 2012, section 3.3; CS231n, CNN architectures (AlexNet: not common anymore).
    """

    size: Count = 5
    alpha: Positive = 1e-4
    beta: Positive = 0.75
    k: Positive = 2.0

    def __call__(self, channels: int) -> nn.Module:
        return LocalResponseNorm(self.size, self.alpha, self.beta, self.k)
