"""Asking the machine: which precision, memory layout and threads train a model fastest here; the answer is remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from typing import Any

import torch
from torch import nn

from goodfit.core.batch import one_hot
from goodfit.core.catalog import spell
from goodfit.core.device import autocast, choose, cores, cpu_name, memory_format
from goodfit.core.files import cache_home, write
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.recipe.build import make_model
from goodfit.recipe.recipe import Recipe
from goodfit.training.heads import heads

IMAGES, PIXELS = 32, 32 * 128 * 128  # of a step that is timed, at most
GAIN = 1.15  # how much faster than plain fp32 a setting must be to be taken
TOGETHER = 1.5  # how much faster than one thread several must be: on a busy machine they wait for each other
SMALL_STEP = 0.02  # seconds; in shorter steps threads may cost more than they bring
SETTINGS = (("fp32", "contiguous"), ("fp32", "channels_last"), ("bf16", "channels_last"))


@dataclasses.dataclass(frozen=True)
class Fastest:
    """The setting that won, its seconds per image, and the figures of all."""

    precision: str
    layout: str
    threads: int
    seconds_per_image: float
    evidence: str


def fastest(part: Any, data: Dataset, recipe: Recipe) -> Fastest:
    """The fastest setting for a model part on the recipe's device, among those the recipe leaves open."""
    device = choose(recipe.device)
    pre = data.preprocess
    allowed = [(p, x) for p, x in SETTINGS if recipe.precision in ("auto", p) and recipe.layout in ("auto", x)] or [
        (recipe.precision, recipe.layout if recipe.layout != "auto" else "channels_last")
    ]
    threads = [torch.get_num_threads()] if recipe.threads != "auto" else [cores(), 1]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    question = [name, torch.__version__, threads, spell(part, full=True), len(data.classes), pre.channels, pre.size, allowed]
    memo = cache_home() / "machine" / f"{hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]}.json"
    if not memo.is_file():
        model = make_model(part, len(data.classes), pre.channels, pre.size)
        times = [step_seconds(model, pre, device, setting, threads[0]) for setting in allowed]
        best = min(range(len(times)), key=lambda i: times[i] * (GAIN if i else 1.0))
        small = times[best] * IMAGES < SMALL_STEP
        times += [step_seconds(model, pre, device, allowed[best], n) for n in threads[1:] if small]
        write(memo, json.dumps({"question": question, "best": best, "times": times}))
    answer = json.loads(memo.read_text())
    best, times = answer["best"], answer["times"]
    alone = len(times) > len(allowed) and times[-1] < TOGETHER * times[best]
    labels = [*(f"{p} {x}" for p, x in allowed), "the best with one thread"]
    said = ", ".join(f"{label} {1 / t:,.0f}" for label, t in zip(labels, times, strict=False))
    precision, layout = allowed[best]
    return Fastest(precision, layout, 1 if alone else threads[0], times[-1] if alone else times[best], f"images/s: {said}")


def step_seconds(model: nn.Module, pre: Preprocess, device: torch.device, setting: tuple[str, str], threads: int) -> float:
    """Seconds per image of forward and backward: the best run of a fifth of a second or more, after one to warm up."""
    precision, layout = setting
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    model = model.to(device, memory_format=memory_format(layout)).train()  # type: ignore[call-overload]
    count = max(2, min(IMAGES, PIXELS // (pre.size[0] * pre.size[1])))
    images = torch.randn(count, pre.channels, *pre.size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=memory_format(layout))
    seconds: list[float] = []
    while len(seconds) < 4 or (sum(seconds[1:]) < 0.2 and len(seconds) < 100):
        started = time.perf_counter()
        with autocast(device, precision):
            logits = heads(model(images))[0]
        targets = one_hot(torch.zeros(count, dtype=torch.int64, device=device), logits.shape[1])
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return min(seconds[1:]) / count
