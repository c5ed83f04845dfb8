"""Conv nets: kernels, pooling, depth, shortcuts and speed."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Norm
from goodfit.inspection.chance import OwnChance
from goodfit.lab.laboratory import BASE, Laboratory, Training, curve
from goodfit.lab.nets import NarrowResnet, Stages
from goodfit.lab.replicate import Curves, Replicate, tabulate
from goodfit.layers import norm
from goodfit.layers.init import weight_layers
from goodfit.models.anatomy.account import account_for
from goodfit.models.mlp import Mlp
from goodfit.models.resnet import Resnet
from goodfit.models.vgg import STAGES, Vgg

SIDE, IMAGES, PASSES = 224, 2, 3  # of a forward pass that is timed
LAYERS = (nn.Conv2d, nn.Linear)
WIDTHS = (8, 16, 32, 32, 32)  # of the narrow nets with the stages of VGG
DEPTHS = {11: "A", 13: "B", 16: "D", 19: "E"}


def small_kernels(lab: Laboratory, seed: int) -> Replicate:
    """S146: two stages of one 7x7 conv each, and of three 3x3 convs each."""
    nets = {"7x7": Stages((1, 1), (16, 16), 7, norm.Batch()), "three 3x3": Stages((3, 3), (16, 16), 3, norm.Batch())}
    weights, seconds, tests = {}, {}, {}
    curves: Curves = {}
    for name, model in list(nets.items())[:: -1 if seed % 2 else 1]:  # the first one is timed on a cold machine
        trained = lab.train(seed, 400, BASE.but(model=model, size=16))
        stage = [child for child_name, child in trained.model.named_children() if child_name.startswith("stage2_")]
        weights[name] = sum(layer.weight.numel() for child in stage for layer in weight_layers(child))
        seconds[name] = trained.seconds / len(trained.losses)
        tests[name] = trained.accuracy()
        curves["Training loss", "step", name] = curve(trained.losses)
    numbers = tabulate({"weights of a stage": weights, "seconds of a step": seconds, "test accuracy": tests})
    effects = weights["7x7"] / weights["three 3x3"], seconds["7x7"] / seconds["three 3x3"], tests["three 3x3"] - tests["7x7"]
    return Replicate(effects, numbers, curves)


def shift_invariance(lab: Laboratory, seed: int) -> Replicate:
    """S149: a conv net with max pooling, one with strides and a perceptron, on images that move by a pixel."""
    images = lab.images(1000, "test", BASE.but(size=16)).images
    parts = {"max pooling": Stages((2, 2, 2)), "strides": Stages((2, 2, 2), halved_by="stride"), "perceptron": Mlp((128,))}
    changes = {}
    numbers: dict[str, float] = {}
    for name, model in parts.items():
        trained = lab.train(seed, 400, BASE.but(model=model, size=16, clip=5.0))
        changes[name] = _change_by_shift(trained, images)
        numbers |= {f"change, {name}": changes[name], f"test accuracy, {name}": trained.accuracy()}
    return Replicate((changes["strides"] / changes["max pooling"], changes["perceptron"] / changes["max pooling"]), numbers)


@torch.no_grad()
def _change_by_shift(trained: Training, images: Tensor) -> float:
    """How far the scores move when images move by a pixel to each side, in units of the scores' spread over images."""
    model = trained.model.eval()
    scores = model(images)
    framed = F.pad(images, (1, 1, 1, 1), mode="replicate")
    side = images.shape[2]
    windows = [framed[:, :, y : y + side, x : x + side] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))]
    moved = statistics.fmean(float((model(window) - scores).square().sum(1).mean()) for window in windows)
    return float((moved / (scores - scores.mean(0)).square().sum(1).mean()) ** 0.5)


@torch.no_grad()
def resnet_speed(lab: Laboratory, seed: int) -> Replicate:
    """S170: the layers, multiply-adds and speed of ResNet-152 and of VGG nets."""
    macs, layers, speed = {}, {}, {}
    for name, part in (("ResNet-152", Resnet(152)), ("VGG-19", Vgg(19)), ("VGG-16", Vgg(16))):
        with torch.device("meta"):
            net = part(1000, 3, (SIDE, SIDE))
        layers[name] = sum("downsample" not in path for path, module in net.named_modules() if isinstance(module, LAYERS))
        macs[name] = account_for(net, 3, (SIDE, SIDE)).totals["macs"] / 1e9
        if name != "VGG-16":
            speed[name] = _measure_speed(net, seed)
    numbers = tabulate({"layers": layers, "billion multiply-adds": macs, "images a second": speed})
    effects = (
        layers["ResNet-152"] / layers["VGG-19"],
        macs["VGG-16"] / macs["ResNet-152"],
        macs["VGG-19"] / macs["ResNet-152"],
        speed["ResNet-152"] / speed["VGG-19"],
    )
    return Replicate(effects, numbers)


def _measure_speed(net: nn.Module, seed: int) -> float:
    """The images a second of the fastest of some forward passes of a net without weights, which all become equal."""
    filled = net.to_empty(device="cpu").eval()
    for value in filled.state_dict().values():
        value.fill_(0.01)
    with OwnChance(seed).active():
        images = torch.randn(IMAGES, 3, SIDE, SIDE)
    times = []
    for _ in range(1 + PASSES):  # the first one warms up
        began = time.perf_counter()
        filled(images)
        times.append(time.perf_counter() - began)
    return IMAGES / min(times[1:])


def shortcuts(lab: Laboratory, seed: int) -> Replicate:
    """S172: nets of 20 and 44 layers with and without shortcuts."""
    ends = {}
    curves: Curves = {}
    for layers, blocks in ((20, 3), (44, 7)):
        for name, shortcut in (("plain", "none"), ("residual", "pad")):
            model = NarrowResnet(blocks, 8, shortcut)  # type: ignore[arg-type]
            trained = lab.train(seed, 300, BASE.but(model=model, size=16))
            ends[f"{name}, {layers} layers"] = statistics.fmean(trained.losses[-50:])
            curves["Training loss", "step", f"{name}, {layers} layers"] = curve(trained.losses)
    deep = ends["plain, 44 layers"]
    numbers = {f"training loss, {name}": x for name, x in ends.items()}
    return Replicate((deep / ends["plain, 20 layers"], deep / ends["residual, 44 layers"]), numbers, curves)


def vgg_batch_norm(lab: Laboratory, seed: int) -> Replicate:
    """S175: narrow nets with the stages of four VGG nets, with and without batch norm."""
    norms: dict[str, Norm] = {"without": norm.None_(), "with": norm.Batch()}
    gains = {}
    numbers: dict[str, float] = {}
    for depth, letter in DEPTHS.items():
        convs = tuple(map(len, STAGES[letter]))
        recipe = BASE.but(size=16, optimizer="sgd(0.03, momentum=0.9, weight_decay=0.0005)", clip=5.0)
        nets = {name: Stages(convs, WIDTHS, norm=part) for name, part in norms.items()}
        tests = {name: lab.train(seed, 300, recipe.but(model=net)).accuracy() for name, net in nets.items()}
        gains[depth] = tests["with"] - tests["without"]
        numbers |= {f"stages of VGG-{depth}, {name}": x for name, x in tests.items()}
    mean = statistics.fmean(gains.values())
    line = [(float(depth), gain) for depth, gain in gains.items()]
    return Replicate((mean, gains[19] - gains[11]), numbers, {("Gain of batch norm", "layers", "test accuracy"): line})
