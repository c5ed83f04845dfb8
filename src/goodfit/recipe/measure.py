"""Measuring which precision, memory layout and threads train a model fastest on this machine; results are remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from goodfit.core.batch import one_hot
from goodfit.core.cached import read_cached_json, write_cached_json
from goodfit.core.device import autocast, cpu_name, memory_format, physical_cores, select_device
from goodfit.core.files import cache_folder
from goodfit.core.parts import spell
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.losses.scores import split_outputs
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.parts import make_model
from goodfit.recipe.recipe import Recipe

MAX_IMAGES, MAX_PIXELS = 128, 32 * 128 * 128  # of a step that is timed: with fewer images threads have too little to share
MIN_GAIN = 1.15  # how much faster than plain fp32 a setting must be to be chosen
MIN_THREAD_GAIN = 1.5  # how much faster than one thread several must be: on a busy machine they wait for each other
SMALL_STEP_SECONDS = 0.02  # in shorter steps threads may cost more than they save
MIN_CPU_SHARE = 0.9  # of the time that this thread ran: with less, other processes had the cores, and what was measured is not remembered
SETTINGS = (("fp32", "contiguous"), ("fp32", "channels_last"), ("bf16", "channels_last"))


_measured: dict[Path, dict[str, Any]] = {}  # in this process, under load as well: by the file that remembers it


@dataclasses.dataclass(frozen=True)
class Fastest:
    """The fastest setting, its seconds per image, and the figures of all."""

    precision: str
    layout: str
    threads: int
    seconds_per_image: float
    evidence: str


def measure_fastest(part: Any, data: Dataset, recipe: Recipe) -> Fastest:
    """Find the fastest setting for a model part on the recipe's device, among those the recipe leaves open."""
    device = select_device(recipe.device)
    pre = data.preprocess
    allowed = [(p, x) for p, x in SETTINGS if recipe.precision in ("auto", p) and recipe.layout in ("auto", x)] or [
        (recipe.precision, recipe.layout if recipe.layout != "auto" else "channels_last")
    ]
    threads = [torch.get_num_threads()] if recipe.threads != "auto" else [physical_cores(), 1]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    most = max(2, min(MAX_IMAGES, MAX_PIXELS // (pre.size[0] * pre.size[1])))
    count = min(recipe.batch_size, most) if isinstance(recipe.batch_size, int) else most
    key = [name, torch.__version__, threads, spell(part, full=True), len(data.classes), pre.channels, pre.size, count, allowed]
    file = cache_folder() / "machine" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    if file not in _measured and (known := read_cached_json(file)) is not None:
        _measured[file] = known
    if file not in _measured:
        model = make_model(part, len(data.classes), pre.channels, pre.size)
        wall, cpu = time.perf_counter(), time.thread_time()
        times = [time_step(model, pre, device, setting, threads[0], count) for setting in allowed]
        best = min(range(len(times)), key=lambda i: times[i] * (MIN_GAIN if i else 1.0))
        small = times[best] * count < SMALL_STEP_SECONDS
        times += [time_step(model, pre, device, allowed[best], n, count) for n in threads[1:] if small]
        _measured[file] = {"question": key, "best": best, "times": times}
        if device.type != "cpu" or (time.thread_time() - cpu) / (time.perf_counter() - wall) >= MIN_CPU_SHARE:
            write_cached_json(file, _measured[file])
    best, times = _measured[file]["best"], _measured[file]["times"]
    one_thread = len(times) > len(allowed) and times[-1] < MIN_THREAD_GAIN * times[best]
    labels = [*(f"{p} {x}" for p, x in allowed), "the best with one thread"]
    figures = ", ".join(f"{label} {1 / t:,.0f}" for label, t in zip(labels, times, strict=False))
    precision, layout = allowed[best]
    return Fastest(precision, layout, 1 if one_thread else threads[0], times[-1] if one_thread else times[best], f"images/s: {figures}")


def choose_precision(chooser: Chooser, data: Dataset, part: Any) -> Fastest | None:
    """Measure which precision, memory layout and threads train the model fastest, where one of these is open; returns what was measured."""
    fastest = None
    if any(map(chooser.is_open, ("precision", "layout", "threads"))):
        fastest = measure_fastest(part, data, chooser.recipe)
        chooser.seconds_per_image = fastest.seconds_per_image
        rule = "the fastest of those measured with this model on this machine; another than plain fp32 must gain 15 %"
        chooser.choose("precision", fastest.precision, rule, fastest.evidence)
        chooser.choose("layout", fastest.layout, rule, fastest.evidence)
        rule = "one for each core; one alone for small steps that several would hardly speed up"
        chooser.choose("threads", fastest.threads, rule, fastest.evidence)
        torch.set_num_threads(int(chooser.recipe.threads))
    return fastest


def time_step(model: nn.Module, pre: Preprocess, device: torch.device, setting: tuple[str, str], threads: int, count: int) -> float:
    """Time forward and backward of `count` images, in seconds per image: the best of the steps within a fifth of a second or more."""
    precision, layout = setting
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    model = model.to(device, memory_format=memory_format(layout)).train()  # type: ignore[call-overload]
    images = torch.randn(count, pre.channels, *pre.size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=memory_format(layout))
    seconds: list[float] = []  # the first step warms up
    while len(seconds) < 4 or (sum(seconds[1:]) < 0.2 and len(seconds) < 100):
        started = time.perf_counter()
        with autocast(device, precision):
            logits = split_outputs(model(images))[0]
        targets = one_hot(torch.zeros(count, dtype=torch.int64, device=device), logits.shape[1])
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return min(seconds[1:]) / count
