"""Planning: which net the minutes of a budget are best spent on, by measured learning curves and the speed of this machine."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import numpy as np

from goodfit.core.parts import Part
from goodfit.core.words import format_percent
from goodfit.data.dataset import Dataset
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.measure import measure_fastest
from goodfit.recipe.recipe import Recipe

CURVES_FILE, PRESET = "curves.json", "fast"  # the curves are those of nets in this preset
PIXEL_POWER, GAIN_POINTS = 0.9, 200  # of the pixels, that a step's time goes with: two passes over CIFAR-10 in 45.5 s, at full size in 57.2
SIDES, MIN_IMAGES = (24, 48), 10_000  # of the images that the curves speak for


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of a net: the validation error after it was trained on so many images, each point a training of its own.

    `cost` is the time that an image takes, in that of the first net of the table.
    """

    model: str
    cost: float
    points: tuple[tuple[float, float], ...]

    def error(self, seen: float) -> float:
        """The error after `seen` images: straight lines in the logarithms of both, the last ones going on beyond the ends."""
        x, y = (np.log(column) for column in zip(*self.points, strict=True))
        k = int(np.clip(np.searchsorted(x, math.log(seen)) - 1, 0, len(x) - 2))
        slope = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
        return float(np.exp(y[k] + slope * (math.log(seen) - x[k])))


@functools.cache
def load_curves() -> tuple[Curve, ...]:
    """The measured curves, the fastest net first; bench/plan.py measures them."""
    content = json.loads((resources.files("goodfit.recipe") / CURVES_FILE).read_text())
    return tuple(Curve(net["model"], net["cost"], tuple((seen, error) for seen, error in net["points"])) for net in content["nets"])


def is_covered(data: Dataset) -> bool:
    """Whether the curves speak for such data."""
    return SIDES[0] <= min(data.preprocess.size) <= SIDES[1] and len(data.splits.train) >= MIN_IMAGES


def choose_best(curves: Sequence[Curve], images_per_second: float, seconds: float) -> tuple[Curve, float]:
    """The net of the least error after so many seconds, and the images that it sees in them; the first net sees `images_per_second`."""
    best = min(curves, key=lambda curve: curve.error(images_per_second * seconds / curve.cost))
    return best, images_per_second * seconds / best.cost


def speed_gain(resolution: Callable[[tuple[int, int], float], tuple[int, int]], size: tuple[int, int]) -> float:
    """How many times as many images training sees in the same time as at its full size, by the sizes at which it shows them."""
    shown = [resolution(size, (k + 0.5) / GAIN_POINTS) for k in range(GAIN_POINTS)]
    return float(sum((size[0] * size[1] / (height * width)) ** PIXEL_POWER for height, width in shown)) / GAIN_POINTS


def plan_training(chooser: Chooser, data: Dataset, seconds: float, mirrored: bool) -> None:
    """Choose the net, and the rest of the recipe that its curve was measured with, for the seconds that are left to train.

    Images are mirrored, in training and for the final answers, where that keeps their class.
    """
    curves, preset = load_curves(), Recipe.from_toml(PRESET)
    first: Part = chooser.catalog.make(curves[0].model, "model")
    resolution: Any = chooser.catalog.make(preset.resolution, "resolution")
    speed = speed_gain(resolution, data.preprocess.size) / measure_fastest(first, data, chooser.recipe).seconds_per_image
    best, seen = choose_best(curves, speed, seconds)
    where = "an error of about" if best.points[0][0] <= seen <= best.points[-1][0] else "beyond what was measured, about"
    chooser.choose(
        "model",
        best.model,
        "the net of the least error for its time, by learning curves measured on CIFAR-10",
        f"{seen / len(data.splits.train):.1f} passes over the images in the {seconds:.0f} s that are left, at {speed / best.cost:,.0f} a"
        f" second; after as many images there: {where} {format_percent(best.error(seen))}",
    )
    values: dict[str, object] = {"resolution": preset.resolution}
    if chooser.is_open("batch_size"):  # which the rates go with
        values |= {"batch_size": preset.batch_size, "optimizer": preset.optimizer}
    if not chooser.recipe.snapshots and str(chooser.recipe.plateau) == "none":  # which need schedules of their own
        values["schedule"] = preset.schedule
    augment = str(preset.augment).split(" | ")
    if mirrored:
        values["views"] = preset.views
    values["augment"] = " | ".join(part for part in augment if mirrored or not part.startswith("flip"))
    for field, value in values.items():
        chooser.choose(field, value, f"as the curves were measured (preset {PRESET})", best.model)
