"""The learning curves that a budget in minutes is planned by: the validation error of each net after so many images.

Each point is a training of its own with a preset, its schedule over just its epochs: as many as fit the seconds given, by the speed of a
first, short one. `--json` adds the points to a file, as the package reads it (src/goodfit/recipe/curves.json), with their origin.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import goodfit
from goodfit.core.device import cpu_name
from goodfit.core.reporter import SilentReporter
from goodfit.data.index import TRAIN, VALIDATION
from goodfit.data.splits import make_splits, write_splits
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import read_image_headers

NETS = (
    "swift(32, growth=(1.0, 2.0, 4.0))",
    "swift(32, growth=(1.0, 4.0))",
    "swift(64, growth=(1.0, 2.0, 4.0))",
    "swift(64, growth=(1.0, 4.0))",
)  # fmt: skip


def split_anew(data: str, share: float, folder: Path) -> Path:
    """A table of splits that gives validation this share of the images that are not for testing."""
    index = read_image_headers(Recipe(data=data), SilentReporter()).index
    index = dataclasses.replace(index, splits=np.where(index.splits == VALIDATION, TRAIN, index.splits))
    write_splits(folder / "splits.csv", index, make_splits(index, np.ones(len(index), dtype=np.bool_), share, seed=0))
    return folder / "splits.csv"


def measure(base: Recipe, net: str, epochs: float, seeds: int, folder: Path) -> dict[str, Any]:
    """Train a net for some epochs with several seeds: the mean validation error, the images seen, and those seen in a second."""
    errors, speeds, data = [], [], {}
    for seed in range(seeds):
        recipe = base.but(model=net, budget=f"{epochs:g} epochs", seed=seed, evaluate_every=f"{epochs:g} epochs")
        run = goodfit.train(recipe=recipe, out=folder / f"{time.time_ns()}", quiet=True)
        errors.append(1 - run.read("scores.json")["validation"]["accuracy"])
        steps = run.log("train")
        speeds.append(statistics.median(step["images_per_s"] for step in steps[len(steps) // 2 :]))
        data = run.read("about.json")["data"]
    images = data["splits"]["train"]
    return {"seen": epochs * images, "error": statistics.fmean(errors), "images_per_s": max(speeds), "data": data}


def add_points(file: Path, key: dict[str, Any], net: str, points: list[list[float]], origin: dict[str, Any]) -> None:
    """Add the points of a net to the curves with these facts of their data; a point for as many images is replaced."""
    content = json.loads(file.read_text()) if file.exists() else {"origins": [], "curves": []}
    if origin not in content["origins"]:
        content["origins"].append(origin)
    table = next((table for table in content["curves"] if {name: table[name] for name in key} == key), None)
    if table is None:
        content["curves"].append(table := {**key, "nets": []})
    row = next((row for row in table["nets"] if row["model"] == net), None)
    if row is None:
        table["nets"].append(row := {"model": net, "points": []})
    row["points"] = sorted(map(list, dict([*row["points"], *points]).items()))
    file.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as goodfit train takes it")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--size", help="of the images, in pixels; their own by default")
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--seconds", type=float, nargs="+", default=[100, 300])
    parser.add_argument("--min-epochs", type=float, default=1.0, help="of the first training, which measures the speed too")
    parser.add_argument("--judged", type=float, help="the share of the images to judge by, where the data's own validation is too small")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="the file to add the points to")
    asked = parser.parse_args()
    base = Recipe.from_toml(asked.preset).but(data=asked.data, probes="none")
    base = base.but(size=asked.size) if asked.size else base
    with tempfile.TemporaryDirectory() as folder:
        base = base.but(validation=str(split_anew(asked.data, asked.judged, Path(folder)))) if asked.judged else base
        for net in asked.nets:
            rows = [measure(base, net, asked.min_epochs, asked.seeds, Path(folder))]
            data, speed = rows[0]["data"], rows[0]["images_per_s"]
            longer = [round(seconds * speed / data["splits"]["train"], 1) for seconds in asked.seconds]
            rows += [measure(base, net, epochs, asked.seeds, Path(folder)) for epochs in longer if epochs > 1.3 * asked.min_epochs]
            for row in rows:
                print(f"{net}  {row['seen']:,.0f} images  error {row['error']:.2%}  {row['images_per_s']:,.0f} images/s", flush=True)
            origin = {
                "made by": "bench/plan.py", "date": time.strftime("%Y-%m-%d"), "machine": cpu_name(), "threads": torch.get_num_threads(),
                "torch": torch.__version__, "data": data["name"], "seeds": asked.seeds,
            }  # fmt: skip
            key = {"data": data["name"], "side": min(data["size"]), "images": data["splits"]["train"], "preset": asked.preset}
            if asked.json:
                add_points(asked.json, key, net, [[row["seen"], round(row["error"], 5)] for row in rows], origin)


if __name__ == "__main__":
    main()
