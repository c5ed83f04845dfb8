"""The start of the weights, and what batch norm does to it."""

from __future__ import annotations

import math

import torch
from torch import nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Init, Norm
from goodfit.inspection.chance import OwnChance
from goodfit.inspection.layer_spread import measure_spread
from goodfit.lab.laboratory import BASE, Laboratory, curve
from goodfit.lab.nets import Stages
from goodfit.lab.replicate import Curves, Replicate, tabulate
from goodfit.layers import norm
from goodfit.layers.activation import Tanh
from goodfit.layers.init import Gaussian, Xavier, initialize, weight_layers
from goodfit.models.convnet import Convnet
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd

DEPTH, WIDTH = 10, 100
STDS = (0.001, 0.01, 0.1, 1.0)
RATES = tuple(10.0 ** (k / 2) for k in range(-5, 3))  # 0.003 to 10


def spread(lab: Laboratory, seed: int) -> Replicate:
    """S060: ten tanh layers from weights of three scales."""
    batch = lab.images(256, recipe=BASE.but(size=16))
    inits: dict[str, Init] = {"std 0.01": Gaussian(0.01), "std 1": Gaussian(1.0), "xavier": Xavier()}
    layers, slopes, accuracy = {}, {}, {}
    curves: Curves = {}
    for name, init in inits.items():
        part = Mlp((WIDTH,) * DEPTH, act=Tanh(), init=init)
        with OwnChance(seed).active():
            net = part(batch.targets.shape[1], batch.images.shape[1], (16, 16))
        layers[name] = measure_spread(net, nn.functional.cross_entropy, batch.images, batch.targets.argmax(1)).layers[:-1]
        slopes[name] = _gradients(net, batch)
        trained = lab.train(seed, 400, BASE.but(model=part, size=16, optimizer=Sgd(0.02, momentum=0.9), clip=5.0))
        accuracy[name] = trained.accuracy("train")
        curves["Spread of the activations", "layer", name] = [(float(k), layer.passes) for k, layer in enumerate(layers[name], 1)]
        curves["Norm of the gradient", "layer", name] = [(float(k), x) for k, x in enumerate(slopes[name], 1)]
        curves["Training loss", "step", name] = curve(trained.losses)
    small, large, right = (layers[name] for name in inits)
    effects = (
        small[0].passes / small[-1].passes,
        slopes["xavier"][0] / slopes["std 0.01"][0],
        large[-1].flat,
        right[-1].passes / right[0].passes,
        accuracy["xavier"] - max(accuracy["std 0.01"], accuracy["std 1"]),
    )
    return Replicate(effects, {f"training accuracy, {name}": x for name, x in accuracy.items()}, curves)


def _gradients(net: nn.Module, batch: Batch) -> list[float]:
    """The norm of the gradient of each hidden layer's weights."""
    net.zero_grad()
    nn.functional.cross_entropy(net(batch.images), batch.targets).backward()  # type: ignore[no-untyped-call]
    return [float(layer.weight.grad.norm()) for layer in weight_layers(net) if layer.weight.grad is not None][:-1]


def batch_norm_forgives(lab: Laboratory, seed: int) -> Replicate:
    """S064: six tanh layers with and without batch norm, from weights of four scales."""
    norms: dict[str, Norm] = {"no norm": norm.None_(), "batch norm": norm.Batch()}
    ranges = []
    numbers: dict[str, float] = {}
    curves: Curves = {}
    for name, part in norms.items():
        found = []
        for std in STDS:
            model = Mlp((64,) * 6, act=Tanh(), norm=part, init=Gaussian(std))
            found.append(
                lab.train(seed, 300, BASE.but(model=model, size=16, optimizer=Sgd(0.05, momentum=0.9), clip=5.0)).accuracy("train")
            )
            numbers[f"training accuracy, {name}, std {std:g}"] = found[-1]
        ranges.append(max(found) - min(found))
        curves["Training accuracy", "log10 of the std", name] = [(math.log10(std), x) for std, x in zip(STDS, found, strict=True)]
    return Replicate((ranges[0] - ranges[1],), numbers, curves)


def batch_norm_helps(lab: Laboratory, seed: int) -> Replicate:
    """S069: a conv net with and without batch norm: rates that train, the gradient of the first layer, the gap."""
    norms: dict[str, Norm] = {"without": norm.None_(), "with": norm.Batch()}
    batch = lab.images(128, recipe=BASE.but(size=16))
    top, flow, gap = {}, {}, {}
    curves: Curves = {}
    for name, part in norms.items():
        recipe = BASE.but(model=Convnet(8, norm=part), size=16)
        losses = {rate: lab.train(seed, 150, recipe.but(optimizer=Sgd(rate, momentum=0.9), schedule="constant")) for rate in RATES}
        level = 0.95 * math.log(batch.targets.shape[1])
        learned = [rate for rate, one in losses.items() if one.last_loss < level]
        top[name] = max(learned, default=RATES[0])
        flow[name] = _share_in_first_layer(part, batch.images, batch.targets.argmax(1), seed)
        trained = lab.train(seed, 600, recipe.but(optimizer=Sgd(0.05, momentum=0.9)))
        gap[name] = trained.accuracy("train") - trained.accuracy()
        curves["Training loss", "step", name] = curve(trained.losses)
    numbers = tabulate({"largest rate": top, "gradient, first layer over last": flow, "gap": gap})
    is_bound = top["without"] == RATES[0] or top["with"] == RATES[-1]
    effects = top["with"] / top["without"], flow["with"] / flow["without"], gap["without"] - gap["with"]
    return Replicate(effects, numbers, curves, (0,) if is_bound else ())


def _share_in_first_layer(part: Norm, images: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
    """The gradient of the first conv of eight over that of the last, from weights of std 0.01."""
    with OwnChance(seed).active():
        net = Stages((2, 3, 3), (16, 16, 16), norm=part)(int(labels.max()) + 1, images.shape[1], (16, 16))
        initialize(net, Gaussian(0.01), list(net.children())[-1])  # type: ignore[arg-type]
    net.train()
    nn.functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
    norms = [float(conv.weight.grad.norm()) for conv in net.modules() if isinstance(conv, nn.Conv2d) and conv.weight.grad is not None]
    return norms[0] / norms[-1]
