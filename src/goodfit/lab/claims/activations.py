"""Activations: what is wrong with the sigmoid, how fast ReLU is, and what becomes of dead units."""

from __future__ import annotations

import math
import statistics
import time

import torch
from torch import Tensor, nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Activation, Init
from goodfit.inspection.chance import OwnChance
from goodfit.lab.laboratory import BASE, Laboratory, Training, compare_steps, curve
from goodfit.lab.replicate import Curves, NothingToJudge, Replicate, tabulate
from goodfit.layers.activation import Elu, LeakyRelu, Maxout, Relu, Sigmoid, Tanh
from goodfit.layers.init import He, Xavier
from goodfit.layers.norm import None_
from goodfit.losses.softmax import Softmax
from goodfit.models.convnet import Convnet
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd

DEPTH, WIDTH = 8, 100
REPEATS, VALUES = 30, 2**20  # for the time of an activation
STEPS, RATES = 500, (0.01, 0.03, 0.1)
LOW, HIGH = 0.05, 2.0  # rates that kill few units and many


def _init_of(act: Activation) -> Init:
    """The init that suits an activation."""
    return Xavier() if isinstance(act, Tanh | Sigmoid) else He()


def _make_net(act: Activation, batch: Batch, seed: int) -> nn.Module:
    """A deep perceptron for a batch."""
    with OwnChance(seed).active():
        height, width = batch.images.shape[2:]
        return Mlp((WIDTH,) * DEPTH, act=act, init=_init_of(act))(batch.targets.shape[1], batch.images.shape[1], (height, width))


def sigmoid_problems(lab: Laboratory, seed: int) -> Replicate:
    """S049: deep perceptrons with sigmoids, tanh and ReLUs before their first step."""
    batch = lab.images(256)
    acts: dict[str, Activation] = {"relu": Relu(), "sigmoid": Sigmoid(), "tanh": Tanh()}
    gradients, signs, seconds = {}, {}, {}
    for name, act in acts.items():
        net = _make_net(act, batch, seed)
        first, second = [module for module in net.modules() if isinstance(module, nn.Linear)][:2]
        Softmax()(net(batch.images), batch.targets).mean().backward()  # type: ignore[no-untyped-call]
        assert first.weight.grad is not None
        gradients[name] = float(first.weight.grad.norm())
        net.zero_grad()
        Softmax()(net(batch.images[seed % 256 :][:1]), batch.targets[seed % 256 :][:1]).mean().backward()  # type: ignore[no-untyped-call]
        assert second.weight.grad is not None
        signs[name] = _share_of_one_sign(second.weight.grad)
        seconds[name] = _time_activation(act())
    numbers = tabulate({"first layer's gradient": gradients, "neurons of one sign": signs, "seconds": seconds})
    effects = gradients["relu"] / gradients["sigmoid"], signs["sigmoid"] - signs["tanh"], seconds["sigmoid"] / seconds["relu"]
    return Replicate(effects, numbers)


def _share_of_one_sign(gradient: Tensor) -> float:
    """The share of neurons [n, inputs] with a gradient whose weights have gradients of one sign."""
    moved = gradient[gradient.abs().sum(1) > 0]
    return float(((moved >= 0).all(1) | (moved <= 0).all(1)).double().mean()) if len(moved) else 0.0


@torch.no_grad()
def _time_activation(act: nn.Module) -> float:
    """The fastest pass of a map through an activation, in seconds."""
    values, times = torch.randn(VALUES), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        act(values.clone())
        times.append(time.perf_counter() - began)
    return min(times)


def _train_net(lab: Laboratory, seed: int, act: Activation, rate: float, steps: int) -> Training:
    """A conv net without norms with an activation."""
    model = Convnet(8, act=act, norm=None_(), init=_init_of(act))
    return lab.train(
        seed, steps, BASE.but(model=model, optimizer=Sgd(rate, momentum=0.9), size=16, schedule="constant", batch_size=64, clip=5.0)
    )


def relu_speed(lab: Laboratory, seed: int) -> Replicate:
    """S052: a conv net without norms with ReLU, tanh and sigmoid, to a training loss."""
    _, data = lab.open(BASE.but(size=16))
    level, curves = 0.7 * math.log(len(data.classes)), Curves()
    steps: dict[str, float] = {}
    for name, act in (("relu", Relu()), ("tanh", Tanh()), ("sigmoid", Sigmoid())):
        trainings = [_train_net(lab, seed, act, rate, STEPS) for rate in RATES]
        best = min(trainings, key=lambda one: (one.steps_until(level), one.last_loss))
        steps[name] = best.steps_until(level)
        curves["Training loss", "step", name] = curve(best.losses)
    ratios = [compare_steps(steps[name], steps["relu"], lab.steps(STEPS)) for name in ("tanh", "sigmoid")]
    bounds = tuple(k for k, (_, is_bound) in enumerate(ratios) if is_bound)
    return Replicate((ratios[0][0], ratios[1][0]), {"steps, relu": steps["relu"]}, curves, bounds)


def dead_units(lab: Laboratory, seed: int) -> Replicate:
    """S053: a perceptron trained at a low and at a high rate, and the gradients of its dead units."""
    batch = lab.images(2000, recipe=BASE.but(size=16))
    dead, still = {}, []
    for name, rate in (("low", LOW), ("high", HIGH)):
        trained = lab.train(seed, 200, BASE.but(model=Mlp((128,) * 3), optimizer=Sgd(rate), size=16, schedule="constant", clip=10.0))
        units = _find_dead_units(trained.model, batch)
        dead[name] = float(torch.cat([of_layer for of_layer, _ in units]).double().mean())
        still += [bool((gradient == 0).all()) for of_layer, slopes in units for gradient in slopes[of_layer]]
    numbers = tabulate({"dead units at a rate": dead}) | {"dead units, whose gradient was looked at": float(len(still))}
    if not still:
        raise NothingToJudge("no unit died")
    return Replicate((statistics.fmean(still), dead["high"] - dead["low"]), numbers)


def _find_dead_units(model: nn.Module, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """For each hidden layer which units [n] are zero for each image, and the gradient [n, inputs] of their weights on all images."""
    hidden, x = [], batch.images
    model.train()
    for name, layer in model.named_children():
        x = layer(x)
        if name.startswith("layer"):
            hidden.append((layer, (x == 0).all(0)))
    model.zero_grad()
    Softmax()(x, batch.targets).mean().backward()  # type: ignore[no-untyped-call]
    return [(dead, layer.get_submodule("linear").weight.grad) for layer, dead in hidden]  # type: ignore[misc]


def ranking(lab: Laboratory, seed: int) -> Replicate:
    """S058: a conv net without norms with each of six activations."""
    acts: dict[str, Activation] = {
        "relu": Relu(), "leaky_relu": LeakyRelu(), "maxout": Maxout(), "elu": Elu(), "tanh": Tanh(), "sigmoid": Sigmoid(),
    }  # fmt: skip
    tests = {}
    for name, act in acts.items():
        tried = [_train_net(lab, seed, act, rate, 300) for rate in RATES]
        tests[name] = max(tried, key=lambda one: one.accuracy("validation")).accuracy()
    others = sum(tests[name] for name in ("leaky_relu", "maxout", "elu")) / 3
    return Replicate((tests["relu"] - tests["sigmoid"], tests["relu"] - tests["tanh"], others - tests["relu"]), tests)
