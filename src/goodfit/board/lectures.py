"""The lecture to play with: optimizers racing, a two-layer net in the plane, the arithmetic of convolution; computed by the parts of a
training with the reader's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from goodfit.core.batch import Batch
from goodfit.core.errors import UsageError
from goodfit.core.run_files import is_number
from goodfit.lab.examples import draw_clusters, draw_moons, make_batch, read_digits
from goodfit.lab.lessons.convolution import convolve_by_columns
from goodfit.lab.lessons.optimizers import RACERS, SURFACES
from goodfit.lab.optimization import accuracy_of, descend, fit_network
from goodfit.lab.pictures import draw_contours, extent_of
from goodfit.layers.activation import Relu, Sigmoid, Tanh
from goodfit.losses.softmax import Softmax
from goodfit.models.anatomy.account import account_for
from goodfit.models.mlp import Mlp
from goodfit.optim.first_order import Sgd
from goodfit.report.charts import round_number

MAX_STEPS, MAX_POINTS, MAX_HIDDEN = 400, 300, 64  # of a race or training; of a net's data; units
GRID, FRAMES = 36, 20  # places along each side of the plane; pictures of a training
ACTIVATIONS = {"relu": Relu(), "tanh": Tanh(), "sigmoid": Sigmoid()}
DATA: dict[str, Callable[[int, float, int], Batch]] = {"moons": draw_moons, "clusters": draw_clusters}
KERNELS = {
    "edge": ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    "blur": ((1, 2, 1), (2, 4, 2), (1, 2, 1)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
}


def race(surface: str, start: Sequence[float], lr: float, steps: int) -> dict[str, Any]:
    """The ways of all optimizers down a surface at one rate: "contours" and "racers", each with its path and losses up to where it leaves
    the picture; the "extent" of the picture.

    Raises:
        UsageError: a number is out of its range, or there is no such surface.
    """
    if surface not in SURFACES:
        raise UsageError(f"Expected one of {', '.join(SURFACES)}, received another surface.")
    lr, steps = _number("the rate", lr, 1e-6, 100), int(_number("the steps", steps, 1, MAX_STEPS))
    function, _, extent, levels = SURFACES[surface]
    if len(start) != 2:
        raise UsageError("Expected two coordinates of the start, received others.")
    point = [_number("the start", x, *ends) for x, ends in zip(start, extent, strict=True)]
    racers = []
    for name, part in RACERS.items():
        path = descend(part(lr), function, point, steps)
        inside = [all(low <= x <= high for x, (low, high) in zip(p, extent, strict=True)) for p in path.tolist()]
        count = inside.index(False) + 1 if False in inside else len(inside)
        losses = [float(x) for x in function(path.T)]
        racers.append({
            "name": name, "left": False in inside, "path": [[_finite(x) for x in p] for p in path[:count].tolist()],
            "losses": [_finite(x) for x in losses[:count]],
        })  # fmt: skip
    contours = [[[round_number(x), round_number(y)] for x, y in s.points] for s in draw_contours(function, extent, levels)]
    return {"extent": extent, "contours": contours, "racers": racers}


def train_net(
    data: str, points: Sequence[Sequence[float]], noise: float, hidden: int, act: str, lr: float, steps: int, seed: int
) -> dict[str, Any]:
    """A net of one hidden layer that learns points of the plane, those of `data` or, as "own", `points` (x, y, class): "frames", each with
    its step, loss, accuracy and the class at each place of a grid, row by row from the top; the points, and the "extent" of the grid.

    Raises:
        UsageError: a number is out of its range, or there is no such data or activation.
    """
    if act not in ACTIVATIONS:
        raise UsageError(f"Expected one of {', '.join(ACTIVATIONS)}, received another activation.")
    hidden, steps = int(_number("the units", hidden, 1, MAX_HIDDEN)), int(_number("the steps", steps, 1, MAX_STEPS))
    batch = _points_of(data, points, _number("the noise", noise, 0, 2), int(_number("the seed", seed, 0, 1e6)))
    classes, extent = batch.targets.shape[1], extent_of(batch.images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        net = Mlp((hidden,), act=ACTIVATIONS[act])(classes, 2, (1, 1))
    (left, right), (bottom, top) = extent
    ys, xs = torch.meshgrid(torch.linspace(top, bottom, GRID), torch.linspace(left, right, GRID), indexing="ij")
    places = torch.stack([xs, ys], dim=-1).reshape(-1, 2, 1, 1)
    marks, frames, done = {round(k * steps / FRAMES) for k in range(FRAMES + 1)}, list[dict[str, Any]](), [0]

    def draw() -> None:
        if done[0] in marks:
            with torch.no_grad():
                scores = net(batch.images)
                loss = float(Softmax()(scores, batch.targets).mean())
                grid = net(places).argmax(1).tolist()
            frames.append({"step": done[0], "loss": _finite(loss), "accuracy": accuracy_of(net, batch), "grid": grid})
        done[0] += 1

    draw()
    fit_network(net, batch, Softmax(), Sgd(_number("the rate", lr, 1e-6, 100), momentum=0.9), steps, after_step=draw)
    shown = [[*xy, label] for xy, label in zip(batch.images.flatten(1).tolist(), batch.targets.argmax(1).tolist(), strict=True)]
    return {"grid": GRID, "extent": extent, "points": shown, "frames": frames}


def _points_of(data: str, points: Sequence[Sequence[float]], noise: float, seed: int) -> Batch:
    if data in DATA:
        return DATA[data](120, noise, seed)
    rows = [[_number("a point", x, -1e3, 1e3) for x in row] for row in points[:MAX_POINTS]]
    if data != "own" or len(rows) < 2 or any(len(row) != 3 or row[2] not in (0, 1, 2) for row in rows):
        raise UsageError(f"Expected one of {', '.join(DATA)}, or two or more points of the classes 0 to 2, received something else.")
    table = torch.tensor(rows)
    return make_batch(table[:, :2, None, None], table[:, 2].long(), max(2, int(table[:, 2].max()) + 1))


def convolve(size: int, kernel: str, stride: int, padding: int) -> dict[str, Any]:
    """A filter over an image of a digit: the "image" [size, size] with its border of zeros, the "filter", the "output" and its "side", the
    parameters and multiply-adds of the layer as `goodfit describe` counts them.

    Raises:
        UsageError: a number is out of its range, there is no such filter, or nothing is left of the image.
    """
    if kernel not in KERNELS:
        raise UsageError(f"Expected one of {', '.join(KERNELS)}, received another filter.")
    size, stride = int(_number("the side", size, 3, 8)), int(_number("the stride", stride, 1, 4))
    padding = int(_number("the padding", padding, 0, 3))
    digit = read_digits(1).images[0, 0]
    image = ((digit - digit.min()) / (digit.max() - digit.min()) * 9).round()[:size, :size].double()
    weights = torch.tensor(KERNELS[kernel], dtype=torch.float64)
    layer = account_for(nn.Sequential(nn.Conv2d(1, 1, 3, stride, padding)), 1, (size, size)).rows[0]
    output = convolve_by_columns(image[None, None], weights[None, None], stride, padding)[0, 0]
    return {
        "image": nn.functional.pad(image, (padding,) * 4).int().tolist(), "filter": weights.int().tolist(), "padding": padding,
        "stride": stride, "output": output.int().tolist(), "side": layer.output[1], "parameters": layer.parameters, "macs": layer.macs,
    }  # fmt: skip


def _number(what: str, value: Any, low: float, high: float) -> float:
    """A number within its range.

    Raises:
        UsageError: it is not.
    """
    if not is_number(value) or not low <= value <= high:
        raise UsageError(f"Expected {what} to be from {low:g} to {high:g}, received another.")
    return value


def _finite(x: float) -> float | int | None:
    return round_number(x) if math.isfinite(x) else None


LECTURES: dict[str, Callable[..., dict[str, Any]]] = {"race": race, "net": train_net, "convolution": convolve}
