"""Saturation and dead units: where activations stop the gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodfit.core.contracts import Activation
from goodfit.inspection.chance import OwnChance
from goodfit.inspection.layer_spread import measure_spread
from goodfit.lab.examples import read_digits
from goodfit.lab.lesson import Lesson, Number, Table, line
from goodfit.lab.optimization import fit_network
from goodfit.layers.activation import Elu, LeakyRelu, Relu, Sigmoid, Tanh
from goodfit.losses.softmax import Softmax
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd
from goodfit.report.charts import Chart

PLACES = (-10.0, 0.0, 10.0)  # of the slide's question
ACTIVATIONS: dict[str, Activation] = {"sigmoid": Sigmoid(), "tanh": Tanh(), "relu": Relu(), "leaky_relu": LeakyRelu(), "elu": Elu()}
RATES, STEPS, DIGITS, HIDDEN = (0.1, 1.5, 2.0, 3.0), 30, 300, 64
SILENT_BIAS = -1000.0


def slopes(act: Activation, places: Tensor) -> Tensor:
    """The derivative of an activation at places [N]."""
    x = places.clone().requires_grad_()
    (slope,) = torch.autograd.grad(act()(x).sum(), x)
    return slope


def make_net() -> nn.Module:
    """A relu net for digits, always the same."""
    with OwnChance(0).active():
        return Mlp((HIDDEN,), act=Relu())(10, 1, (8, 8))


def dead_share(rate: float) -> float:
    """The share of the hidden units that are zero for every digit after training at a learning rate."""
    net, digits = make_net(), read_digits(DIGITS)
    fit_network(net, digits, Softmax(), Sgd(rate), STEPS)
    return measure_spread(net, F.cross_entropy, digits.images, digits.targets.argmax(1)).layers[0].dead


def silence_unit() -> tuple[Tensor, Tensor]:
    """The largest gradient by the weights of each unit [HIDDEN] where the first one's bias keeps it below zero for every digit, and by how
    much those weights change in a training.
    """
    net, digits = make_net(), read_digits(DIGITS)
    weight, bias = (net.get_parameter(f"layer1.linear.{name}") for name in ("weight", "bias"))
    with torch.no_grad():
        bias[0] = SILENT_BIAS
    before = weight.detach().clone()
    Softmax()(net(digits.images), digits.targets).mean().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    gradients = weight.grad.abs().amax(1)
    fit_network(net, digits, Softmax(), Sgd(RATES[0]), STEPS)
    return gradients, (weight.detach() - before).abs().amax(1)


def teach() -> Lesson:
    """Compute the lesson."""
    places = torch.tensor(PLACES, dtype=torch.float64)
    rows = tuple((name, *slopes(act, places).tolist()) for name, act in ACTIVATIONS.items())
    gradients, changes = silence_unit()
    dead = {rate: dead_share(rate) for rate in RATES}
    xs = torch.linspace(-5, 5, 101, dtype=torch.float64)
    curves = tuple(line(name, slopes(act, xs).tolist(), k, xs.tolist()) for k, (name, act) in enumerate(ACTIVATIONS.items()))
    return Lesson(
        "Saturated neurons kill the gradient: what happens at x = -10, 0 and 10? A relu does not saturate above zero, but a unit that is"
        " below zero for all data gets no gradient and is never updated.",
        "CS231n, activation functions",
        (
            Number("largest gradient by the weights of a dead unit", float(gradients[0])),
            Number("of all other units", float(gradients[1:].max())),
            Number("largest change of its weights in training", float(changes[0])),
            Number("change of all others", float(changes[1:].max())),
            *(Number(f"dead units after training at rate {rate:g}", share, "", "share") for rate, share in dead.items()),
        ),
        (Table("Local gradient of an activation", ("activation", *(f"at {x:g}" for x in PLACES)), rows),),
        (Chart("Local gradient", curves, x="x", y="df/dx"),),
        erratum=f"Leaky ReLU has slope 0.1 on one slide and 0.01 on another; here it has {LeakyRelu().slope:g}.",
    )
