"""Scores: at test time the score function is all that is needed."""

from __future__ import annotations

import torch

from goodfit.lab.examples import read_digits
from goodfit.lab.lesson import Lesson, Number
from goodfit.lab.optimization import fit_network
from goodfit.layers.init import Zero
from goodfit.losses.softmax import Softmax
from goodfit.models.linear import Linear
from goodfit.optim.first_order import Sgd

TRAINED, ALL = 1000, 1500  # digits: the others are for the test


def teach() -> Lesson:
    """Compute the lesson."""
    digits = read_digits(ALL)
    model = Linear(init=Zero())(10, 1, (8, 8))  # a convex problem, so zero does
    fit_network(model, digits[slice(TRAINED)], Softmax(), Sgd(0.1, momentum=0.9), 100)
    weight, bias = (p.detach().clone() for p in model.parameters())
    others = digits[slice(TRAINED, ALL)]
    held_out, right = others.images, others.targets.argmax(1)
    scores = held_out.flatten(1) @ weight.T + bias  # f(x, W) = W x + b, with neither loss nor optimizer nor labels
    with torch.no_grad():
        by_probability = Softmax().probabilities(model(held_out)).argmax(1)
    cifar = Linear()(10, 3, (32, 32))
    cifar_weight = next(iter(cifar.parameters()))
    return Lesson(
        "A classifier is made of a score function, a loss and an optimizer; at test time the score function alone is needed.",
        "CS231n, linear classification",
        (
            Number("same answers by W x + b as by probabilities", float((scores.argmax(1) == by_probability).float().mean()), "", "share"),
            Number("test accuracy by W x + b", float((scores.argmax(1) == right).float().mean())),
            Number("numbers kept for the test", weight.numel() + bias.numel(), "", "W and b"),
            Number("numbers held in training", 3 * (weight.numel() + bias.numel()), "", "their gradient and momentum, too"),
            Number("rows of W for CIFAR-10", cifar_weight.shape[0], "10"),
            Number("columns of W for CIFAR-10", cifar_weight.shape[1], "3072"),
            Number("weights for CIFAR-10", cifar_weight.numel(), "10 x 3072"),
        ),
    )
