"""Two processes of one thread against one process of two, on the training step of resnet(18): images/s, and what communication takes.

Both train the same 32x32 images in turns, each in processes of its own. The goal: at least 0.9 times the speed of one process, as two
cores are two cores either way.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from goodfit.core.device import cpu_name
from goodfit.core.reporter import SilentReporter
from goodfit.recipe.prepare import prepare
from goodfit.recipe.recipe import Recipe
from goodfit.runs.launch import joined_ranks
from goodfit.training.loop import fit
from goodfit.training.metric_log import MetricLog

IMAGES, WARM_UP = 1280, 2
STEP = {
    "size": "32", "precision": "fp32", "layout": "channels_last", "evaluate_every": "1", "schedule": "cosine", "augment": "flip | crop(4)",
    "optimizer": "sgd(0.1, momentum=0.9, weight_decay=0.0005)",
}  # fmt: skip


def measure(data: Path, arguments: argparse.Namespace) -> None:
    """Train for some steps as one of the ranks of the environment; rank 0 prints images/s of each step, and seconds in collectives."""
    waited = [0.0]

    def timed(collective: Callable[..., object]) -> Callable[..., object]:
        def call(*values: object) -> object:
            began = time.perf_counter()
            done = collective(*values)
            waited[0] += time.perf_counter() - began
            return done

        return call

    for name in ("all_reduce", "broadcast"):
        setattr(distributed, name, timed(getattr(distributed, name)))
    with joined_ranks() as ranks:
        settings = {"data": str(data), "model": arguments.model, "threads": str(2 // ranks.size), "budget": f"{arguments.steps} steps"}
        recipe = Recipe().but_text({**STEP, **settings, "batch_size": str(arguments.batch)})
        training = prepare(recipe, SilentReporter()).training.among(ranks, sync_norms=arguments.sync)
        rows: list[dict[str, Any]] = []
        began, waited[0] = time.perf_counter(), 0.0
        fit(training.state, training.loader, dataclasses.replace(training.plan, evaluate=None), log=MetricLog((rows.extend,)))
        share = waited[0] / (time.perf_counter() - began)
        if ranks.is_first:
            print(json.dumps({"images_per_s": [row["images_per_s"] for row in rows[WARM_UP:]], "share": share}))


def run(data: Path, size: int, words: list[str]) -> dict[str, Any]:
    """What `measure` prints, in so many processes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = []
    for rank in range(size):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        environment = {**os.environ, **{key: str(value) for key, value in numbers.items()}, "MASTER_ADDR": "127.0.0.1"}
        environment["OMP_NUM_THREADS"] = str(2 // size)
        command = [sys.executable, __file__, *words, "--measure", str(data)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return dict(json.loads(outputs[0]))


def main() -> None:
    """Run both in turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet(18)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no-sync", dest="sync", action="store_false", help="as with --set sync_norms=false")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments)
        return
    speeds: dict[int, list[float]] = {1: [], 2: []}
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
        np.savez(data, x_train=images, y_train=np.arange(IMAGES) % 10)
        for _ in range(arguments.turns):
            for size in speeds:
                result = run(data, size, sys.argv[1:])
                speeds[size] += result["images_per_s"]
                shares.append(result["share"])
    one, two = (statistics.median(speeds[size]) for size in speeds)
    print(f"{arguments.model}, {arguments.batch} images a step, {cpu_name()}, torch {torch.__version__}")
    print(f"one process of two threads   {one:7.1f} images/s")
    print(f"two processes of one thread  {two:7.1f} images/s, {two / one:.2f} times (goal: 0.9 or more)")
    print(f"of their time in collectives {statistics.median(shares[1::2]):7.1%}, waiting for the other included")


if __name__ == "__main__":
    main()
