"""Transfer from real weights: the accuracy of `goodfit train --from` on the test images after so many minutes, against what a person does.

Each run is a cold process with an empty cache, so that all of it counts: reading, packing, features, training, report. Beside it, from
the same weights and images: scikit-learn's logistic regression on frozen features (center crops at 160 pixels and at the run's size,
its regularization chosen on the validation images), and, on few images, training from scratch for ten times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from goodfit.core.device import cpu_name

STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)  # C of the logistic regression
BASELINE_SIZE = 160


def goodfit(cache: Path, *words: str | Path) -> tuple[str, float]:
    """Run goodfit in a process of its own; returns what it printed and its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "goodfit", *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout, time.perf_counter() - began


def train(folder: Path, data: Path, options: list[str], seed: int) -> dict[str, Any]:
    """Train with an empty cache, then open the test images."""
    cache, out = folder / "cache", folder / "run"
    for path in (cache, out):
        shutil.rmtree(path, ignore_errors=True)
    printed, seconds = goodfit(cache, "train", data, *options, "--seed", str(seed), "--out", out, "--json")
    tested, _ = goodfit(cache, "evaluate", out, "--test", "--json")
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    start = next((row["validation"]["accuracy"] for row in log if row["kind"] == "evaluate" and row["step"] == 0), None)
    choices = {choice["field"]: choice["value"] for choice in json.loads((out / "about.json").read_text())["choices"]}
    validation = json.loads(printed)["scores"]["validation"]["accuracy"]
    return {"test": json.loads(tested)["accuracy"], "validation": validation, "start": start, "seconds": seconds, "choices": choices}


def logistic_regression(folder: Path, data: Path, source: list[str], size: int) -> dict[str, Any]:
    """scikit-learn's logistic regression on the frozen features of center crops, timed with the features."""
    cache, file = folder / "cache", folder / "features.npz"
    shutil.rmtree(cache, ignore_errors=True)
    began = time.perf_counter()
    weights, *model = source
    goodfit(cache, "features", weights, data, "--out", file, "--size", str(size), "--test", *model)
    found = np.load(file)
    x, labels, splits = found["features"], found["labels"], found["splits"]
    train_, judged, test = (splits == name for name in ("train", "validation", "test"))
    fits = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500)).fit(x[train_], labels[train_]) for c in STRENGTHS]
    best = max(fits, key=lambda fit: fit.score(x[judged], labels[judged]))
    return {"size": size, "test": best.score(x[test], labels[test]), "seconds": time.perf_counter() - began}


def few_images(folder: Path, data: Path, each: int) -> Path:
    """A copy of the data with so many training images of each class."""
    few = folder / f"few-{each}"
    for split in ("train", "validation", "test"):
        for kind in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            (few / split / kind.name).mkdir(parents=True)
            images = sorted(kind.iterdir())
            for image in images[:each] if split == "train" else images:
                (few / split / kind.name / image.name).symlink_to(image.resolve())
    return few


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """A line of the table."""
    tests = [run["test"] for run in runs]
    spread = f" ± {100 * statistics.stdev(tests) / len(tests) ** 0.5:.1f}" if len(tests) > 1 else ""
    starts = [run["start"] for run in runs if run.get("start") is not None]
    start = f"  validation {statistics.fmean(starts):.1%} -> {statistics.fmean(run['validation'] for run in runs):.1%}" if starts else ""
    return f"{name:44} test {statistics.fmean(tests):6.1%}{spread:7}  {statistics.fmean(run['seconds'] for run in runs):6.0f} s{start}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with train, validation and test")
    parser.add_argument("weights", help="as --from takes them")
    parser.add_argument("--model", default="", help="the model of the weights, where they do not say it")
    parser.add_argument("--minutes", type=float, nargs="*", default=[1, 3, 10])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--few", type=int, default=10, help="training images of a class for the comparison with scratch; 0 leaves it out")
    parser.add_argument("--few-minutes", type=float, default=0.5)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    asked = parser.parse_args()
    model = ["--model", asked.model] if asked.model else []
    print(f"{cpu_name()}, {os.cpu_count()} cores", flush=True)
    rows: dict[str, list[dict[str, Any]]] = {}

    def add(name: str, runs: list[dict[str, Any]]) -> None:
        rows[name] = runs
        print(row(name, runs), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        add(f"logistic regression, {BASELINE_SIZE} px", [logistic_regression(folder, asked.data, [asked.weights, *model], BASELINE_SIZE)])
        for minutes in asked.minutes:
            options = ["--from", asked.weights, *model, "--budget", f"{minutes:g} min"]
            runs = [train(folder, asked.data, options, seed) for seed in range(asked.seeds)]
            size = int(runs[0]["choices"]["size"])
            add(f"goodfit, {minutes:g} min ({size} px)", runs)
            if size != BASELINE_SIZE and f"logistic regression, {size} px" not in rows:
                add(f"logistic regression, {size} px", [logistic_regression(folder, asked.data, [asked.weights, *model], size)])
        if asked.few:
            data, label = few_images(folder, asked.data, asked.few), f"{asked.few} images a class"
            options = ["--from", asked.weights, *model, "--budget", f"{asked.few_minutes:g} min"]
            add(f"{label}: goodfit, {asked.few_minutes:g} min", [train(folder, data, options, seed) for seed in range(asked.seeds)])
            scratch = ["--budget", f"{10 * asked.few_minutes:g} min"]
            add(f"{label}: scratch, {10 * asked.few_minutes:g} min", [train(folder, data, scratch, seed) for seed in range(asked.seeds)])
    if asked.out:
        asked.out.write_text(json.dumps({"machine": cpu_name(), "cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
