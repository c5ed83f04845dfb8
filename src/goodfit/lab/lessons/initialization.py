"""Initialization: what is left of a signal after ten layers, by the scale of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodfit.core.contracts import Activation, Init, Norm
from goodfit.inspection.chance import OwnChance
from goodfit.lab.examples import read_digits
from goodfit.lab.lesson import Lesson, Number, Rows, Table, line
from goodfit.lab.optimization import accuracy_of, fit_network
from goodfit.layers import norm
from goodfit.layers.activation import Relu, Tanh
from goodfit.layers.data_init import Lsuv
from goodfit.layers.init import Gaussian, He, Xavier, calibrate_init, weight_layers
from goodfit.losses.softmax import Softmax
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd
from goodfit.report.charts import Chart

LAYERS, WIDTH, IMAGES = 10, 300, 200
BINS = 41  # of a histogram, from -1 to 1
CASES: dict[str, tuple[Init, Activation]] = {
    "tanh, std 0.01": (Gaussian(0.01), Tanh()),
    "tanh, std 1": (Gaussian(1.0), Tanh()),
    "tanh, xavier": (Xavier(), Tanh()),
    "tanh, lsuv": (Lsuv(), Tanh()),
    "relu, xavier": (Xavier(), Relu()),
    "relu, he": (He(), Relu()),
}
SWEEP_STDS, SWEEP_STEPS, SWEEP_DIGITS = (0.001, 0.01, 0.1, 1.0), 40, 300
N_IN, N_OUT = 3072, 100  # of the layer whose variance the slides give


def pass_signals(init: Init, act: Activation) -> list[Tensor]:
    """What each hidden layer of a net puts out [IMAGES, WIDTH] for standard normal inputs."""
    with OwnChance(0).active(), torch.no_grad():
        net = Mlp((WIDTH,) * LAYERS, act=act, init=init)(10, 1, (20, 25))
        images = torch.randn(IMAGES, 1, 20, 25)
        if isinstance(init, Lsuv):
            calibrate_init(init, net, images)
        outputs: list[Tensor] = []
        acts = [module for module in net.modules() if isinstance(module, type(act()))]
        hooks = [module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)) for module in acts]
        net(images)
        for hook in hooks:
            hook.remove()
    return outputs


def accuracy_after(std: float, normalization: Norm) -> float:
    """The training accuracy on digits of a net of six tanh layers after some steps, from weights of a standard deviation."""
    digits = read_digits(SWEEP_DIGITS)
    with OwnChance(0).active():
        net = Mlp((64,) * 6, act=Tanh(), norm=normalization, init=Gaussian(std))(10, 1, (8, 8))
    fit_network(net, digits, Softmax(), Sgd(0.1, momentum=0.9), SWEEP_STEPS)
    return accuracy_of(net, digits)


def weight_variance(init: Init) -> float:
    """The variance of the weights of a layer of N_IN inputs and N_OUT outputs."""
    with OwnChance(0).active():
        layer = nn.Linear(N_IN, N_OUT)
        init(layer)
    (found,) = weight_layers(layer)
    return float(found.weight.detach().double().var())


def histogram(values: Tensor) -> tuple[list[float], list[float]]:
    """The middles of the bins from -1 to 1, and the share of the values in each."""
    counts = torch.histc(values.flatten().float(), BINS, -1, 1)
    middles = [-1 + 2 * (k + 0.5) / BINS for k in range(BINS)]
    return middles, (counts / values.numel()).tolist()


def teach() -> Lesson:
    """Compute the lesson."""
    signals = {name: pass_signals(init, act) for name, (init, act) in CASES.items()}
    stds = {name: [float(x.std()) for x in layers] for name, layers in signals.items()}
    rows: Rows = tuple((f"layer {k + 1}", *(stds[name][k] for name in CASES)) for k in range(LAYERS))
    flat = float((signals["tanh, std 1"][-1].abs() > 0.99).float().mean())
    plain = {std: accuracy_after(std, norm.None_()) for std in SWEEP_STDS}
    normed = {std: accuracy_after(std, norm.Batch()) for std in SWEEP_STDS}
    per_layer = (stds["relu, xavier"][-1] / stds["relu, xavier"][0]) ** (2 / (LAYERS - 1))
    spreads = tuple(line(name, std, k, range(1, LAYERS + 1)) for k, (name, std) in enumerate(stds.items()))
    histograms = []
    for name in ("tanh, std 0.01", "tanh, std 1", "tanh, xavier"):
        lines = [line(f"layer {k + 1}", ys, k // 3, xs) for k in (0, 3, 6, 9) for xs, ys in [histogram(signals[name][k])]]
        histograms.append(Chart(f"Activations, {name}", tuple(lines), x="activation", y="share"))
    return Lesson(
        "Weights that start too small let activations and gradients go to zero; too large, tanh saturates; just right (xavier, he for relu)"
        " keeps a good spread in all layers, and batch norm takes most of the care away.",
        "CS231n, weight initialization",
        (
            Number(f"variance of xavier's weights, {N_IN} to {N_OUT}", weight_variance(Xavier()), "", "2 / (n_in + n_out) = 6.305e-4"),
            Number(f"variance of he's weights, {N_IN} to {N_OUT}", weight_variance(He()), "", "2 / n_in = 6.510e-4"),
            Number("saturated outputs of the last layer, tanh, std 1", flat, "", "share beyond 0.99"),
            Number("variance each layer keeps, relu, xavier", per_layer, "", "about half"),
            Number("accuracies without norm, from the worst to the best std", max(plain.values()) - min(plain.values()), "", "range"),
            Number("accuracies with batch norm, from the worst to the best std", max(normed.values()) - min(normed.values()), "", "range"),
        ),
        (
            Table("Standard deviation of the activations", ("", *CASES), rows),
            Table(f"Training accuracy on digits after {SWEEP_STEPS} steps", ("std of the weights", "no norm", "batch norm"),
                  tuple((f"{std:g}", plain[std], normed[std]) for std in SWEEP_STDS)),
        ),
        (
            Chart("Spread through the depth", spreads, x="layer", y="std", log=True),
            *histograms,
        ),
    )  # fmt: skip
