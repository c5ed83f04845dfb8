"""Ensembles: five independent runs against one; five snapshots of a cyclic run against one run as long, and against those of step decay.

All are trained for the same number of epochs and judged on the same test images, which choose nothing: greedy choices and greedy soups go
by validation. A gain is in points of test accuracy, with a 95 % paired bootstrap interval over test images, and over seeds where a row is
of several.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import goodfit
from goodfit.core.device import cpu_name, physical_cores
from goodfit.core.reporter import SilentReporter
from goodfit.core.run import Run
from goodfit.models.weights.saved import to_safetensors
from goodfit.predict.images import ImagesFor
from goodfit.predict.paired import Right, compare_paired
from goodfit.predict.predictor import Classifier
from goodfit.recipe.recipe import Recipe
from goodfit.study.ensemble.assembly import Select, Soup, make_ensemble

PLAIN, STEPS = "warmup(0.05) | cosine", "step(every=0.3, factor=0.1)"
WAYS: dict[str, tuple[Select, Soup]] = {
    "mean": ("all", ""),
    "greedy": ("greedy", ""),
    "uniform soup": ("all", "uniform"),
    "greedy soup": ("all", "greedy"),
}
CLAIM = 2  # points that the lecture says an ensemble of independent runs is worth


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A way to a classifier: which test images its copies are right about [copies, images], and its cost in trainings and models asked."""

    right: Right
    training: int
    asking: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


class Examiner:
    """Asks runs and ensembles about the test images of the data."""

    def __init__(self, recipe: Recipe) -> None:
        self.images = ImagesFor(recipe, SilentReporter())
        self.rows = self.images.data.rows("test")
        self._known: dict[bytes, Tensor] = {}
        if not len(self.rows):
            raise SystemExit(f'"{self.images.data.name}" has no test images')

    def right(self, run: Run) -> Right:
        """Which images [images] a run or ensemble is right about."""
        predictor = goodfit.load(run)
        pairs = zip(predictor.members, predictor.weights, strict=True)
        mean = sum((weight * self.probabilities(member).double() for member, weight in pairs), torch.zeros(()))
        right: Right = (mean.argmax(1) == self.images.data.labels[self.rows]).numpy()
        return right

    def probabilities(self, member: Classifier) -> Tensor:
        """The probabilities [images, K] of a model; those of the same weights are computed once."""
        key = to_safetensors(member.model)
        if key not in self._known:
            self._known[key] = self.images.probabilities(member, self.rows)
        return self._known[key]


def trained(recipe: Recipe, copies: int, folder: Path, name: str) -> list[Run]:
    """Copies of a recipe that differ in their seed; one that is there already goes on from where it is."""
    runs = []
    for seed in range(copies):
        began = time.perf_counter()
        runs.append(goodfit.train("", recipe.but(seed=seed), out=folder / f"{name}-{seed}", resume="auto", quiet=True))
        accuracy = runs[-1].read("scores.json")["validation"]["accuracy"]
        print(f"  {name} {seed}: validation {accuracy:.2%}, {time.perf_counter() - began:.1f} s", flush=True)
    return runs


def gathered(groups: list[list[Run]], ways: list[str], examiner: Examiner, folder: Path, training: int) -> dict[str, Row]:
    """The ensembles of each group of runs, by the ways asked for; the copies of a row are the groups."""
    rows = {}
    for way in ways:
        select, soup = WAYS[way]
        found, members = [], 1
        for group in groups:
            made = make_ensemble([run.path for run in group], folder / f"{len(list(folder.iterdir())):03d}", select, soup)
            members = max(members, len(made.read("ensemble.json")["members"]))
            found.append(examiner.right(made))
        rows[way] = Row(np.array(found), training, members)
    return rows


def table(rows: dict[str, Row], single: str) -> str:
    """Every row, and its gain over single runs."""
    lines = [f"{'':46} {'copies':>6} {'train':>6} {'ask':>4} {'test':>8}   gain over {single}, points"]
    for name, row in rows.items():
        gain = "" if name == single else gained(row, rows[single])
        lines.append(f"  {name:44} {len(row.right):6} {row.training:5}x {row.asking:3}x {row.accuracy:8.2%}   {gain}".rstrip())
    return "\n".join(lines)


def gained(one: Row, other: Row) -> str:
    """The difference of two rows with its interval."""
    found = compare_paired(one.right, other.right)
    low, high = found.interval
    return f"{100 * found.difference:+6.2f}  [{100 * low:+.2f}, {100 * high:+.2f}]"


def read() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as for goodfit train; with test images")
    parser.add_argument("--epochs", type=int, default=20, help="length of every run, in all")
    parser.add_argument("--members", type=int, default=5, help="independent runs, and snapshots of a run")
    parser.add_argument("--copies", type=int, default=3, help="seeds of the cyclic run and of step decay's")
    parser.add_argument("--limit", type=int, default=0, help="images per class and split; 0 takes all")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--model", default="convnet(16, act=gelu)")
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder, and go on with those that are there")
    parser.add_argument("--json", type=Path, help="also write the test accuracies and gains to this file")
    parser.add_argument("--quick", action="store_true", help="only a check that all of it runs")
    parser.add_argument("settings", nargs="*", help="key=value of all runs, such as batch_size=64")
    arguments = parser.parse_intermixed_args()
    if arguments.quick:
        arguments.epochs, arguments.members, arguments.copies, arguments.limit = 2, 2, 1, 20
    return arguments


def examined(recipe: Recipe, arguments: argparse.Namespace, runs: Path, folder: Path) -> tuple[dict[str, Row], list[tuple[str, str]]]:
    """Train all, and ask all about the test images: the rows, the first of them single runs, and the pairs that the claims are of."""
    n, copies = arguments.members, arguments.copies
    cyclic = f"sgdr({n}, growth=1)"
    singles = trained(recipe.but(schedule=PLAIN), n, runs, "cosine")
    cycles = trained(recipe.but(schedule=cyclic, snapshots=n), copies, runs, "cyclic")
    stairs = trained(recipe.but(schedule=STEPS, snapshots=n), copies, runs, "step")
    examiner = Examiner(Recipe.from_toml(singles[0].path / "recipe.toml"))
    data = examiner.images.data
    counts = ", ".join(f"{len(data.rows(split)):,} {split}" for split in ("train", "validation", "test"))
    print(f"\n{data.name}: {counts} images; every run {recipe.budget}; train and ask in multiples of one run")
    rows = {
        f"one run, {schedule.rpartition('| ')[2]}": Row(np.array([examiner.right(run) for run in group]), 1, 1)
        for schedule, group in ((PLAIN, singles), (cyclic, cycles), (STEPS, stairs))
    }
    one, last, end = rows
    mixed = gathered([singles], list(WAYS), examiner, folder, n)
    rows |= {f"{n} runs, {way}": row for way, row in mixed.items()}
    for name, group in ((cyclic, cycles), (STEPS, stairs)):
        shots = gathered([[run] for run in group], list(WAYS), examiner, folder, 1)
        rows |= {f"{n} snapshots of {name.partition('(')[0]}, {way}": row for way, row in shots.items()}
    of_runs, of_cycles, of_steps = (f"{n} {what}, mean" for what in ("runs", "snapshots of sgdr", "snapshots of step"))
    pairs = [(of_runs, one), (of_cycles, one), (of_cycles, last), (of_cycles, of_steps), (of_steps, end), (of_runs, of_cycles)]
    return rows, pairs


def main() -> None:
    """Train, gather, print the tables."""
    arguments = read()
    asked = {"model": arguments.model, "size": str(arguments.size), "limit": str(arguments.limit), "threads": "1"}
    asked |= {"precision": "fp32", "layout": "channels_last"}  # else each run measures for itself which is faster
    asked |= {"data": arguments.data, "budget": f"{arguments.epochs} epochs", **dict(word.split("=", 1) for word in arguments.settings)}
    recipe, began = Recipe().but_text(asked), time.perf_counter()
    print(f"{arguments.model} at {arguments.size} pixels, threads {recipe.threads}, torch {torch.__version__}")
    print(f"{physical_cores()} of {os.cpu_count()} cores of {cpu_name()}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ensembles"
        folder.mkdir()
        rows, pairs = examined(recipe, arguments, arguments.keep or Path(name) / "runs", folder)
    single = next(iter(rows))
    print(f"{table(rows, single)}\n\ngains in points of test accuracy, 95 % paired bootstrap intervals:")
    for one, other in pairs:
        print(f"  {one:30} over {other:46} {gained(rows[one], rows[other])}")
    print(f"(the lecture: independent runs averaged are worth {CLAIM} points)\n{time.perf_counter() - began:.0f} s")
    if arguments.json:
        found = {name: {"test": row.right.mean(1).tolist(), "training": row.training, "asking": row.asking} for name, row in rows.items()}
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
