"""The training step of resnet(18) against the plain PyTorch loop a user would write, and the CPU time of our loop itself.

Both train on the same 32x32 images in turns (plain, goodfit, plain, goodfit, ...), so the machine's drift touches both alike, each in a
process of its own, so that what we set (threads, allocator) does not help the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
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
from goodfit.recipe.build import Training
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog
from goodfit.training.step import Objective

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

    def __init__(self, built: Training) -> None:
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


def ours(folder: Path) -> tuple[Training, Recipe]:
    """The same data, network and batch, everything else as `goodfit train` chooses it."""
    recipe = Recipe(
        data=str(folder / "images.npz"),
        model="resnet(18)",
        augment="flip | crop(4, border=reflect)",
        batch_size=BATCH,
        budget="100000 steps",
        evaluate_every="1.0",
    )
    prepared = prepare(recipe)
    return prepared.training, prepared.recipe


def measure_plain(workers: int, steps: int) -> dict[str, Any]:
    """Images/s of the plain loop, as torch comes."""
    lengths = _lengths(theirs(*pictures(), build_plain(), workers), steps + 2)[2:]
    return {"rate": BATCH / statistics.median(lengths), "setting": f"fp32, DataLoader with {workers} workers, PIL"}


def measure_goodfit(steps: int) -> dict[str, Any]:
    """Images/s of our loop as auto sets it up, and the share of each step's CPU time that is the loop's own."""
    images, labels = pictures()
    with tempfile.TemporaryDirectory() as name:
        np.savez(Path(name) / "images.npz", images=images, labels=labels)
        built, recipe = ours(Path(name))
    timers = Timers(built)
    fit(built.state, built.loader, built.plan, built.watch, MetricLog(), halt=_counted(timers, built, steps + 2))
    rate = BATCH / statistics.median(timers.seconds[2:])
    return {"rate": rate, "setting": f"{recipe.precision}, {recipe.layout}", "own": statistics.median(timers.own[2:])}


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels: the speed does not depend on what they show."""
    return np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8), np.arange(IMAGES) % 10


def main() -> None:
    """Run both in turns, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the plain loop's DataLoader")
    parser.add_argument("--only", choices=("plain", "goodfit"), help="measure one of them here, and print it as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(
            json.dumps(measure_plain(arguments.workers, arguments.steps) if arguments.only == "plain" else measure_goodfit(arguments.steps))
        )
        return
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "goodfit": []}
    for _ in range(arguments.rounds):
        for which, results in found.items():
            words = [sys.executable, __file__, "--only", which, "--steps", str(arguments.steps), "--workers", str(arguments.workers)]
            results.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    ratios = [g["rate"] / p["rate"] for g, p in zip(found["goodfit"], found["plain"], strict=True)]
    print(f"resnet(18), 32x32, batch {BATCH}, torch {torch.__version__}, {cpu_name()}; medians of {arguments.rounds} rounds")
    for which, results in found.items():
        print(f"{which:<8} {statistics.median(r['rate'] for r in results):7.1f} images/s   ({results[0]['setting']})")
    print(f"ratio    {statistics.median(ratios):7.2f}   ({', '.join(f'{r:.2f}' for r in ratios)}; goal at least 2)")
    own = statistics.median(result["own"] for result in found["goodfit"])
    print(f"the loop's own CPU time: {own:.2%} of a step (median; goal at most 3 %)")


def build_plain() -> torch.nn.Module:
    """The network, as a plain module."""
    network: torch.nn.Module = load_catalog().make("resnet(18)", "model")(10, 3, (32, 32))  # type: ignore[operator]
    return network.train()


def _lengths(steps: Iterator[None], n: int) -> list[float]:
    lengths = []
    for _ in range(n):
        started = time.perf_counter()
        next(steps)
        lengths.append(time.perf_counter() - started)
    return lengths


def _counted(timers: Timers, built: Training, goal: int) -> Any:
    """A `halt` that notes each step and stops the loop at `goal`."""
    begun = built.state.step

    def halt() -> bool:
        if built.state.step > begun:
            timers.step()
        return built.state.step >= goal

    return halt


if __name__ == "__main__":
    main()
