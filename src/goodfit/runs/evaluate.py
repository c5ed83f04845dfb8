"""Evaluation of a run: what its classifier scores on its own images, written into its folder."""

from __future__ import annotations

from typing import Any

import torch

from goodfit.core.errors import UsageError
from goodfit.core.predictions import PREDICTIONS_FILE
from goodfit.core.run import Run
from goodfit.runs import start
from goodfit.recipe.build import Judge
from goodfit.predict.predictor import load_run
from goodfit.runs.finish import predictions_of, temperature_of
from goodfit.predict.scoring import averaged, needs_noise, scored
from goodfit.runs.opening import open_test
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.training.calibration import calibration
from goodfit.terminal.reporter import Voice


def evaluate(run: Run, test: bool, device: str, voice: Voice, views: str, marginalize: int, calibrate: bool) -> dict[str, Any]:
    """Scores of a run on its validation images, or on its test images, which is logged; `goodfit.evaluate` says what is in them.

    Raises:
        UsageError: the run is not finished, its data has no test split, or its model no noise or no use for the views.
        DataError: the data is gone or has changed.
    """
    recipe = Recipe.from_toml(run.path / "recipe.toml")
    classifier = load_run(run.path, device, views)
    needs_noise(classifier.model, marginalize)
    torch.set_num_threads(int(recipe.threads))
    data = open_data(recipe, look(recipe, voice.say), voice.packing)
    start.same_data(run, data)
    rows = data.rows("test" if test else "validation")
    if not len(rows):
        raise UsageError(f'"{data.name}" has no test images to evaluate on.')
    if test:
        open_test(run, voice)
    judge = Judge(data, classifier.loss, classifier.device)
    found = scored(judge, classifier.model, rows, classifier.views)
    result = found.scores
    temperature = temperature_of(run) if test else None  # the test images fit nothing
    result["calibration"] = calibration(found.probabilities, found.center.labels, temperature)
    if marginalize:
        result["marginalized"] = averaged(judge, classifier.model, found.center, marginalize, recipe.seed)
    if test or not views:  # a validation score by other views than its own is not the run's
        run.update("scores.json", {"test" if test else "validation": result})
    if not (test or views):
        predictions_of(found, data).save(run.path / PREDICTIONS_FILE)
    if calibrate:
        run.update("config.json", {"temperature": result["calibration"]["temperature"]})
    return result
