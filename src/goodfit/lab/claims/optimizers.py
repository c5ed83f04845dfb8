"""Optimizers and their rates."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from goodfit.core.contracts import Model, Optimizer
from goodfit.lab.laboratory import BASE, Laboratory, curve
from goodfit.lab.replicate import Curves, Replicate, tabulate
from goodfit.layers.norm import None_
from goodfit.models.convnet import Convnet
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Adagrad, Adam, Rmsprop, Sgd
from goodfit.optim.lbfgs import Lbfgs

ADAM_RATES, ADVISED = (1e-4, 2e-4, 5e-4, 1e-3, 3e-3, 1e-2), (5e-4, 1e-3)
STEPS = 30  # of L-BFGS on all images
NEARLY = 1.02  # times the last loss of L-BFGS: what both have to reach


def adam_rates(lab: Laboratory, seed: int) -> Replicate:
    """S085: four nets by Adam at six rates."""
    nets: dict[str, Model] = {
        "linear": Linear(),
        "perceptron": Mlp((256,)),
        "conv net": Convnet(8),
        "without norm": Convnet(8, norm=None_()),
    }
    behind = []
    numbers: dict[str, float] = {}
    curves: Curves = {}
    for name, model in nets.items():
        trained = {rate: lab.train(seed, 250, BASE.but(model=model, optimizer=Adam(rate), size=16)) for rate in ADAM_RATES}
        tests = {rate: one.accuracy() for rate, one in trained.items()}
        held_out = {rate: one.accuracy("validation") for rate, one in trained.items()}
        best, advised = max(ADAM_RATES, key=held_out.__getitem__), max(ADVISED, key=held_out.__getitem__)
        behind.append(tests[advised] - tests[best])
        numbers |= {f"{name}, advised": tests[advised], f"{name}, best": tests[best], f"{name}, best rate": best}
        curves["Test accuracy by rate", "rate", name] = list(tests.items())
    return Replicate((min(behind),), numbers, curves)


def bake_off(lab: Laboratory, seed: int) -> Replicate:
    """S088: a conv net by five optimizers on several data sets."""
    families: dict[str, list[Optimizer]] = {
        "adam": [Adam(lr) for lr in (0.0005, 0.002, 0.008)],
        "sgd": [Sgd(lr) for lr in (0.05, 0.2, 0.8)],
        "momentum": [Sgd(lr, momentum=0.9) for lr in (0.01, 0.04, 0.16)],
        "rmsprop": [Rmsprop(lr) for lr in (0.0005, 0.002, 0.008)],
        "adagrad": [Adagrad(lr) for lr in (0.005, 0.02, 0.08)],
    }
    leads = []
    numbers: dict[str, float] = {}
    for data in dict.fromkeys((*lab.data, "digits")):
        recipe = BASE.but(model=Convnet(8), size=16, data=data)
        best = {name: lab.best(seed, 150, recipe, some) for name, some in families.items()}
        adam = best.pop("adam")
        other = max(best.values(), key=lambda one: one.accuracy("validation"))
        leads.append(adam.accuracy() - other.accuracy())
        numbers |= {f"{Path(data).name}, {name}": one.accuracy() for name, one in {"adam": adam, **best}.items()}
    return Replicate((statistics.fmean(leads),), numbers)


def full_batch(lab: Laboratory, seed: int) -> Replicate:
    """S093: linear softmax by L-BFGS on all images, by L-BFGS in mini-batches, and by SGD."""
    recipe = BASE.but(model=Linear(), schedule="constant", size=16, penalty="l2(0.001)")
    whole = lab.train(seed, STEPS, recipe.but(optimizer=Lbfgs(), batch_size="all"))
    images = len(whole.data.rows("train"))
    sgd = [lab.train(seed, 64 * STEPS, recipe.but(optimizer=Sgd(lr, momentum=0.9))) for lr in (0.0005, 0.002, 0.01)]
    few = lab.train(seed, STEPS * (images // 64), recipe.but(optimizer=Lbfgs(), noise="allow"))
    level = NEARLY * whole.losses[-1]
    best = min(sgd, key=lambda one: (one.seconds_until(level), one.last_loss))
    seconds = {"L-BFGS": whole.seconds_until(level, 1), "SGD": min(best.seconds_until(level), best.seconds)}
    ends = {"full batch": whole.losses[-1], "mini-batches": min(few.last_loss, math.log(len(whole.data.classes)))}
    lines = {"L-BFGS, all images": (whole, images, 1), "L-BFGS, mini-batches": (few, 64, 20), "SGD, mini-batches": (best, 64, 20)}
    curves = {
        ("Training loss by pass over the images", "pass", name): [(x * batch / images, y) for x, y in curve(one.losses, n)]
        for name, (one, batch, n) in lines.items()
    }
    numbers = tabulate({"seconds": seconds, "loss of L-BFGS": ends})
    is_bound = math.isinf(best.steps_until(level))
    effects = seconds["SGD"] / seconds["L-BFGS"], ends["mini-batches"] / ends["full batch"]
    return Replicate(effects, numbers, curves, (0,) if is_bound else ())


def decay(lab: Laboratory, seed: int) -> Replicate:
    """S102: a conv net by SGD and by Adam, at a constant rate and with a cosine to zero."""
    parts: dict[str, Optimizer] = {"sgd": Sgd(0.05, momentum=0.9), "adam": Adam(0.002)}
    gains = {}
    numbers: dict[str, float] = {}
    curves: Curves = {}
    for name, part in parts.items():
        trained = {
            schedule: lab.train(seed, 500, BASE.but(model=Convnet(8), optimizer=part, size=16, schedule=schedule))
            for schedule in ("constant", "cosine")
        }
        tests = {schedule: one.accuracy() for schedule, one in trained.items()}
        gains[name] = tests["cosine"] - tests["constant"]
        numbers |= {f"{name}, {schedule}": x for schedule, x in tests.items()}
        curves |= {("Training loss", "step", f"{name}, {schedule}"): curve(one.losses) for schedule, one in trained.items()}
    return Replicate((gains["sgd"], gains["sgd"] - gains["adam"]), numbers, curves)
