"""A million small images streamed from tar shards through a cache that holds a part of them: images/s and memory.

The shards are made in a temporary folder and named by a URL, local:///..., so that they are copied as those of a bucket are. Each phase
(index, reading alone, training) is a process of its own, at whose memory and copies of shards another one looks ten times a second.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

import goodfit
from goodfit.core.device import cpu_name
from goodfit.core.files import cache_folder, lock, measure_folder
from goodfit.data.loader import Loader
from goodfit.data.sampler import Shuffle
from goodfit.data.shards.shard_cache import LOCKS, ROOM
from goodfit.data.shards.streamed import order_epochs
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images, read_image_headers
from goodfit.terminal.log import LoggingReporter

CLASSES, BATCH, QUALITY = 10, 128, 85
PHASES = ("index", "read", "train")


def write_shards(folder: Path, images: int, per_shard: int, side: int) -> None:
    """Write shards of noisy JPEGs, of whose ten classes each has a brighter spot of its own."""
    rng = np.random.default_rng(0)
    for shard in range(images // per_shard):
        labels = rng.integers(0, CLASSES, per_shard)
        pixels = rng.integers(60, 140, (per_shard, side, side, 3), dtype=np.uint8)
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for k, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
                row, column = divmod(label, 5)
                image[row * side // 2 : (row + 1) * side // 2, column * side // 5 : (column + 1) * side // 5] += 60
                key = f"{shard * per_shard + k:08d}"
                add(archive, f"{key}.jpg", simplejpeg.encode_jpeg(image, QUALITY))
                add(archive, f"{key}.cls", str(label).encode())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


# ---- phases, each in a process of its own --------------------------------------------------------------------------------------


def run_phase(phase: str, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Run a phase and say how many images it passed, in how many seconds."""
    began = time.perf_counter()
    headers = read_image_headers(recipe, LoggingReporter())
    n, seconds = len(headers.index), time.perf_counter() - began
    if phase == "read":
        data = open_images(recipe, headers=headers)
        rows = data.rows("train")
        loader = Loader(data.pixels, data.labels, rows, CLASSES, BATCH, 0, sampler=order_epochs(data, Shuffle(), BATCH))
        began = time.perf_counter()
        stream = loader.stream()
        for _ in range(loader.epoch_steps):
            next(stream)
        n, seconds = len(rows), time.perf_counter() - began
    elif phase == "train":
        run = goodfit.train(recipe.data, recipe.but(workers=1), out=out, quiet=True)
        n, seconds = run.read("about.json")["data"]["splits"]["train"], run.read("about.json")["seconds"]["training"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"images": n, "seconds": seconds, "images_per_second": n / seconds, "peak_rss": peak}


def watch_phase(words: list[str]) -> dict[str, Any]:
    """Run a phase in a process, and look at its memory and at the copies of shards meanwhile."""
    process = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    peaks = {"anonymous": 0, "mapped": 0, "shards": 0}
    while process.poll() is None:
        status = read_status(process.pid)
        shards = list_sizes(cache_folder() / "shards")
        for name, value in (("anonymous", status.get("RssAnon", 0)), ("mapped", status.get("RssFile", 0)), ("shards", sum(shards))):
            peaks[name] = max(peaks[name], value)
        time.sleep(0.1)
    assert process.stdout is not None
    output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"The phase {words} ended with {process.returncode}: {output}")
    return {**json.loads(output.splitlines()[-1]), **{f"peak_{name}": value for name, value in peaks.items()}}


def list_sizes(folder: Path) -> list[int]:
    """The bytes of the files in a folder, while none comes or goes."""
    if not folder.is_dir():
        return []
    with lock(folder / LOCKS / ROOM):
        return [file.stat().st_size for file in folder.iterdir() if file.is_file()]


def read_status(process: int) -> dict[str, int]:
    """The figures of /proc/PID/status in bytes."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs if value.strip().endswith("kB")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--cache", type=float, default=1.0, help="gigabytes, of which copies of shards have half")
    parser.add_argument("--model", default="mlp((64,))")
    parser.add_argument("--json", type=Path, default=Path("bench/results/stream.json"))
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        recipe = Recipe(
            data=f"local://{options.folder}/shards", size=options.side, cache=options.cache, model=options.model, budget="1 epoch",
            batch_size=BATCH, validation=0.01,
        )  # fmt: skip
        print(json.dumps(run_phase(options.phase, recipe, options.folder / "run")))
        return
    with tempfile.TemporaryDirectory(prefix="goodfit-stream-") as name:
        folder = Path(name)
        os.environ["GOODFIT_CACHE"] = str(folder / "cache")
        (folder / "shards").mkdir()
        began = time.perf_counter()
        write_shards(folder / "shards", options.images, options.per_shard, options.side)
        total = measure_folder(folder / "shards")
        print(f"{options.images:,} images of {options.side} pixels in {total / 1e9:.2f} GB written in {time.perf_counter() - began:.0f} s")
        results = {}
        for phase in PHASES:
            words = [f"--{key}={getattr(options, key)}" for key in ("side", "cache", "model")]
            results[phase] = watch_phase([f"--phase={phase}", f"--folder={folder}", *words])
            line = ", ".join(f"{key} {value / 1e6:,.0f} MB" for key, value in results[phase].items() if key.startswith("peak"))
            print(f"{phase}: {results[phase]['images_per_second']:,.0f} images/s for {results[phase]['seconds']:.0f} s; {line}", flush=True)
    facts = {"images": options.images, "bytes": total, "cache_gb": options.cache, "model": options.model, "pixels": options.side}
    load = {"machine": f"{os.cpu_count()} cores of {cpu_name()}", "load": os.getloadavg()[2]}
    options.json.write_text(json.dumps({**facts, **load, "phases": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
