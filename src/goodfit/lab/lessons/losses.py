"""Losses: the SVM and softmax losses of the cat, the car and the frog."""

from __future__ import annotations

import math

import torch

from goodfit.lab.lesson import Lesson, Number, Table
from goodfit.losses.softmax import Softmax
from goodfit.losses.svm import Svm

NAMES = ("cat", "car", "frog")
SCORES = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]], dtype=torch.float64)  # a row for each image
TARGETS = torch.eye(3, dtype=torch.float64)


def teach() -> Lesson:
    """Compute the lesson."""
    svm = Svm()(SCORES, TARGETS)
    probabilities = Softmax().probabilities(SCORES[:1])[0].tolist()
    cat = float(Softmax()(SCORES, TARGETS)[0])
    mean = float(svm.mean())
    printed = {"cat": "0.13", "car": "0.87", "frog": "0.00"}
    margins = tuple(
        (f"{image}, {name}", float(SCORES[i, j] - SCORES[i, i]) + Svm().delta, max(0.0, float(SCORES[i, j] - SCORES[i, i]) + Svm().delta))
        for i, image in enumerate(NAMES)
        for j, name in enumerate(NAMES)
        if i != j
    )
    return Lesson(
        "The SVM loss sums, over the wrong classes, by how much their scores come nearer to the right one than a margin of 1; the softmax"
        " loss is minus the logarithm of the right class's probability.",
        "CS231n, loss functions",
        (
            *(Number(f"SVM loss of the {name}", float(x), p) for name, x, p in zip(NAMES, svm, ("2.9", "0", "12.9"), strict=True)),
            Number("mean SVM loss", mean, "5.26"),
            *(
                Number(f"exp of the {name}", math.exp(x), p)
                for name, x, p in zip(NAMES, SCORES[0].tolist(), ("24.5", "164.0", "0.18"), strict=True)
            ),
            *(Number(f"probability of the {name}", p, printed[name]) for name, p in zip(NAMES, probabilities, strict=True)),
            Number("softmax loss of the cat", cat, "0.89"),
            Number("the same with the logarithm to base 10", cat / math.log(10)),
        ),
        (Table("Margins", ("image, wrong class", "s_j - s_y + 1", "adds to the loss"), margins),),
        erratum=f"The slide's 0.89 is -log10 0.13; in nats, as its formula has it, the loss is {cat:.2f}. The mean SVM loss, printed 5.26,"
        f" is {mean:.2f}.",
    )
