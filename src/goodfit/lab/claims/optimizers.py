"""Optimizers and their rates."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from goodfit.core.contracts import Model, Optimizer
from goodfit.lab.claim import Curves, Replicate
from goodfit.lab.laboratory import BASE, Laboratory, Trained, curve
from goodfit.layers.norm import None_
from goodfit.models.convnet import Convnet
from goodfit.models.linear import Linear
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Adagrad, Adam, Rmsprop, Sgd
from goodfit.optim.lbfgs import Lbfgs

ADAM_RATES, ADVISED = (1e-4, 2e-4, 5e-4, 1e-3, 3e-3, 1e-2), (5e-4, 1e-3)
STEPS = 30  # of L-BFGS on all images
NEARLY = 1.02  # times the loss of L-BFGS that SGD has to reach


def adam_rates(lab: Laboratory, seed: int) -> Replicate:
    """S085."""
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
    """S088."""
    families: dict[str, list[Optimizer]] = {
        "adam": [Adam(lr) for lr in (0.0005, 0.002, 0.008)],
        "sgd": [Sgd(lr) for lr in (0.05, 0.2, 0.8)],
        "momentum": [Sgd(lr, momentum=0.9) for lr in (0.01, 0.04, 0.16)],
        "rmsprop": [Rmsprop(lr) for lr in (0.0005, 0.002, 0.008)],
        "adagrad": [Adagrad(lr) for lr in (0.005, 0.02, 0.08)],
    }
    leads = []
    numbers: dict[str, float] = {}
    for place, data in enumerate(dict.fromkeys((*lab.data, "digits"))):
        recipe = BASE.but(model=Convnet(8), size=16, data=data)
        best = {name: lab.best(seed, 150, recipe, some) for name, some in families.items()}
        adam = best.pop("adam")
        other = max(best.values(), key=lambda one: one.accuracy("validation"))
        leads.append(adam.accuracy() - other.accuracy())
        numbers |= {f"data {place + 1}, {name}": one.accuracy() for name, one in {"adam": adam, **best}.items()}
    return Replicate((statistics.fmean(leads),), numbers)


def _seconds_until(trained: Trained, loss: float) -> float:
    """Seconds until the mean loss of the last steps is at most this; those of the whole training if it never is."""
    steps = len(trained.losses)
    return trained.seconds * min(trained.steps_until(loss), steps) / steps


def full_batch(lab: Laboratory, seed: int) -> Replicate:
    """S093."""
    recipe = BASE.but(model=Linear(), schedule="constant", size=16, penalty="l2(0.001)")
    whole = lab.train(seed, STEPS, recipe.but(optimizer=Lbfgs(), batch_size="all"))
    images = len(whole.data.rows("train"))
    level = NEARLY * whole.losses[-1]
    sgd = [lab.train(seed, 64 * STEPS, recipe.but(optimizer=Sgd(lr, momentum=0.9))) for lr in (0.0005, 0.002, 0.01)]
    reached = min(range(len(sgd)), key=lambda k: (_seconds_until(sgd[k], level), sgd[k].losses[-1]))
    few = lab.train(seed, STEPS * (images // 64), recipe.but(optimizer=Lbfgs(), noise="allow"))
    ends = [_last(whole.losses), _last(few.losses)]
    numbers = {
        "seconds, L-BFGS": whole.seconds, "seconds, SGD": _seconds_until(sgd[reached], level),
        "loss, full batch": ends[0], "loss, mini-batches": ends[1],
    }  # fmt: skip
    curves = {
        ("Training loss by pass over the images", "pass", "L-BFGS, all images"): curve(whole.losses, 1),
        ("Training loss by pass over the images", "pass", "L-BFGS, mini-batches"): _by_pass(few, images),
        ("Training loss by pass over the images", "pass", "SGD, mini-batches"): _by_pass(sgd[reached], images),
    }
    return Replicate((numbers["seconds, SGD"] / whole.seconds, ends[1] / ends[0]), numbers, curves)


def _last(losses: Sequence[float]) -> float:
    """The mean of the last tenth, of which there is at least one."""
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


def _by_pass(trained: Trained, images: int) -> list[tuple[float, float]]:
    """The loss curve of mini-batches over passes."""
    return [(64 * x / images, y) for x, y in curve(trained.losses)]


def decay(lab: Laboratory, seed: int) -> Replicate:
    """S102."""
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
