"""The laboratory of the claims: data that is opened once, and trainings of a few seconds whose model can be looked at."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from goodfit.core.batch import Batch
from goodfit.core.contracts import Optimizer
from goodfit.core.errors import Diverged, UsageError
from goodfit.core.reporter import SilentReporter
from goodfit.core.settings import settings_of
from goodfit.core.task import CLASSES
from goodfit.data.dataset import Dataset
from goodfit.data.index import SplitName
from goodfit.data.loader import iterate_batches
from goodfit.lab.replicate import NothingToJudge
from goodfit.recipe import build
from goodfit.recipe.parts import load_catalog, make_parts
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.training.evaluate import Outputs
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from goodfit.training.state import State

BASE = Recipe(
    model="linear", validation=0.3, augment="none", optimizer="sgd(0.05, momentum=0.9, nesterov=True, weight_decay=0.0005)",
    schedule="warmup(0.1) | cosine", budget="1 steps", batch_size=64, pieces=1, precision="fp32", layout="channels_last", device="cpu",
    threads=1, workers=0, probes="none", evaluate_every="1.0", save_every="1 h",
)  # fmt: skip
MAX_POINTS = 200  # of a curve
WINDOW = 20  # losses of steps that are averaged to judge a training's
DATA_FIELDS = ("data", "limit", "size", "channels", "mean", "std")  # that decide which images a training sees, and how
OTHER_FIELDS = [setting.name for setting in settings_of(Recipe) if setting.name not in DATA_FIELDS]


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much is spent on the claims: at most `limit` images per class and split (0: all), `length` times the steps of quick."""

    name: str
    limit: int
    length: float
    column: int  # of the claims' numbers of seeds


QUICK, FULL = Extent("quick", 400, 1.0, 0), Extent("full", 0, 10.0, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """A training that has ended: the loss before each step, the seconds of its steps, and the model as it is evaluated.

    One that diverged has the losses up to there, and the weights it had then.
    """

    built: build.Training
    losses: list[float]
    seconds: float
    diverged: bool
    snapshots: list[nn.Module]

    @property
    def model(self) -> nn.Module:
        return self.built.state.eval_model

    @property
    def data(self) -> Dataset:
        return self.built.evaluator.dataset

    @property
    def last_loss(self) -> float:
        """The mean loss of the last steps; infinite if it diverged."""
        return math.inf if self.diverged else statistics.fmean(self.losses[-WINDOW:])

    def outputs(self, split: SplitName = "test", seed: int | None = None, snapshot: int | None = None) -> Outputs:
        """The outputs for the images of a split; with a `seed`, with its noise layers active; of a `snapshot` rather than the end."""
        model = self.model if snapshot is None else self.snapshots[snapshot]
        return self.built.evaluator(model, self.data.rows(split), seed=seed)

    def accuracy(self, split: SplitName = "test") -> float:
        """The accuracy on a split, on which a training that diverged is at chance."""
        return 1 / len(self.data.classes) if self.diverged else self.outputs(split).accuracy

    def steps_until(self, loss: float, n: int = WINDOW) -> float:
        """The steps until the mean loss of the last n is at most this; infinite if it never is."""
        means = running_mean(self.losses, n)
        return next((float(step) for step, mean in enumerate(means, 1) if mean <= loss and not self.diverged), math.inf)

    def seconds_until(self, loss: float, n: int = WINDOW) -> float:
        """The seconds until then; infinite if it never is."""
        return self.seconds * self.steps_until(loss, n) / max(1, len(self.losses))


class Laboratory:
    """Trains on images as long as an extent allows. `data` are what `goodfit train` takes; most claims use the first."""

    def __init__(self, data: Sequence[str], extent: Extent, folder: Path) -> None:
        self.data, self.extent, self.folder, self.catalog = tuple(data), extent, folder, load_catalog()
        self._prepared: dict[tuple[Any, ...], tuple[Recipe, Dataset]] = {}

    def steps(self, quick: int) -> int:
        """So many steps by this extent."""
        return max(1, round(quick * self.extent.length))

    def open(self, recipe: Recipe = BASE) -> tuple[Recipe, Dataset]:
        """The recipe with nothing left open, and its data: if it names none, the laboratory's first, as many as the extent allows.

        Raises:
            UsageError: the data have no test images.
        """
        asked = recipe.but(data=recipe.data or self.data[0], limit=self.extent.limit)
        key = tuple(getattr(asked, field) for field in DATA_FIELDS)
        if key not in self._prepared:
            prepared = prepare(BASE.but(**dict(zip(DATA_FIELDS, key, strict=True))), SilentReporter(), catalog=self.catalog)
            if not len(prepared.data.rows("test")):
                raise UsageError(f'Expected images with a test split, found none in "{prepared.data.name}".')
            self._prepared[key] = prepared.recipe, prepared.data
        resolved, data = self._prepared[key]
        chosen = {field: getattr(recipe, field) for field in OTHER_FIELDS if getattr(recipe, field) != getattr(BASE, field)}
        return resolved.but(**chosen), data

    def train(self, seed: int, steps: int, asked: Recipe, start: nn.Module | None = None, per_class: int = 0) -> Training:
        """Train by a recipe for so many steps of this extent, from random weights or those of `start`.

        With `per_class`, on so many training images of each class.

        Raises:
            UsageError: a class has fewer.
        """
        recipe, data = self.open(asked.but(seed=seed, budget=f"{self.steps(steps)} steps"))
        data = take_images(data, per_class) if per_class else data
        built = build.build(recipe, make_parts(recipe, self.catalog), data, start)
        rows: list[dict[str, Any]] = []
        snapshots: list[nn.Module] = []

        def keep_snapshot(state: State) -> None:
            if len(state.snapshots) > len(snapshots):
                snapshots.append(copy.deepcopy(state.model))

        began, diverged = time.perf_counter(), False
        plan = dataclasses.replace(built.plan, evaluate=None)
        try:
            fit(built.state, built.loader, plan, log=MetricLog((rows.extend,)), save=keep_snapshot)
        except Diverged:
            diverged = True
        losses = [float(row["loss"]) for row in rows if row["kind"] == "train"]
        return Training(built, losses, time.perf_counter() - began, diverged, snapshots)

    def best(self, seed: int, steps: int, recipe: Recipe, optimizers: Sequence[Optimizer]) -> Training:
        """The training that is best by validation of those with each of the optimizers, which differ in their rates."""
        trainings = [self.train(seed, steps, recipe.but(optimizer=part)) for part in optimizers]
        return max(trainings, key=lambda one: one.accuracy("validation"))

    def images(self, n: int, split: SplitName = "train", recipe: Recipe = BASE) -> Batch:
        """At most n images of a split [n, C, H, W], evenly spread, as a model takes them, with their targets."""
        _, data = self.open(recipe)
        rows = data.spread_rows(split, n)
        batch = next(iterate_batches(data.pixels, data.labels, rows, len(data.classes), len(rows)))
        return batch.but(images=data.preprocess.normalize(data.preprocess.center_crop(batch.images)).contiguous())


def take_images(data: Dataset, per_class: int) -> Dataset:
    """The same data with so many training images of each class, evenly spread; all others as they are.

    Raises:
        UsageError: a class has fewer.
    """
    if (fewest := min(data.class_counts())) < per_class:
        raise UsageError(f"Expected {per_class} training images of each class or more for this claim, found {fewest}.")
    train, kept = data.rows("train"), []
    for k in range(len(data.classes)):
        rows = train[data.labels[train] == k]
        kept.append(rows[torch.linspace(0, len(rows) - 1, per_class).long()])
    splits = dataclasses.replace(data.splits, train=torch.cat(kept).sort().values.numpy())
    return dataclasses.replace(data, splits=splits)


def compare_steps(slow: float, fast: float, steps: int) -> tuple[float, bool]:
    """How many times as many steps, of at most `steps`, a slow training took as a fast one, and whether it took at least as many.

    Raises:
        NothingToJudge: the fast one never got there.
    """
    if math.isinf(fast):
        raise NothingToJudge(f"no training got as far as it should in {steps} steps")
    return min(slow, steps) / fast, math.isinf(slow)


def running_mean(values: Sequence[float], n: int) -> list[float]:
    """The mean of each value and the n - 1 before it, or as many as there are."""
    sums = [0.0, *torch.tensor(values, dtype=torch.float64).cumsum(0).tolist()]
    return [(sums[i + 1] - sums[max(0, i + 1 - n)]) / min(n, i + 1) for i in range(len(values))]


def curve(values: Sequence[float], n: int = WINDOW) -> list[tuple[float, float]]:
    """The points of a curve through running means of n values, evenly spaced and at most MAX_POINTS of them."""
    means = running_mean(values, n)
    places = sorted({round(k * (len(means) - 1) / (MAX_POINTS - 1)) for k in range(MAX_POINTS)})
    return [(float(x), means[x]) for x in places if means]


def accuracy_of_mean(members: Sequence[Outputs]) -> float:
    """The accuracy of the mean, in float64, of the probabilities of several models for the same images."""
    mean = torch.stack([one.logits.double().softmax(1) for one in members]).mean(0)
    return CLASSES.summarize_answers(mean, members[0].labels)["accuracy"]
