"""Digits: test accuracy of the default training, the mean of five seeds on the same splits, and how long one takes."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import goodfit
from goodfit.core.device import cpu_name
from goodfit.recipe.recipe import Recipe


def main() -> None:
    """Train and test; options after -- are fields of the recipe, as key=value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("settings", nargs="*", help="key=value")
    arguments = parser.parse_intermixed_args()
    settings = dict(word.split("=", 1) for word in arguments.settings)
    found, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            started = time.perf_counter()
            run = goodfit.train("digits", Recipe().but_text({**settings, "seed": str(seed)}), out=Path(folder) / str(seed), quiet=True)
            seconds.append(time.perf_counter() - started)
            validation = run.read("scores.json")["validation"]["accuracy"]
            found.append(goodfit.evaluate(run, test=True)["accuracy"])
            print(f"seed {seed}: test {found[-1]:.2%}  validation {validation:.2%}  {seconds[-1]:.1f} s", flush=True)
    error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    print(f"digits: test accuracy {statistics.fmean(found):.2%} ± {error:.2%} (mean and standard error of {len(found)} seeds; goal 98.5 %)")
    print(f"        one training {statistics.median(seconds):.1f} s (median; goal under 60 s) on {cpu_name()}")


if __name__ == "__main__":
    main()
