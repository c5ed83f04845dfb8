"""Shortcuts: a few pixels, a border or a property of the file that gives the class away."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from goodfit.core.chance import Chance
from goodfit.core.interval import wilson_interval
from goodfit.data.index import IntArray
from goodfit.doctor.pixels import blocks, to_tensor

MAX_IMAGES = 1500  # with so many, the share of right answers is known to 0.025
NEIGHBORS = 5
SIDE, CELLS = 32, 8  # pixels a side that are looked at, and cells a side: a cell has 1/64 of the image
# A cell counts as a shortcut if it predicts far more than what cells elsewhere do. In photos, digits and drawings the best cell is ahead of
# the ninth of those that do not touch it by less than 0.1; in textures and plain colors all cells predict the class, and none is ahead.
MIN_LEAD, MIN_ACCURACY = 0.25, 0.5
PEER = 8  # the place, among the cells that do not touch it, of the one that a cell is compared with
MIN_GAIN = 0.3  # of a property of the file, of what is left above always naming the most frequent class


@dataclasses.dataclass(frozen=True)
class CellShortcut:
    """How well one cell, or one border, predicts the class: `name`, `accuracy`, its 95 % `interval`, what other cells or strips reach,
    `elsewhere`, `box` (top, left, bottom, right as shares of the image), and whether it `is_shortcut`.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    elsewhere: float
    box: tuple[float, float, float, float]
    is_shortcut: bool


def find_pixel_shortcut(images: NDArray[np.uint8], labels: IntArray, seed: int = 0) -> CellShortcut:
    """Find the cell or border of images [N, H, W, C] that alone predicts the labels [N] best beyond what other places do."""
    rows = draw_rows(len(labels), seed)
    small = to_tensor(images[rows], SIDE)
    pixels = torch.cat([small[block].float() for block in blocks(len(small))])
    y = torch.from_numpy(labels[rows])
    found = [best_cell(pixels, y), best_border(pixels, y)]
    return max(found, key=lambda cell: (cell.is_shortcut, cell.accuracy - cell.elsewhere))


def draw_rows(n: int, seed: int) -> IntArray:
    """At most MAX_IMAGES of n rows, in an order that has nothing to do with theirs."""
    rows: IntArray = Chance.of(seed, torch.arange(n), "shortcuts").permutation()[:MAX_IMAGES].numpy()
    return rows


def best_cell(pixels: Tensor, labels: Tensor) -> CellShortcut:
    """The cell of images [N, C, H, W] that predicts the labels [N] best."""
    cells = min(CELLS, *pixels.shape[2:])
    accuracies = np.zeros((cells, cells))
    edges = [[round(k * length / cells) for k in range(cells + 1)] for length in pixels.shape[2:]]
    for i in range(cells):
        for j in range(cells):
            part = pixels[:, :, edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]]
            accuracies[i, j] = predict_by_neighbors(part.flatten(1), labels)
    i, j = (int(x) for x in np.unravel_index(accuracies.argmax(), accuracies.shape))
    rows, columns = np.indices(accuracies.shape)
    apart = np.sort(accuracies[(abs(rows - i) > 1) | (abs(columns - j) > 1)])[::-1]
    elsewhere = float(apart[min(PEER, len(apart) - 1)]) if len(apart) else 1.0
    box = (i / cells, j / cells, (i + 1) / cells, (j + 1) / cells)
    return _judge(f"the cell in row {i + 1}, column {j + 1} of {cells}", float(accuracies[i, j]), elsewhere, box, len(labels))


def best_border(pixels: Tensor, labels: Tensor) -> CellShortcut:
    """The border of images [N, C, H, W] that predicts the labels [N] best, compared with strips of the same size inside."""
    height, width = pixels.shape[2:]
    high, wide = max(1, height // CELLS), max(1, width // CELLS)
    tops = [*range(0, height - high + 1, high)]
    lefts = [*range(0, width - wide + 1, wide)]
    across = {top: predict_by_neighbors(pixels[:, :, top : top + high].flatten(1), labels) for top in tops}
    down = {left: predict_by_neighbors(pixels[..., left : left + wide].flatten(1), labels) for left in lefts}
    borders = {
        "the top border": (across[tops[0]], (0.0, 0.0, high / height, 1.0)),
        "the bottom border": (across[tops[-1]], (1 - high / height, 0.0, 1.0, 1.0)),
        "the left border": (down[lefts[0]], (0.0, 0.0, 1.0, wide / width)),
        "the right border": (down[lefts[-1]], (0.0, 1 - wide / width, 1.0, 1.0)),
    }
    inside = [*[across[top] for top in tops[1:-1]], *[down[left] for left in lefts[1:-1]]]
    name = max(borders, key=lambda border: borders[border][0])
    accuracy, box = borders[name]
    return _judge(name, accuracy, max(inside, default=1.0), box, len(labels))


def _judge(name: str, accuracy: float, elsewhere: float, box: tuple[float, float, float, float], n: int) -> CellShortcut:
    interval = wilson_interval(round(accuracy * n), max(n, 1))
    return CellShortcut(name, accuracy, interval, elsewhere, box, interval[0] > max(elsewhere + MIN_LEAD, MIN_ACCURACY))


def predict_by_neighbors(values: Tensor, labels: Tensor) -> float:
    """The share of images whose label [N] is the most frequent one among their nearest neighbors by some values [N, D].

    Images in no particular order are expected, for among equal ones the first are taken.
    """
    n, classes = len(labels), int(labels.max()) + 1
    squares = values.square().sum(1)
    near = torch.addmm(squares / 2, values, values.T, alpha=-1)
    near.fill_diagonal_(torch.inf)
    neighbors = near.topk(min(NEIGHBORS, n - 1), dim=1, largest=False).indices
    votes = F.one_hot(labels[neighbors], classes).sum(1)
    return float((votes.argmax(1) == labels).double().mean())


@dataclasses.dataclass(frozen=True)
class PropertyShortcut:
    """How well a property of the images' files predicts the class: `name`, `accuracy`, its 95 % `interval`, the share of the most frequent
    class, `chance`, and whether it `is_shortcut`.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    chance: float
    is_shortcut: bool


def find_property_shortcuts(properties: Mapping[str, NDArray[np.generic]], labels: IntArray, seed: int = 0) -> list[PropertyShortcut]:
    """Measure how well each of some properties [N] or [N, D], as "file size", alone predicts the labels [N]; the best first."""
    rows = draw_rows(len(labels), seed)
    y = torch.from_numpy(labels[rows])
    chance = float(torch.bincount(y).max() / max(len(y), 1))
    found = []
    for name, values in properties.items():
        numbers = np.asarray(values, dtype=np.float64)[rows].reshape(len(rows), -1)
        spread = numbers.std(axis=0)
        if not spread.any():
            continue
        scaled = ((numbers - numbers.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
        accuracy = predict_by_neighbors(torch.from_numpy(scaled), y)
        interval = wilson_interval(round(accuracy * len(y)), len(y))
        found.append(PropertyShortcut(name, accuracy, interval, chance, interval[0] > chance + MIN_GAIN * (1 - chance)))
    return sorted(found, key=lambda shortcut: -shortcut.accuracy)


def border_colors(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean color of the outermost pixels of images [N, H, W, C]: float32 [N, C]."""
    ring = [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]]
    colors: NDArray[np.float32] = np.concatenate([part.reshape(len(images), -1, images.shape[3]) for part in ring], axis=1).mean(
        1, np.float32
    )
    return colors
