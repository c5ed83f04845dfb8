"""Training one recipe with several seeds: the mean of the accuracies, and its standard error."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from goodfit.core.errors import Interrupted, Terminated
from goodfit.core.figures import FIGURES
from goodfit.core.interval import standard_error
from goodfit.recipe.recipe import Recipe
from goodfit.runs.signals import describe_stop
from goodfit.runs.train import RunOptions, train


def train_seeds(asked: Recipe, options: RunOptions, seeds: int) -> dict[str, Any]:
    """Train `seeds` runs that differ in their seed alone; returns the mean validation accuracy (or the figure of another task) and
    its standard error.

    Raises:
        GoodfitError: a training failed, or was stopped by a signal.
    """
    runs, first, out = [], options, options.out
    for index, seed in enumerate(range(asked.seed, asked.seed + seeds)):
        options.reporter.say(f"Run {index + 1} of {seeds}: seed {seed}.")
        try:
            run = train(asked.but(seed=seed), dataclasses.replace(options, out=out / f"seed-{seed}" if out else None))
        except (Interrupted, Terminated) as error:
            raise type(error)(describe_stop(f"at seed {seed}", out)) from error
        options = first.for_next_run()
        if run is not None:
            runs.append(run)
    figure = FIGURES[asked.task]
    values = [run.read("scores.json")["validation"][figure.key] for run in runs]
    return {
        **({} if asked.task == "classes" else {"task": asked.task}),
        "runs": [str(run.path) for run in runs],
        figure.plural: values,
        figure.key: statistics.fmean(values) if values else None,
        "standard_error": standard_error(values),
    }
