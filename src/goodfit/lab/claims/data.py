"""Images and models: pixel distance, normalization, too little data."""

from __future__ import annotations

import math
from typing import Any

import torch

from goodfit.core.batch import Batch
from goodfit.core.contracts import Model
from goodfit.core.errors import UsageError
from goodfit.inspection.chance import OwnChance
from goodfit.lab.laboratory import BASE, Laboratory, Training, compare_steps, curve
from goodfit.lab.replicate import Curves, Replicate, tabulate
from goodfit.losses.softmax import Softmax
from goodfit.models.convnet import Convnet
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.models.nearest import Nearest
from goodfit.optim.first_order import Sgd

NOISE, DRAWS = 0.2, 10  # share of a weight's root mean square that is added to it, and how often
STEPS = 300  # of linear softmax on raw and normalized pixels
SHARES = (16, 4, 1)  # a training sees one in so many images
MODELS: dict[str, tuple[Model, Sgd]] = {
    "linear": (Linear(), Sgd(0.005, momentum=0.9)),
    "perceptron": (Mlp((512,)), Sgd(0.02, momentum=0.9)),
}


def pixel_distance(lab: Laboratory, seed: int) -> Replicate:
    """S003: one nearest neighbor, linear softmax and a conv net on the same images."""
    nearest = lab.train(seed, 1, BASE.but(model=Nearest())).accuracy()
    linear = lab.best(seed, 300, BASE.but(model=Linear()), [Sgd(lr, momentum=0.9) for lr in (0.001, 0.005)]).accuracy()
    net = lab.best(seed, 600, BASE.but(model=Convnet(8), size=16), [Sgd(lr, momentum=0.9) for lr in (0.02, 0.1)]).accuracy()
    return Replicate((linear - nearest, net - linear), {"nearest neighbor": nearest, "linear softmax": linear, "conv net": net})


def normalization(lab: Laboratory, seed: int) -> Replicate:
    """S008: linear softmax on pixels from 0 to 1, and on normalized ones."""
    _, data = lab.open()
    channels, level = data.preprocess.channels, 0.85 * math.log(len(data.classes))
    raw = BASE.but(mean=(0.0,) * channels, std=(1.0,) * channels)
    best: dict[str, Training] = {}
    curves: Curves = {}
    for name, recipe in (("normalized", BASE), ("raw", raw)):
        rates = [Sgd(10.0 ** (k / 2)) for k in range(-6, 0)]
        trainings = [lab.train(seed, STEPS, recipe.but(model=Linear(), optimizer=rate, schedule="constant")) for rate in rates]
        best[name] = min(trainings, key=lambda one: (one.steps_until(level), one.last_loss))
        curves["Training loss", "step", name] = curve(best[name].losses)
    steps = {name: one.steps_until(level) for name, one in best.items()}
    ratio, is_bound = compare_steps(steps["raw"], steps["normalized"], lab.steps(STEPS))
    changes = _changes(best["normalized"], lab.images(1000), lab.images(1000, recipe=raw), seed)
    numbers = tabulate({"change of the loss": changes}) | {"steps, normalized": steps["normalized"]}
    return Replicate((changes["raw"] / changes["normalized"], ratio), numbers, curves, (1,) if is_bound else ())


@torch.no_grad()
def _changes(trained: Training, normalized: Batch, raw: Batch, seed: int) -> dict[str, float]:
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
    """S134: linear softmax and a perceptron on one in 16 images, one in 4, and all."""
    _, data = lab.open(BASE.but(size=16))
    fewest = min(data.class_counts())
    if fewest < 4 * SHARES[0]:
        raise UsageError(f"Expected {4 * SHARES[0]} training images of each class or more for this claim, found {fewest}.")
    train, test = dict[tuple[str, int], float](), dict[tuple[str, int], float]()
    curves: Curves = {}
    for name, (model, optimizer) in MODELS.items():
        for share in SHARES:
            training = lab.train(seed, 600, BASE.but(model=model, optimizer=optimizer, size=16), per_class=fewest // share)
            train[name, share], test[name, share] = training.accuracy("train"), training.accuracy()
            for split, accuracies in (("training", train), ("test", test)):
                line = curves.setdefault(("Accuracy by the number of images", "images of a class", f"{name}, {split}"), [])
                line.append((float(fewest // share), accuracies[name, share]))
    few, all_images = ("perceptron", SHARES[0]), ("perceptron", SHARES[-1])
    effects = (
        (train[few] - test[few]) - (train[all_images] - test[all_images]),
        test[all_images] - test[few],
        train[all_images] - train["linear", SHARES[-1]],
    )
    columns = {what: {f"{name}, 1/{share}": x for (name, share), x in of.items()} for what, of in (("training", train), ("test", test))}
    return Replicate(effects, tabulate(columns), curves)
