"""First-order optimizers: thin parts over torch.optim, fused where torch can on the parameters' device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch

from goodfit.core.contracts import Optimizer
from goodfit.core.errors import UsageError
from goodfit.core.settings import NonNegative, Positive, Range
from goodfit.optim.formulas import UncorrectedAdam, VelocitySgd

Groups = Iterable[dict[str, Any]]
Decay = Annotated[float, Range(0, below=1)]  # of a running average
FUSED_DEVICES = ("cpu", "cuda")


def can_fuse(groups: list[dict[str, Any]]) -> bool:
    """Whether torch's fused kernels support these parameters: floating point, on the CPU or a CUDA device."""
    return all(p.is_floating_point() and p.device.type in FUSED_DEVICES for group in groups for p in group["params"])


def keep_layout_on_load(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer give loaded state the memory layout of its parameters.

    Fused kernels read parameters and state in memory order: a momentum saved contiguous beside channels_last weights would be read in
    the wrong order, without an error.
    """
    optimizer.register_load_state_dict_post_hook(_match_layout)
    return optimizer


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


@dataclasses.dataclass(frozen=True)
class Sgd(Optimizer):
    """v = momentum v + g, W = W - lr v, with g the gradient plus weight_decay W; `nesterov` takes the gradient at the look-ahead.

    With form=velocity the learning rate is part of the velocity, v = momentum v - lr g, W = W + v: the same while lr is constant, but a
    change of lr takes effect only as fast as the velocity forgets.

    Helps: the best final accuracy for conv nets when the learning rate is tuned and annealed.
    Hurts: sensitive to the learning rate; slow where the loss is steep in one direction and flat in another.
    Cost: one number per weight (none without momentum).
    Source: Polyak 1964, Nesterov 1983, Sutskever et al. 2013; CS231n, momentum (the slide's x += lr dx for sgd climbs: a sign slip).
    """

    lr: Positive = 0.1
    momentum: Decay = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    form: Literal["step", "velocity"] = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise UsageError("sgd: nesterov=True looks ahead along the momentum, so expected momentum above 0, received 0.")

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        groups = list(groups)
        if self.form == "velocity":
            return keep_layout_on_load(VelocitySgd(groups, self.lr, self.momentum, self.nesterov, self.weight_decay))
        sgd = torch.optim.SGD(
            groups, self.lr, self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=can_fuse(groups)
        )
        return keep_layout_on_load(sgd)


@dataclasses.dataclass(frozen=True)
class Adagrad(Optimizer):
    """h = h + g^2, W = W - lr g / (sqrt(h) + eps): every weight has its own learning rate, which only falls.

    Helps: sparse or badly scaled gradients, and convex problems.
    Hurts: long trainings: h only grows, so the steps shrink until nothing moves.
    Cost: one number per weight.
    Source: Duchi et al. 2011; CS231n, AdaGrad (eps as on the slide; the worked steps lose a term and a root there).
    """

    lr: Positive = 0.01
    eps: Positive = 1e-7
    weight_decay: NonNegative = 0.0

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        groups = list(groups)
        adagrad = torch.optim.Adagrad(groups, self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=can_fuse(groups))
        return keep_layout_on_load(adagrad)


@dataclasses.dataclass(frozen=True)
class Rmsprop(Optimizer):
    """h = alpha h + (1 - alpha) g^2, W = W - lr g / (sqrt(h) + eps): adagrad that forgets.

    Helps: badly scaled gradients, in trainings of any length.
    Hurts: the first steps are large, because h starts at zero; adam corrects that.
    Cost: one number per weight, a second with momentum.
    Source: Tieleman & Hinton 2012; CS231n, RMSProp (eps as on the slide).
    """

    lr: Positive = 0.001
    alpha: Decay = 0.99
    eps: Positive = 1e-7
    momentum: Decay = 0.0
    weight_decay: NonNegative = 0.0

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        return keep_layout_on_load(torch.optim.RMSprop(list(groups), **dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Running averages m of g and v of g^2, both corrected for their start at zero; W = W - lr m / (sqrt(v) + eps).

    With bias_correction=False it is the slides' "almost" Adam, whose first step is 3.16 times the learning rate. Its weight_decay is
    the classic one, added to the gradient and so rescaled with it; see adamw.

    Helps: works over a wide range of learning rates; sparse or badly scaled gradients.
    Hurts: often a little behind tuned sgd on conv nets.
    Cost: two numbers per weight.
    Source: Kingma & Ba 2014; CS231n, Adam (the slide's eps is 1e-7, and its last bracket opens nowhere; here torch's
    1e-8).
    """

    lr: Positive = 0.001
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    bias_correction: bool = True

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        groups = list(groups)
        if not self.bias_correction:
            return keep_layout_on_load(UncorrectedAdam(groups, self.lr, self.betas, self.eps, self.weight_decay))
        return keep_layout_on_load(torch.optim.Adam(groups, self.lr, self.betas, self.eps, self.weight_decay, fused=can_fuse(groups)))


@dataclasses.dataclass(frozen=True)
class Adamw(Optimizer):
    """Adam with decoupled weight decay: the weights shrink by lr weight_decay W, whatever the size of the gradients.

    Helps: the robust choice for short trainings and untuned nets.
    Hurts: a little behind tuned sgd on small conv nets.
    Cost: two numbers per weight.
    Source: Loshchilov & Hutter 2017.
    """

    lr: Positive = 0.001
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01

    def __call__(self, groups: Groups) -> torch.optim.Optimizer:
        groups = list(groups)
        return keep_layout_on_load(torch.optim.AdamW(groups, **dataclasses.asdict(self), fused=can_fuse(groups)))
