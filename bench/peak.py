"""How near a training step comes to the conv peak: the time of its convs alone, each at its own shape, against that of the whole step.

The convs are timed one by one, forward, and backward to their weights and, but for the first, to their inputs, in the step's precision and
layout; the step is that of the training loop: augmentation, normalization, forward, loss, backward and optimizer. Both take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from goodfit.core.device import autocast, cpu_name
from goodfit.core.parts import spell
from goodfit.recipe.prepare import Prepared, prepare
from goodfit.recipe.recipe import Recipe
from goodfit.training.step import train_step

GOAL = 0.8


def conv_inputs(model: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, tuple[int, ...]]]:
    """The convs of a model with the shapes of their inputs, in the order they run."""
    found: list[tuple[nn.Conv2d, tuple[int, ...]]] = []
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((module, tuple(inputs[0].shape)))  # type: ignore[arg-type]

    hooks = [m.register_forward_hook(record) for m in convs]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def conv_work(conv: nn.Conv2d, shape: tuple[int, ...], first: bool, dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    """A function that runs a conv forward and backward, and its floating-point operations."""
    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
    y = torch.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    grad, passes = torch.randn_like(y), 2 if first else 3
    mask = [not first, True, False]
    arguments = (None, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, mask)

    def run() -> None:
        torch.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        torch.ops.aten.convolution_backward(grad, x, weight, *arguments)

    return run, passes * 2.0 * y.numel() * weight[0].numel()


def seconds_of(run: Callable[[], Any], times: int) -> float:
    """The fastest of some runs."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def made_images(folder: Path, n: int, side: int) -> Path:
    """A file of noise in ten classes."""
    rng = np.random.Generator(np.random.PCG64(0))
    made = {"images": rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8), "labels": np.arange(n) % 10}
    np.savez(folder / "noise.npz", **made)  # type: ignore[arg-type]
    return folder / "noise.npz"


def step_function(prepared: Prepared) -> Callable[[], Any]:
    """A function that takes the next training step."""
    training = prepared.training
    stream = training.loader.stream(0)
    training.state.model.train()
    return lambda: train_step(training.state, next(stream), training.plan, 0.9, 1e-3)


def measure(recipe: Recipe, turns: int) -> tuple[dict[str, Any], list[str]]:
    """The figures of a recipe's step, and a line for each conv."""
    prepared = prepare(recipe)
    model, precision, batch = prepared.training.state.model, str(prepared.recipe.precision), int(prepared.recipe.batch_size)
    images = torch.randn(batch, 3, *prepared.data.preprocess.size).contiguous(memory_format=torch.channels_last)
    with autocast(torch.device("cpu"), precision):
        shapes = conv_inputs(model, images)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    work = [conv_work(conv, shape, first=k == 0, dtype=dtype) for k, (conv, shape) in enumerate(shapes)]
    step = step_function(prepared)
    step()
    alone: list[list[float]] = []
    whole: list[float] = []
    for _ in range(turns):
        alone.append([seconds_of(run, 2) for run, _ in work])
        whole.append(seconds_of(step, 2))
    operations = sum(each for _, each in work)
    best = [min(times) for times in zip(*alone, strict=True)]
    figures = {
        "model": spell(prepared.parts["model"]),
        "batch": batch,
        "precision": precision,
        "images_per_s": batch / min(whole),
        "gflops": operations / min(whole) / 1e9,
        "peak_gflops": operations / sum(best) / 1e9,
        "share": statistics.median(sum(a) / w for a, w in zip(alone, whole, strict=True)),
    }
    lines = [
        f"{conv.in_channels:4} -> {conv.out_channels:4} {shape[2]:3} px {seconds * 1e3:7.1f} ms {each / seconds / 1e9:6,.0f} GFLOP/s"
        for (conv, shape), seconds, (_, each) in zip(shapes, best, work, strict=True)
    ]
    return figures, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fast", help="a preset or recipe file")
    parser.add_argument("--model", nargs="*", default=[""], help="nets in place of the recipe's")
    parser.add_argument("--batch", type=int, help="in place of the recipe's")
    parser.add_argument("--precision", default="auto", help="fp32 or bf16; auto measures which is faster")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    print(f"{cpu_name()}, {os.cpu_count()} cores", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["GOODFIT_CACHE"] = name
        base = Recipe.from_toml(asked.recipe).but(size=asked.side, budget="50 epochs", probes="none", validation=0.1)
        base = base.but(precision=asked.precision)
        base = base.but(batch_size=asked.batch) if asked.batch else base
        base = base.but(data=str(made_images(Path(name), 4 * int(base.batch_size), asked.side)))
        for text in asked.model:
            figures, lines = measure(base.but(model=text) if text else base, asked.turns)
            rows.append(figures)
            print(
                f"{figures['model'][:60]:60} batch {figures['batch']} {figures['precision']}: {figures['images_per_s']:6,.0f} images/s,"
                f" {figures['gflops']:5,.0f} of {figures['peak_gflops']:5,.0f} GFLOP/s, {figures['share']:.0%} of the time in convs"
                f" (goal {GOAL:.0%})",
                *lines,
                sep="\n    ",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps({"machine": cpu_name(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
