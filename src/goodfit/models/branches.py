"""Nets that branch: paths side by side within a block, and auxiliary heads on the way to the last one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Activation, Init, Model, Noise, Norm
from goodfit.core.settings import NonNegative
from goodfit.layers.activation import Relu, width_of
from goodfit.layers.init import He, None_, initialize
from goodfit.layers.noise import Dropout
from goodfit.layers.norm import Batch
from goodfit.models.blocks import Kernel, Look, Stem, conv, named


def unit(n_in: int, n_out: int, look: Look, kernel: Kernel = 1, *, stride: int = 1, pad: bool = True) -> nn.Sequential:
    """Conv, norm and activation by torchvision's names."""
    made = conv(n_in, n_out * width_of(look.act), kernel, stride=stride, norm=look.norm, order=look.order, pad=pad)
    return named({"conv": made, **{"bn" if name == "norm" else name: module for name, module in look.after(n_out).items()}})


class Branches(nn.Module):
    """Paths through its children, side by side; what they end in becomes one map, channel after channel.

    Paths that begin alike share what they begin with.
    """

    def __init__(self, children: Mapping[str, nn.Module], paths: Sequence[tuple[str, ...]]) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.paths = tuple(paths)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, the paths' channels, h, w]."""
        done: dict[tuple[str, ...], Tensor] = {(): x}
        for path in self.paths:
            for i, name in enumerate(path):
                if path[: i + 1] not in done:
                    done[path[: i + 1]] = self.get_submodule(name)(done[path[:i]])
        return torch.cat([done[path] for path in self.paths], dim=1)


class Tapped(nn.Module):
    """Children one after the other, and in training auxiliary heads on what some of them put out.

    `heads` are children by the name of the child they tap. [B, C, H, W] -> logits [B, K]; in training, with heads, (logits, pairs of
    their logits and `weight`), as `goodfit.training.heads.heads` takes them.
    """

    def __init__(
        self, children: Mapping[str, nn.Module], heads: Mapping[str, str], weight: float, stage_groups: Mapping[str, tuple[str, ...]]
    ) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.heads, self.weight, self.stage_groups = dict(heads), weight, dict(stage_groups)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[tuple[Tensor, float]]]:
        extras = []
        for name, child in self.named_children():
            if name in self.heads.values():
                continue
            x = child(x)
            if self.training and name in self.heads:
                extras.append((self.get_submodule(self.heads[name])(x), self.weight))
        return (x, extras) if extras else x


@dataclasses.dataclass(frozen=True)
class Branching(Model):
    """The settings that these nets share."""

    stem: Stem = "auto"
    aux: NonNegative = 0.4
    act: Activation = Relu()
    norm: Norm = Batch(eps=1e-3)
    init: Init = He()
    drop: Noise = Dropout()


def calm(heads: Sequence[nn.Linear]) -> None:
    """Make auxiliary heads small, as the head is, so that their first losses are near ln K too."""
    for last in heads:
        initialize(last, None_(), last)
