"""The learning curves that a budget in minutes is planned by: the validation error of each net after so many epochs, and its speed.

Each point is a training of its own with the preset `fast`, its schedule over just its epochs: one, then as many as fit the seconds given.
`--json` writes them as the package reads them (src/goodfit/recipe/curves.json), with their origin.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import goodfit
from goodfit.core.device import cpu_name
from goodfit.recipe.plan import PRESET
from goodfit.recipe.recipe import Recipe

NETS = (
    "swift(32, growth=(1.0, 2.0, 4.0))",
    "swift(32, growth=(1.0, 4.0))",
    "swift(64, growth=(1.0, 2.0, 4.0))",
    "swift(64, growth=(1.0, 4.0))",
)  # fmt: skip

MIN_MORE = 1.3  # epochs of the second point


def measure(data: str, net: str, epochs: float, seeds: int, folder: Path) -> dict[str, Any]:
    """Train a net for some epochs with several seeds: the mean validation error, the images seen, and those seen in a second."""
    errors, speeds, images = [], [], 0
    for seed in range(seeds):
        recipe = Recipe.from_toml(PRESET).but(
            data=data, model=net, budget=f"{epochs:g} epochs", seed=seed, evaluate_every=f"{epochs:g} epochs"
        )
        run = goodfit.train(recipe=recipe, out=folder / f"{time.time_ns()}", quiet=True)
        errors.append(1 - run.read("scores.json")["validation"]["accuracy"])
        steps = run.log("train")
        speeds.append(statistics.median(step["images_per_s"] for step in steps[len(steps) // 2 :]))
        images = run.read("about.json")["data"]["splits"]["train"]
    return {"seen": epochs * images, "error": statistics.fmean(errors), "errors": errors, "images_per_s": max(speeds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as goodfit train takes it")
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--seconds", type=float, nargs="+", default=[100, 300])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the curves")
    asked = parser.parse_args()
    origin = {
        "made by": "bench/plan.py", "date": time.strftime("%Y-%m-%d"), "machine": cpu_name(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "data": Path(asked.data).name, "seeds": asked.seeds,
    }  # fmt: skip
    nets: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for net in asked.nets:
            rows = [measure(asked.data, net, 1.0, asked.seeds, Path(folder))]
            one_epoch = rows[0]["seen"] / rows[0]["images_per_s"]
            longer = [round(seconds / one_epoch, 1) for seconds in asked.seconds]
            rows += [measure(asked.data, net, epochs, asked.seeds, Path(folder)) for epochs in longer if epochs > MIN_MORE]
            for row in rows:
                print(f"{net}  {row['seen']:,.0f} images  error {row['error']:.2%}  {row['images_per_s']:,.0f} images/s", flush=True)
            speed = statistics.median(row["images_per_s"] for row in rows)
            nets.append({"model": net, "images_per_s": round(speed, 1), "points": [[row["seen"], round(row["error"], 5)] for row in rows]})
            nets[-1]["cost"] = round(nets[0]["images_per_s"] / speed, 3)
            if asked.json:
                asked.json.write_text(json.dumps({"origin": origin, "nets": nets}, indent=1) + "\n")


if __name__ == "__main__":
    main()
