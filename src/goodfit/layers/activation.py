"""Activations: the non-linear functions between the layers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Activation
from goodfit.core.settings import NonNegative, Positive, Range


def width_of(act: Activation) -> int:
    """Return how many times wider than its output an activation's input must be; 1 for a user's own module by dotted name."""
    return int(getattr(act, "width", 1))


@dataclasses.dataclass(frozen=True)
class None_(Activation):  # noqa: N801  spelled `none`
    """Passes its input through, so that successive layers remain one linear map.

    Helps: as the control that shows what non-linearity gains.
    Hurts: every net with it is a linear classifier.
    Cost: none.
    Source: CS231n, neural networks.
    """

    def __call__(self) -> nn.Module:
        return nn.Identity()


@dataclasses.dataclass(frozen=True)
class Relu(Activation):
    """max(0, x): passes positive values only.

    Helps: does not saturate above zero; is cheap; trains much faster than sigmoid or tanh; the default.
    Hurts: a unit that never fires gets no gradient and stays dead; outputs are not centered.
    Cost: the least of all.
    Source: Krizhevsky et al. 2012; CS231n, activation functions.
    """

    def __call__(self) -> nn.Module:
        return nn.ReLU()


@dataclasses.dataclass(frozen=True)
class Relu6(Activation):
    """min(max(0, x), 6): a relu that stops at 6.

    Helps: nets that will run with few bits a number, such as mobilenet_v2, whose published weights expect it.
    Hurts: saturates above, where the gradient is zero.
    Cost: as relu.
    Source: Krizhevsky 2010 (convolutional deep belief networks); Sandler et al. 2018.
    """

    def __call__(self) -> nn.Module:
        return nn.ReLU6()


@dataclasses.dataclass(frozen=True)
class LeakyRelu(Activation):
    """max(slope x, x): lets a little of the negative side through.

    Helps: no unit dies, as the gradient is never zero.
    Hurts: seldom; the gain over relu is small and inconsistent.
    Cost: as relu.
    Source: Maas et al. 2013; CS231n, activation functions (one slide has slope 0.1, another 0.01: the default here).
    """

    slope: NonNegative = 0.01

    def __call__(self) -> nn.Module:
        return nn.LeakyReLU(self.slope)


@dataclasses.dataclass(frozen=True)
class Prelu(Activation):
    """max(alpha x, x) with a learned alpha, one for each place in the net; `slope` is its initial value. Weight decay does not apply to it.

    Helps: lets the net choose how leaky each of its layers is.
    Hurts: overfits a little more on small data.
    Cost: as relu, and a sum over the negative numbers in the backward pass.
    Source: He et al. 2015; CS231n, activation functions.
    """

    slope: NonNegative = 0.25

    def __call__(self) -> nn.Module:
        return nn.PReLU(init=self.slope)


@dataclasses.dataclass(frozen=True)
class Maxout(Activation):
    """max(w1 x + b1, w2 x + b2): the largest of `pieces` linear functions, so the layer before it is that many times as wide.

    Helps: includes relu and leaky_relu as special cases; does not saturate, no unit dies; goes well with dropout.
    Hurts: a net of the same width has `pieces` times the parameters, and overfits sooner.
    Cost: the layer before it does `pieces` times the work.
    Source: Goodfellow et al. 2013; CS231n, activation functions.
    """

    pieces: Annotated[int, Range(2)] = 2

    @property
    def width(self) -> int:
        return self.pieces

    def __call__(self) -> nn.Module:
        return LargestPiece(self.pieces)


class LargestPiece(nn.Module):
    """[B, pieces * C, ...] -> [B, C, ...]: channel c becomes the largest of channels c, C + c, 2 C + c, ..."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"

    def forward(self, x: Tensor) -> Tensor:
        return functools.reduce(torch.maximum, x.chunk(self.pieces, dim=1))


@dataclasses.dataclass(frozen=True)
class Sigmoid(Activation):
    """1 / (1 + exp(-x)): squashes to 0..1.

    Helps: as a gate, or to read an output as a probability.
    Hurts: saturates on both sides and kills the gradient; not centered, so the weights' gradients of a unit share one sign.
    Cost: an exponential per number.
    Source: CS231n, activation functions.
    """

    def __call__(self) -> nn.Module:
        return nn.Sigmoid()


@dataclasses.dataclass(frozen=True)
class Tanh(Activation):
    """tanh(x): squashes to -1..1.

    Helps: centered on zero, unlike sigmoid.
    Hurts: still saturates on both sides.
    Cost: an exponential per number.
    Source: LeCun et al. 1998; CS231n, activation functions.
    """

    def __call__(self) -> nn.Module:
        return nn.Tanh()


@dataclasses.dataclass(frozen=True)
class Elu(Activation):
    """x above zero, alpha (exp(x) - 1) below: a smooth relu with negative outputs.

    Helps: outputs closer to zero mean; the saturated negative side is robust to noise.
    Hurts: saturates below, so gradients there are small.
    Cost: an exponential per number.
    Source: Clevert et al. 2015; CS231n, activation functions.
    """

    alpha: Positive = 1.0

    def __call__(self) -> nn.Module:
        return nn.ELU(self.alpha)


@dataclasses.dataclass(frozen=True)
class Gelu(Activation):
    """x times the normal distribution function of x: a smooth relu that dips below zero.

    Helps: small nets and short trainings, by a little.
    Hurts: seldom.
    Cost: about three times relu.
    Source: Hendrycks & Gimpel 2016.
    """

    def __call__(self) -> nn.Module:
        return nn.GELU()


@dataclasses.dataclass(frozen=True)
class Silu(Activation):
    """x times its sigmoid: a smooth relu that dips below zero.

    Helps: deep nets, by a little.
    Hurts: seldom.
    Cost: an exponential per number.
    Source: Ramachandran et al. 2017 (swish); Elfwing et al. 2017.
    """

    def __call__(self) -> nn.Module:
        return nn.SiLU()
