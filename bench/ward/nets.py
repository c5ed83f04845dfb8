"""The networks of the ward from one specification: linear, MLP, CNN, VGG, ResNet, depthwise, dense, transformer, mixer, with any activation
and norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.ward.tokens import Dense, build_tokens

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "elu": nn.ELU, "sigmoid": nn.Sigmoid, "none": nn.Identity,
}  # fmt: skip
GROUPS = 4  # of group norm
TOKENS = ("transformer", "mixer")


@dataclasses.dataclass(frozen=True)
class Net:
    """What a network is made of.

    Attributes:
        family: linear, mlp, cnn, vgg, resnet, depthwise, dense, transformer or mixer.
        width: channels of the first stage, or units of a hidden layer.
        depth: hidden layers of an MLP, or blocks per stage.
        act: a key of `ACTIVATIONS`.
        norm: none, batch, group or layer.
        dropout: share of features dropped before the last layer.
        skip: whether residual blocks have their shortcut.
        outputs: 0 for as many as there are classes.
    """

    family: str
    width: int = 16
    depth: int = 1
    act: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    skip: bool = True
    outputs: int = 0

    @property
    def is_convolutional(self) -> bool:
        return self.family not in ("linear", "mlp", *TOKENS)


class Block(nn.Module):
    """Two convolutions, and the input added to what comes out of them if `skip`."""

    def __init__(self, net: Net, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(net, inputs, width, stride), *_conv(net, width, width)[:-1])
        self.act = ACTIVATIONS[net.act]()
        same = inputs == width and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.skip = net.skip

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, D, H / stride, W / stride]
        y = self.body(x)
        return self.act(y + self.short(x) if self.skip else y)


def build_net(net: Net, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the network for images of `shape` [C, H, W]; weights come from torch's default generator."""
    channels, height, width = shape
    outputs = net.outputs or classes
    if net.family == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, outputs))
    if net.family == "mlp":
        return nn.Sequential(nn.Flatten(), *_hidden(net, channels * height * width), *_drop(net), nn.Linear(net.width, outputs))
    if net.family in TOKENS:
        layers, features = build_tokens(net.family, shape, net.width, net.depth, net.skip, net.norm != "none", ACTIVATIONS[net.act])
        return nn.Sequential(*layers, *_drop(net), nn.Linear(features, outputs))
    stages, features = {"cnn": _plain, "vgg": _plain, "resnet": _residual, "depthwise": _depthwise, "dense": _dense}[net.family](
        net, channels
    )
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *_drop(net), nn.Linear(4 * features, outputs))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and net.act in ("relu", "gelu", "elu"):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model


def _norm(net: Net, width: int, flat: bool = False) -> list[nn.Module]:
    if net.norm == "none":
        return []
    if flat:
        return [nn.BatchNorm1d(width) if net.norm == "batch" else nn.LayerNorm(width)]
    return [nn.BatchNorm2d(width) if net.norm == "batch" else nn.GroupNorm(GROUPS if net.norm == "group" else 1, width)]


def _drop(net: Net) -> list[nn.Module]:
    return [nn.Dropout(net.dropout)] if net.dropout else []


def _hidden(net: Net, inputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for k in range(net.depth):
        linear = nn.Linear(net.width if k else inputs, net.width)
        if net.depth > 4 and net.act == "relu":
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, *_norm(net, net.width, flat=True), ACTIVATIONS[net.act]()]
    return layers


def _conv(net: Net, inputs: int, width: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, width, 3, stride, padding=1, groups=groups)
    return [conv, *_norm(net, width), ACTIVATIONS[net.act]()]


def _plain(net: Net, channels: int) -> tuple[list[nn.Module], int]:
    layers, inputs = [], channels
    for width in (net.width, 2 * net.width, 4 * net.width):
        for _ in range(net.depth):
            layers += _conv(net, inputs, width)
            inputs = width
        layers.append(nn.AvgPool2d(2) if net.family == "cnn" else nn.MaxPool2d(2))
    return layers[:-1], inputs


def _residual(net: Net, channels: int) -> tuple[list[nn.Module], int]:
    layers, inputs = _conv(net, channels, net.width), net.width
    for stage, width in enumerate((net.width, 2 * net.width, 4 * net.width)):
        for k in range(net.depth):
            layers.append(Block(net, inputs, width, 2 if stage and not k else 1))
            inputs = width
    return layers, inputs


def _depthwise(net: Net, channels: int) -> tuple[list[nn.Module], int]:
    layers, inputs = _conv(net, channels, net.width), net.width
    for stage, width in enumerate((2 * net.width, 4 * net.width)):
        for k in range(net.depth):
            layers += _conv(net, inputs, inputs, 1 if k or not stage else 2, groups=inputs)
            layers += [nn.Conv2d(inputs, width, 1), *_norm(net, width), ACTIVATIONS[net.act]()]
            inputs = width
        layers.append(nn.AvgPool2d(2))
    return layers[:-1], inputs


def _dense(net: Net, channels: int) -> tuple[list[nn.Module], int]:
    layers, inputs = _conv(net, channels, net.width), net.width
    for _ in range(2):
        for _ in range(net.depth):
            layers.append(Dense(nn.Sequential(*_conv(net, inputs, net.width))))
            inputs += net.width
        layers.append(nn.AvgPool2d(2))
    return layers[:-1], inputs


def last_linear(model: nn.Module) -> nn.Linear:
    """The layer that gives the scores."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]


def weighted_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers, in the order they are in the model."""
    return [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


class Function(nn.Module):
    """A layer that applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


def replace_layers(
    model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...], make: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Put another layer in the place of each of a kind, and return the model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))
    return model


def trunk_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of everything but the layer of scores."""
    head = {id(p) for p in last_linear(model).parameters()}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach().clone() for name, value in named.items() if id(value) not in head}


def load_trunk(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load what `trunk_state` gave, and return the model."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in state.items():
            named[name].copy_(value)
    return model
