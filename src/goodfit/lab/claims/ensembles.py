"""Averaging over nets: independent ones, and snapshots of one training."""

from __future__ import annotations

from goodfit.lab.laboratory import BASE, Laboratory, accuracy_of_mean
from goodfit.lab.replicate import Replicate
from goodfit.models.convnet import Convnet

MODEL, STEPS = Convnet(8), 400
CYCLES = 5


def _accuracies(lab: Laboratory, seed: int, members: int) -> tuple[float, float]:
    """The mean test accuracy of some nets that differ in their seed, and that of their mean."""
    outputs = [lab.train(1000 * seed + k, STEPS, BASE.but(model=MODEL, size=16)).outputs() for k in range(members)]
    return sum(x.accuracy for x in outputs) / members, accuracy_of_mean(outputs)


def independent(lab: Laboratory, seed: int) -> Replicate:
    """S123: five nets, and the mean of their answers."""
    one, mean = _accuracies(lab, seed, 5)
    return Replicate((mean - one,), {"one net": one, "mean of five": mean})


def seven(lab: Laboratory, seed: int) -> Replicate:
    """S127: seven nets, and the mean of their answers."""
    one, mean = _accuracies(lab, seed, 7)
    return Replicate(((mean - one) / (1 - one),), {"error of one net": 1 - one, "error of the mean of seven": 1 - mean})


def snapshots(lab: Laboratory, seed: int) -> Replicate:
    """S125: five snapshots of a training with a cyclic rate, and of one with step decay."""
    gains = []
    numbers: dict[str, float] = {}
    for name, schedule in (("cycles", f"sgdr({CYCLES}, growth=1)"), ("step decay", "step(every=0.3, factor=0.1)")):
        trained = lab.train(seed, 1000, BASE.but(model=MODEL, size=16, schedule=schedule, snapshots=CYCLES))
        outputs = [trained.outputs(snapshot=k) for k in range(CYCLES)]
        last, mean = outputs[-1].accuracy, accuracy_of_mean(outputs)
        gains.append(mean - last)
        numbers |= {f"last snapshot, {name}": last, f"mean of {CYCLES}, {name}": mean}
    return Replicate((gains[0], gains[0] - gains[1]), numbers)
