"""The training step of resnet(18) against the plain PyTorch loop a user would write, and the CPU time of our loop itself.

Both train on the same 32x32 images in turns (theirs, ours, theirs, ours, ...), so the machine's drift touches both alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from goodfit.core.device import cpu_name
from goodfit.recipe.auto import Chooser, data_choices, machine_choices, training_choices
from goodfit.recipe.build import Built, build, catalog
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.training.gradient import Objective
from goodfit.training.journal import Journal
from goodfit.training.loop import fit

BATCH, IMAGES = 128, 2560
MEAN, STD = np.array([0.49, 0.48, 0.45], np.float32), np.array([0.25, 0.24, 0.26], np.float32)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """What most people write: a PIL image, a padded random crop, a flip, to a float tensor, normalized."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = ImageOps.expand(Image.fromarray(self.images[i]), 4)
        left, top = torch.randint(0, 9, (2,)).tolist()
        image = image.crop((left, top, left + 32, top + 32))
        if torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        pixels = (np.asarray(image, np.float32) / 255 - MEAN) / STD
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), int(self.labels[i])


def theirs(images: np.ndarray, labels: np.ndarray, model: torch.nn.Module, workers: int) -> Iterator[None]:
    """One step at a time of the plain loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    while True:
        for x, y in DataLoader(Pictures(images, labels), BATCH, shuffle=True, num_workers=workers, drop_last=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            yield


class Timers:
    """CPU time of this process inside forward, backward and the optimizer's own update."""

    def __init__(self, built: Built) -> None:
        self.inside = 0.0
        self.own: list[float] = []
        self.seconds: list[float] = []
        self.mark = (time.process_time(), time.perf_counter())
        model, optimizer = built.state.model, built.state.optimizer
        model.register_forward_pre_hook(lambda *_: self.add(-time.process_time()))
        model.register_forward_hook(lambda *_: self.add(time.process_time()))
        backward, step, call = torch.Tensor.backward, optimizer.step, Objective.__call__
        torch.Tensor.backward = self.timed(backward, 1.0)  # type: ignore[assignment,method-assign]
        optimizer.step = self.timed(step, 1.0)  # type: ignore[method-assign]
        Objective.__call__ = self.timed(call, -1.0)  # type: ignore[method-assign]

    def add(self, seconds: float) -> None:
        self.inside += seconds

    def timed(self, function: Any, sign: float) -> Any:
        def call(*arguments: Any) -> Any:
            started = time.process_time()
            result = function(*arguments)
            self.inside += sign * (time.process_time() - started)
            return result

        return call

    def step(self) -> None:
        """A step has ended: note the share of its CPU time that was the loop's own, and its length."""
        cpu, wall = time.process_time(), time.perf_counter()
        total = cpu - self.mark[0]
        self.own.append((total - self.inside) / total)
        self.seconds.append(wall - self.mark[1])
        self.inside, self.mark = 0.0, (cpu, wall)


def ours(folder: Path) -> tuple[Built, Recipe]:
    """The same data, network and batch, everything else as `goodfit train` chooses it."""
    recipe = Recipe(
        data=str(folder / "images.npz"),
        model="resnet(18)",
        augment="flip | crop(4)",
        batch_size=BATCH,
        budget="100000 steps",
        evaluate_every="1.0",
    )
    chooser = Chooser(recipe)
    machine_choices(chooser)
    seen = look(recipe)
    data_choices(chooser, seen)
    data = open_data(chooser.recipe, seen)
    training_choices(chooser, data, catalog())
    return build(chooser.recipe, data, catalog()), chooser.recipe


def main() -> None:
    """Run both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the plain loop's DataLoader")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8), np.arange(IMAGES) % 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "images.npz", images=images, labels=labels)
        built, recipe = ours(folder)
    plain = theirs(images, labels, build_plain(), arguments.workers)
    timers = Timers(built)
    rates: dict[str, list[float]] = {"plain": [], "goodfit": []}
    next(plain)
    for _ in range(arguments.rounds):
        rates["plain"].append(BATCH / statistics.median(_lengths(plain, arguments.steps)))
        timers.seconds.clear()
        goal = built.state.step + arguments.steps + 1
        timers.mark = (time.process_time(), time.perf_counter())
        fit(built.state, built.loader, built.plan, built.watch, Journal(), halt=_counted(timers, built, goal))
        rates["goodfit"].append(BATCH / statistics.median(timers.seconds[1:]))
    ratio = statistics.median(g / p for g, p in zip(rates["goodfit"], rates["plain"], strict=True))
    print(f"resnet(18), 32x32, batch {BATCH}, {torch.get_num_threads()} threads, torch {torch.__version__}, {cpu_name()}")
    print(f"plain loop (fp32, DataLoader with {arguments.workers} workers, PIL)   {statistics.median(rates['plain']):7.1f} images/s")
    print(f"goodfit ({recipe.precision}, {recipe.layout})                    {statistics.median(rates['goodfit']):7.1f} images/s")
    print(f"ratio                                              {ratio:7.2f}   (goal at least 2)")
    print(f"the loop's own CPU time, share of the step        {statistics.median(timers.own):7.2%}   (median; goal at most 3 %)")


def build_plain() -> torch.nn.Module:
    """The network, as a plain module."""
    network: torch.nn.Module = catalog().make("resnet(18)", "model")(10, 3, (32, 32))  # type: ignore[operator]
    return network.train()


def _lengths(steps: Iterator[None], n: int) -> list[float]:
    lengths = []
    for _ in range(n):
        started = time.perf_counter()
        next(steps)
        lengths.append(time.perf_counter() - started)
    return lengths


def _counted(timers: Timers, built: Built, goal: int) -> Any:
    """A `halt` that notes each step and stops the loop at `goal`."""
    begun = built.state.step

    def halt() -> bool:
        if built.state.step > begun:
            timers.step()
        return built.state.step >= goal

    return halt


if __name__ == "__main__":
    main()
