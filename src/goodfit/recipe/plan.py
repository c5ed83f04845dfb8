"""Planning: which net the minutes of a budget are best spent on, by measured learning curves and the speed of this machine."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import numpy as np

from goodfit.core.forecast import Forecast
from goodfit.data.dataset import Dataset
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.measure import choose_precision, measure_fastest
from goodfit.recipe.recipe import Recipe

CURVES_FILE = "curves.json"
PLANNED_FIELDS = ("resolution", "batch_size", "optimizer", "schedule", "views", "augment")  # that the curves' preset decides
PIXEL_POWER, GAIN_POINTS = 0.9, 200  # of the pixels, that a step's time goes with: two passes over CIFAR-10 in 45.5 s, at full size in 57.2
MIN_COLOR_CHANNELS = 3
SPEED_SHARE = 0.87  # of a step timed alone that training reaches, with optimizer and augmentation: 4,030 of 4,589 images/s, 1,230 of 1,448
SLOPE_BEYOND = 0.5  # of a curve's last line, beyond its end: from line to line the slopes fell to between 0.5 and 0.85
MAX_SIDE_RATIO, MAX_IMAGES_RATIO = 1.75, 8.0  # between data and the data that curves were measured on, for them to speak for it


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of a net: the validation error after it was trained on so many images, each point a training of its own."""

    model: str
    points: tuple[tuple[float, float], ...]

    def error(self, seen: float) -> float:
        """The error after `seen` images: straight lines in the logarithms of both; the first goes on before its start, the last, less
        steeply, beyond its end.
        """
        x, y = (np.log(column) for column in zip(*self.points, strict=True))
        k = int(np.clip(np.searchsorted(x, math.log(seen)) - 1, 0, len(x) - 2))
        slope = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
        beyond = max(0.0, math.log(seen) - x[-1])
        return float(np.exp(y[k] + slope * (math.log(seen) - (1 - SLOPE_BEYOND) * beyond - x[k])))

    def covers(self, seen: float) -> bool:
        """Whether it was measured below and above so many images."""
        return self.points[0][0] <= seen <= self.points[-1][0]

    def misses(self) -> list[float]:
        """For each inner point the logarithm of its error over what its neighbors say of it."""
        inner = range(1, len(self.points) - 1)
        others = [dataclasses.replace(self, points=self.points[:k] + self.points[k + 1 :]) for k in inner]
        return [math.log(self.points[k][1] / other.error(self.points[k][0])) for k, other in zip(inner, others, strict=True)]


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of some nets on one data set, trained by one preset: the fastest net first."""

    data: str
    side: int  # pixels
    images: int  # to train on
    preset: str
    nets: tuple[Curve, ...]

    @property
    def spread(self) -> float:
        """How far off the curves are at points left out: the root mean square of the errors' logarithm."""
        misses = [miss for net in self.nets for miss in net.misses()]
        return float(np.sqrt(np.mean(np.square(misses))))

    def distance(self, side: int, images: int) -> float:
        """How unlike such data is, at most 1 where these curves speak for it."""
        ratios = ((side / self.side, MAX_SIDE_RATIO), (images / self.images, MAX_IMAGES_RATIO))
        return max(abs(math.log(ratio)) / math.log(most) for ratio, most in ratios)


@functools.cache
def load_curves() -> tuple[Curves, ...]:
    """The measured curves, by data set; bench/plan.py measures them."""
    content = json.loads((resources.files("goodfit.recipe") / CURVES_FILE).read_text(encoding="utf-8"))
    return tuple(read_curves(table) for table in content["curves"])


def read_curves(table: Mapping[str, Any]) -> Curves:
    """The curves of one data set, as the file has them."""
    nets = tuple(Curve(net["model"], tuple((seen, error) for seen, error in net["points"])) for net in table["nets"])
    return Curves(table["data"], table["side"], table["images"], table["preset"], nets)


def find_curves(data: Dataset) -> Curves | None:
    """The curves measured on the data most like this; None where none is like it."""
    like = min(data.preprocess.size), len(data.splits.train)
    best = min(load_curves(), key=lambda curves: curves.distance(*like))
    return best if best.distance(*like) <= 1 else None


def choose_best(nets: Mapping[Curve, float], seconds: float) -> tuple[Curve, float]:
    """The net of the least error after so many seconds, by the images that each sees in one, and the images that it sees in them."""
    best = min(nets, key=lambda curve: curve.error(nets[curve] * seconds))
    return best, nets[best] * seconds


def forecast(curves: Curves, net: Curve, seen: float, judged: int) -> Forecast:
    """What a net will reach on data like that of the curves, by as many images seen, when `judged` images are asked.

    Two things are uncertain: the curve, twice as much beyond its ends, and the accuracy of so many images.
    """
    error = min(net.error(seen), 1.0)
    spread = math.hypot(curves.spread * (1 if net.covers(seen) else 2), math.sqrt((1 - error) / (error * max(1, judged))))
    high, low = error * math.exp(2 * spread), error * math.exp(-2 * spread)
    return Forecast(1 - error, max(0.0, 1 - high), 1 - low, curves.data)


def speed_gain(resolution: Callable[[tuple[int, int], float], tuple[int, int]], size: tuple[int, int]) -> float:
    """How many times as many images training sees in the same time as at its full size, by the sizes at which it shows them."""
    shown = [resolution(size, (k + 0.5) / GAIN_POINTS) for k in range(GAIN_POINTS)]
    return float(sum((size[0] * size[1] / (height * width)) ** PIXEL_POWER for height, width in shown)) / GAIN_POINTS


def plan_training(chooser: Chooser, data: Dataset, curves: Curves, seconds: float, mirrored: bool) -> None:
    """Choose the net, and the rest of the recipe that its curve was measured with, for the seconds that are left to train.

    Images are mirrored, in training and for the final answers, where that keeps their class.
    """
    preset = Recipe.from_toml(curves.preset)
    resolution: Any = chooser.catalog.make(preset.resolution, "resolution")
    gain = SPEED_SHARE * speed_gain(resolution, data.preprocess.size)
    parts = {curve: chooser.catalog.make(curve.model, "model") for curve in curves.nets}
    choose_precision(chooser, data, parts[curves.nets[0]])  # with the fastest net, so that of each other one a single setting is timed
    speeds = {curve: gain / measure_fastest(part, data, chooser.recipe).seconds_per_image for curve, part in parts.items()}
    best, seen = choose_best(speeds, seconds)
    chooser.forecast = forecast(curves, best, seen, len(data.splits.validation))
    passes = (
        f"{seen / len(data.splits.train):.1f} passes over the images in the {seconds:.0f} s that are left, at {speeds[best]:,.0f} a second"
    )
    beyond = "" if best.covers(seen) else ", beyond what was measured"
    rule = f"the net of the least error for its time, by learning curves measured on {curves.data}"
    chooser.choose("model", best.model, rule, f"{passes}; expected accuracy {chooser.forecast}{beyond}")
    values: dict[str, Any] = {field: getattr(preset, field) for field in PLANNED_FIELDS}
    if not chooser.is_open("batch_size"):  # which the rates go with
        del values["optimizer"]
    if chooser.recipe.snapshots or str(chooser.recipe.plateau) != "none":  # which need schedules of their own
        del values["schedule"]
    unfit = {"flip": not mirrored, "jitter": data.preprocess.channels < MIN_COLOR_CHANNELS}
    if unfit["flip"]:
        del values["views"]
    values["augment"] = " | ".join(part for part in str(preset.augment).split(" | ") if not unfit.get(part.partition("(")[0]))
    for field, value in values.items():
        chooser.choose(field, value, f"as the curves were measured (preset {curves.preset})", best.model)
