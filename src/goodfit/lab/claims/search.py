"""Random search against a grid."""

from __future__ import annotations

import random

from goodfit.lab.laboratory import BASE, Laboratory
from goodfit.lab.replicate import Replicate
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd

SIDE = 3  # values of a grid for each hyperparameter
RATES, DECAYS = (1e-4, 10.0), (1e-6, 1.0)  # as in bench/search.py


def random_against_grid(lab: Laboratory, seed: int) -> Replicate:
    """S129: the best of nine random trials and of a grid of three by three."""
    rng = random.Random(seed)
    boxes = []
    for low, high in (RATES, DECAYS):
        factor = (high / low) ** (rng.uniform(-0.25, 0.25))  # the box moves by at most half a cell of the grid
        boxes.append((low * factor, high * factor))
    lines = [[low * (high / low) ** (k / (SIDE - 1)) for k in range(SIDE)] for low, high in boxes]
    trials = {
        "grid": [(rate, decay) for rate in lines[0] for decay in lines[1]],
        "random": [tuple(low * (high / low) ** rng.random() for low, high in boxes) for _ in range(SIDE**2)],
    }
    best, distinct = {}, {}
    numbers: dict[str, float] = {}
    for name, pairs in trials.items():
        parts = [Sgd(rate, momentum=0.9, nesterov=True, weight_decay=decay) for rate, decay in pairs]
        best[name] = lab.best(seed, 100, BASE.but(model=Mlp((64,)), size=16), parts).accuracy()
        distinct[name] = len({rate for rate, _ in pairs})
        numbers |= {f"best of {name}": best[name], f"rates of {name}": float(distinct[name])}
    return Replicate((distinct["random"] / distinct["grid"], best["random"] - best["grid"]), numbers)
