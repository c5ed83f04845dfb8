"""How the processes of one training stay together: by the gradient of each step, or by their weights, once every few steps."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from goodfit.core.contracts import Sync
from goodfit.core.settings import Count, Share


@dataclasses.dataclass(frozen=True)
class Gradients(Sync):
    """Each step moves all processes by the mean gradient of all its images: they train what one process trains.

    Helps: the result does not depend on how many processes there are.
    Hurts: slow networks, and many processes, for which each step waits.
    Cost: the gradient of every weight is sent in each step.
    Source: lecture "distributed training"; Dean et al. 2012, synchronous.
    """

    def __call__(self, own: Tensor, mean: Tensor, center: Tensor, size: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Average(Sync):
    """Local SGD: each process moves by the gradient of its own images, and every `every` steps all take the mean of their weights.

    Momentum, and whatever else the optimizer remembers, stays with its process and is not sent.

    Helps: slow networks and uneven processes: in between nothing is sent, and nobody waits.
    Hurts: the result depends on the number of processes, and the mean of weights that are far apart is a poor model.
    Cost: the weights are sent once in `every` steps.
    Source: lecture "workers train alone and average their parameters"; Stich 2019 (local SGD).
    """

    every: Count = 16

    def __call__(self, own: Tensor, mean: Tensor, center: Tensor, size: int) -> None:
        own.copy_(mean)
        center.copy_(mean)


@dataclasses.dataclass(frozen=True)
class PostLocal(Average):
    """Gradients are averaged in each step until progress `start`; from there on it is local SGD, as in average.

    Helps: large steps of many processes, whose last weights generalize better for the noise that each adds alone.
    Hurts: where the network is slow from the start.
    Cost: up to `start` that of gradients, then that of average.
    Source: Lin et al. 2020 (don't use large mini-batches, use local SGD), which starts where the rate is first lowered.
    """

    every: Count = 16
    start: Share = 0.5


@dataclasses.dataclass(frozen=True)
class Elastic(Sync):
    """Elastic averaging: every `every` steps each process is pulled to a center, and the center to their mean; the center is the model.

    The center moves by the share `beta` of its way to the mean of the processes, each of n processes by beta / n of its way to the center.

    Helps: wide exploration: processes may stay apart for long, and the center is smoother than any of them.
    Hurts: short trainings, in which the center lags behind.
    Cost: that of average, and one more copy of the weights. A running average is of the processes' weights, not of the center.
    Source: Zhang, Choromanska & LeCun 2015 (EASGD), synchronous, with their beta.
    """

    keeps_center = True
    every: Count = 16
    beta: Share = 0.9

    def __call__(self, own: Tensor, mean: Tensor, center: Tensor, size: int) -> None:
        own.sub_(own - center, alpha=self.beta / size)
        center.lerp_(mean, self.beta)
