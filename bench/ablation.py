"""What each idea of the preset `fast` is worth: its accuracy without one of them, or with one more, at equal epochs.

Every row is trained with the same seeds, all rows in turns: the mean difference from the preset in validation accuracy, with its standard
error over seeds, and the time of the training as a multiple of the preset's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import goodfit
from goodfit.core.device import cpu_name
from goodfit.recipe.recipe import Recipe

PRESET = "fast"
NET = "swift(32, growth=(1.0, 2.0, 4.0){})"
SGD = "sgd({}, momentum=0.85, nesterov=True, weight_decay=0.0003)"
MUON = f"muon({{}}, momentum=0.6, rounds=3, hidden_only=True, rest={SGD})"
CHANGES: dict[str, dict[str, Any]] = {
    "the preset": {},
    "every image at full size": {"resolution": "full"},
    "SGD for all weights": {"optimizer": SGD.format(0.3).replace("0.0003", "0.0013")},
    "no whitening": {"model": NET.format(", init=he")},
    "no identity in the convs": {"model": NET.format(", identity=False")},
    "scores not scaled down": {"model": NET.format(", scale=1.0")},
    "ReLU": {"model": NET.format(", act=relu")},
    "norm momentum 0.1": {"model": NET.format(", norm=batch(0.1)")},
    "no label smoothing": {"augment": "flip(alternate=True) | crop(2, border=reflect)"},
    "flips by chance": {"augment": "flip | crop(2, border=reflect) | smooth(0.2)"},
    "no flips": {"augment": "crop(2, border=reflect) | smooth(0.2)"},
    "no shifts": {"augment": "flip(alternate=True) | smooth(0.2)"},
    "one view for the answers": {"views": "center"},
    "weights averaged (EMA)": {"average": "ema(0.95)"},
    "one-cycle rates": {"schedule": "one_cycle"},
    "no weight decay": {"optimizer": MUON.format(0.35, 2).replace("weight_decay=0.0003", "weight_decay=0.0")},
    "Muon at 0.24": {"optimizer": MUON.format(0.24, 2)},
    "the rest at 0.3": {"optimizer": MUON.format(0.35, 0.3)},
    "norm biases at 16 times the rate": {"rates": "norm_biases(16)"},
    "first conv frozen": {"trainable": "since('group1')"},
    "batches of 250": {"batch_size": 250},
}


def train(data: str, change: dict[str, Any], epochs: float, seed: int, folder: Path) -> tuple[float, float]:
    """The validation accuracy in percent, and the seconds of the training steps."""
    recipe = Recipe.from_toml(PRESET).but(**{"model": NET.format(""), **change})
    recipe = recipe.but(data=data, budget=f"{epochs:g} epochs", evaluate_every=f"{epochs:g} epochs", seed=seed, probes="none")
    run = goodfit.train(recipe=recipe, out=folder / f"{time.time_ns()}", quiet=True)
    steps = run.log("train")
    return 100 * run.read("scores.json")["validation"]["accuracy"], sum(step["images_per_s"] ** -1 for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as goodfit train takes it")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    print(f"{cpu_name()}, {asked.epochs:g} epochs, {asked.seeds} seeds", flush=True)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in CHANGES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            for name, change in CHANGES.items():
                results[name].append(train(asked.data, change, asked.epochs, seed, Path(folder)))
                print(f"  seed {seed}  {name:26} {results[name][-1][0]:.2f} %", flush=True)
    base, rows = results["the preset"], []
    for name, measured in results.items():
        accuracies, seconds = zip(*measured, strict=True)
        points = [a - b for a, (b, _) in zip(accuracies, base, strict=True)]
        error = statistics.stdev(points) / len(points) ** 0.5 if len(points) > 1 and name != "the preset" else 0.0
        ratio = statistics.median(s / b for s, (_, b) in zip(seconds, base, strict=True))
        row: dict[str, Any] = {"name": name, "accuracy": statistics.fmean(accuracies), "points": statistics.fmean(points)}
        rows.append({**row, "error": error, "time": ratio})
        print(f"{name:26} {row['accuracy']:.1f} %  {row['points']:+.1f} ± {error:.1f} points  time x {ratio:.2f}", flush=True)
    if asked.json:
        asked.json.write_text(
            json.dumps({"machine": cpu_name(), "epochs": asked.epochs, "seeds": asked.seeds, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
