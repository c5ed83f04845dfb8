"""The spread of signals and gradients, layer by layer."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor, nn

from goodfit.inspection.chance import keep_chance
from goodfit.inspection.dissection import LossFunction, untouched
from goodfit.inspection.operations import Operation, trace
from goodfit.inspection.preflight import examine_layers
from goodfit.training.noise import evaluating


@dataclasses.dataclass(frozen=True)
class LayerSpread:
    """What flows through a layer on one batch, in training mode. Numbers that do not exist are NaN.

    - `name` of its weight; `enters`, `leaves`: root mean square of what enters the weight and what leaves it.
    - `passes`: root mean square of what its activation passes on; of a layer without one, of what leaves it.
    - `differs`: how far what leaves differs between images, in units of its root mean square.
    - `dead`: share of its units (channels of maps) that the activation leaves at zero for every image and place; `flat`: share of the
      outputs at the flat ends of a tanh or sigmoid.
    - `gradient`: norm of the weight's gradient over that of the weight.
    """

    name: str
    enters: float
    leaves: float
    passes: float
    differs: float
    dead: float
    flat: float
    gradient: float


@dataclasses.dataclass(frozen=True)
class NetworkSpread:
    """The layers of a network in the order in which they run, the last of which gives the scores, and how many norms lie between them."""

    layers: tuple[LayerSpread, ...]
    norms: int


@dataclasses.dataclass(frozen=True)
class UnitActivity:
    """The units of a layer (channels of maps), by the name of its weight and of its activation: how many there are, the share of them that
    are zero for every image and place (`dead`), and the share of outputs at the flat ends of a tanh or sigmoid (`saturated`; else None).
    """

    layer: str
    activation: str
    units: int
    dead: float
    saturated: float | None


def measure_units(model: nn.Module, images: Tensor) -> list[UnitActivity]:
    """Measure the units of every layer that an activation follows, of a trained network on images [B, C, H, W].

    Source: CS231n, activation functions.
    """
    with evaluating(model):
        traced, _ = trace(model, images, signals=True)
    return [
        UnitActivity(layer, found.name.rstrip("_"), found.leaving.units, found.leaving.dead, found.flat if found.is_bounded else None)
        for layer, found in find_activations(traced.operations).items()
        if found.leaving is not None
    ]


def measure_spread(model: nn.Module, loss: LossFunction, images: Tensor, labels: Tensor) -> NetworkSpread:
    """Measure the layers of a network on one batch of images [B, C, H, W] with labels [B]; nothing of the model changes.

    Source: CS231n, weight initialization.
    """
    with untouched(model), keep_chance():
        model.train()
        traced, _ = trace(model, images, signals=True)
        signs = examine_layers(model, loss, images, labels, traced)
    followers = find_activations(traced.operations)
    rows = []
    for layer in signs:
        spread = LayerSpread(layer.name, layer.entering, layer.leaving, layer.leaving, layer.difference, math.nan, math.nan, layer.gradient)
        if (follower := followers.get(layer.name)) is not None and follower.leaving is not None:
            spread = dataclasses.replace(spread, passes=follower.leaving.rms, dead=follower.leaving.dead, flat=follower.flat)
        rows.append(spread)
    return NetworkSpread(tuple(rows), sum(operation.kind == "norm" for operation in traced.operations))


def find_activations(operations: list[Operation]) -> dict[str, Operation]:
    """The activation that follows each weight before the next one, by the weight's name."""
    found: dict[str, Operation] = {}
    name = ""
    for operation in operations:
        if operation.kind == "weights":
            name = operation.weight
        elif operation.kind == "activation" and name and operation.leaving is not None:
            found.setdefault(name, operation)
    return found
