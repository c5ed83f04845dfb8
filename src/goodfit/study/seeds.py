"""Copies of one recipe that differ in their seed: the mean of their accuracies, and how sure it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goodfit.core.run import Run
from goodfit.recipe.recipe import Recipe
from goodfit.terminal.reporter import Voice

Train = Callable[[Recipe, Path | None], Run | None]  # a recipe and the folder of its run -> the finished run; None where nothing is trained


def train_seeds(asked: Recipe, train: Train, out: Path | None, seeds: int, voice: Voice) -> dict[str, Any]:
    """Train `seeds` copies that differ in their seed alone; returns the mean validation accuracy and its standard error."""
    runs = []
    for seed in range(asked.seed, asked.seed + seeds):
        voice.say(f"Copy {seed - asked.seed + 1} of {seeds}: seed {seed}.")
        run = train(asked.but(seed=seed), out / f"seed-{seed}" if out else None)
        if run is not None:
            runs.append(run)
    found = [run.read("scores.json")["validation"]["accuracy"] for run in runs]
    return {
        "runs": [str(run.path) for run in runs],
        "accuracies": found,
        "accuracy": statistics.fmean(found) if found else None,
        "standard_error": standard_error(found),
    }


def standard_error(values: list[float]) -> float | None:
    """The standard error of the mean; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
