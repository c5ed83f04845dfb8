"""What nets with parallel branches share: blocks of parallel paths, and auxiliary heads."""

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
from goodfit.models.blocks import Kernel, NormAct, Stem, make_conv, named_sequential


def basic_conv(n_in: int, n_out: int, norm_act: NormAct, kernel: Kernel = 1, *, stride: int = 1, pad: bool = True) -> nn.Sequential:
    """Make a conv, norm and activation with the names of torchvision's BasicConv2d."""
    conv = make_conv(n_in, n_out * width_of(norm_act.act), kernel, stride=stride, norm=norm_act.norm, order=norm_act.order, pad=pad)
    return named_sequential({"conv": conv, **{"bn" if name == "norm" else name: module for name, module in norm_act.build(n_out).items()}})


class Branches(nn.Module):
    """Parallel paths through its children, whose outputs are concatenated along the channels; paths with a common start share it."""

    def __init__(self, children: Mapping[str, nn.Module], paths: Sequence[tuple[str, ...]]) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.paths = tuple(paths)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, the paths' channels, h, w]."""
        outputs: dict[tuple[str, ...], Tensor] = {(): x}
        for path in self.paths:
            for i, name in enumerate(path):
                if path[: i + 1] not in outputs:
                    outputs[path[: i + 1]] = self.get_submodule(name)(outputs[path[:i]])
        return torch.cat([outputs[path] for path in self.paths], dim=1)


class NetWithAuxHeads(nn.Module):
    """Children in sequence, and in training auxiliary heads on the outputs of some of them.

    `heads` maps the name of a child to the name of the auxiliary head on its output. [B, C, H, W] -> logits [B, K]; in training, with
    auxiliary heads: (logits, pairs of an auxiliary head's logits and `weight`).
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
class InceptionFamily(Model):
    """The settings that GoogLeNet and Inception v3 share."""

    stem: Stem = "auto"
    aux: NonNegative = 0.4
    act: Activation = Relu()
    norm: Norm = Batch(eps=1e-3)
    init: Init = He()
    drop: Noise = Dropout()


def init_aux_heads(heads: Sequence[nn.Linear]) -> None:
    """Initialize auxiliary heads with small weights, like the head, so that their first losses are near ln K too."""
    for head in heads:
        initialize(head, None_(), head)
