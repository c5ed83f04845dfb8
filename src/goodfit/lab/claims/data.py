"""Images and models: pixel distance, normalization, too little data."""

from __future__ import annotations

import math
from typing import Any

import torch

from goodfit.core.batch import Batch
from goodfit.core.errors import UsageError
from goodfit.inspection.chance import OwnChance
from goodfit.lab.claim import Curves, Replicate, tabulate
from goodfit.lab.laboratory import BASE, Laboratory, Trained, curve
from goodfit.losses.softmax import Softmax
from goodfit.models.convnet import Convnet
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.models.nearest import Nearest
from goodfit.optim.first_order import Sgd

NOISE, DRAWS = 0.2, 10  # share of a weight's root mean square that is added to it, and how often
SHARES = (16, 4, 1)  # a training sees one in so many images


def pixel_distance(lab: Laboratory, seed: int) -> Replicate:
    """S003."""
    nearest = lab.train(seed, 1, BASE.but(model=Nearest())).accuracy()
    linear = lab.best(seed, 300, BASE.but(model=Linear()), [Sgd(lr, momentum=0.9) for lr in (0.001, 0.005)]).accuracy()
    net = lab.train(seed, 600, BASE.but(model=Convnet(8), size=16)).accuracy()
    numbers = {"nearest neighbor": nearest, "linear softmax": linear, "conv net": net}
    return Replicate((linear - nearest, net - nearest), numbers)


def normalization(lab: Laboratory, seed: int) -> Replicate:
    """S008."""
    channels = lab.open()[1].preprocess.channels
    raw = BASE.but(mean=(0.0,) * channels, std=(1.0,) * channels)  # pixels from 0 to 1, as they are
    best = {}
    curves: Curves = {}
    for name, recipe in (("normalized", BASE), ("raw", raw)):
        rates = [Sgd(10.0 ** (k / 2)) for k in range(-6, 0)]
        tried = [lab.train(seed, 300, recipe.but(model=Linear(), optimizer=rate, schedule="constant")) for rate in rates]
        level = 0.85 * math.log(len(tried[0].data.classes))
        best[name] = min(tried, key=lambda one: (one.steps_until(level), one.losses[-1]))
        curves["Training loss", "step", name] = curve(best[name].losses)
    steps = {name: float(one.steps_until(level)) for name, one in best.items()}
    changes = _changes(best["normalized"], lab.images(1000), lab.images(1000, recipe=raw), seed)
    numbers = tabulate({"steps": steps, "change of the loss": changes})
    return Replicate((changes["raw"] / changes["normalized"], steps["raw"] / steps["normalized"]), numbers, curves)


@torch.no_grad()
def _changes(trained: Trained, normalized: Batch, raw: Batch, seed: int) -> dict[str, float]:
    """How much the loss changes in the mean when noise is added to the weights of a linear classifier, and to those of the very same one
    for raw pixels.
    """
    head: Any = trained.model.get_submodule("head")
    pre, pixels = trained.data.preprocess, math.prod(normalized.images.shape[2:])
    mean, std = (torch.tensor(x).repeat_interleave(pixels) for x in (pre.mean, pre.std))
    weight, bias = head.weight / std, head.bias - head.weight @ (mean / std)
    cases = {"normalized": (normalized, head.weight, head.bias), "raw": (raw, weight, bias)}
    changes = {}
    for name, (batch, weight, bias) in cases.items():
        x, size = batch.images.flatten(1), NOISE * weight.square().mean().sqrt()
        before = Softmax()(x @ weight.T + bias, batch.targets).mean()
        with OwnChance(seed).active():
            noisy = [weight + size * torch.randn_like(weight) for _ in range(DRAWS)]
        changes[name] = sum(abs(float(Softmax()(x @ w.T + bias, batch.targets).mean() - before)) for w in noisy) / DRAWS
    return changes


def learning_curve(lab: Laboratory, seed: int) -> Replicate:
    """S134."""
    most = lab.count_images(BASE.but(size=16))
    if most < SHARES[0] * 4:
        raise UsageError(f"Expected {SHARES[0] * 4} images of a class or more for this claim, found {most}.")
    numbers: dict[str, float] = {}
    curves: Curves = {}
    nets = {"linear": (Linear(), Sgd(0.005, momentum=0.9)), "perceptron": (Mlp((512,)), Sgd(0.02, momentum=0.9))}
    for name, (model, optimizer) in nets.items():
        for share in SHARES:
            limit = most // share
            trained = lab.train(seed, 600, BASE.but(model=model, optimizer=optimizer, size=16, limit=limit))
            test = lab.test_on(trained, BASE.but(size=16))
            train = trained.accuracy("train")
            numbers |= {f"{name}, training, 1/{share}": train, f"{name}, test, 1/{share}": test}
            for split, accuracy in (("training", train), ("test", test)):
                line = curves.setdefault(("Accuracy by the number of images", "images of a class", f"{name}, {split}"), [])
                line.append((float(limit), accuracy))
    small, large = (numbers[f"perceptron, training, 1/{n}"] - numbers[f"perceptron, test, 1/{n}"] for n in (SHARES[0], SHARES[-1]))
    gain = numbers[f"perceptron, test, 1/{SHARES[-1]}"] - numbers[f"perceptron, test, 1/{SHARES[0]}"]
    flexible = numbers[f"perceptron, training, 1/{SHARES[-1]}"] - numbers[f"linear, training, 1/{SHARES[-1]}"]
    return Replicate((small - large, gain, flexible), numbers, curves)
