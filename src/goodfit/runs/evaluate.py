"""Evaluating a run or an ensemble on its own images, which writes the scores into its folder."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch
from torch import Tensor

from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.fitted_task import deployed_task, plain_task
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.reporter import Reporter
from goodfit.core.run import ENSEMBLE_FILE, Run
from goodfit.core.run_files import DamagedFile, get
from goodfit.core.task import plain_loss
from goodfit.core.words import count_of
from goodfit.data.dataset import Dataset
from goodfit.data.index import SplitName
from goodfit.predict.calibration import measure_calibration
from goodfit.predict.images import ImagesFor
from goodfit.predict.predictor import load_classifier, load_ensemble
from goodfit.predict.scoring import bind_test_augment, predictions_of, require_noise, score_ensemble, score_noise, score_views
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.recipe import Recipe
from goodfit.runs.openings import open_test_split
from goodfit.runs.start import require_same_data
from goodfit.training.evaluate import RowEvaluator


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate: the validation images or the `test` images, on which `device`, by which `views` ("": the run's own).

    `marginalize` averages so many noisy passes, over draws of `augment` if given ("train": that of the training); `calibrate` stores
    the temperature that fits the validation images.
    """

    test: bool = False
    device: str = "auto"
    views: str = ""
    marginalize: int = 0
    calibrate: bool = False
    augment: str = ""

    @property
    def split(self) -> SplitName:
        return "test" if self.test else "validation"


def evaluate_run(run: Run, options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Score a run or an ensemble on its validation images, or on its test images, which is logged; `goodfit.evaluate` says what is scored.

    Where the run cannot be written, the scores are returned all the same, and it is reported; but test images are not scored unlogged.

    Raises:
        UsageError: an option does not go with the run or another option, the run is not finished, or it has no such images.
        DataError: the data is gone or has changed.
        GoodfitError: a model is damaged, or a temperature or the opening of the test images cannot be stored.
    """
    if options.calibrate and (options.test or options.views):
        other = "test" if options.test else options.views
        raise UsageError(f"calibrate fits a temperature to the validation images by the run's own views, received {other} too.")
    if options.calibrate and not os.access(run.path, os.W_OK):
        raise GoodfitError(f'The folder "{run.path}" cannot be written, so no temperature can be stored: calibrate a copy of it.')
    if (run.path / ENSEMBLE_FILE).exists():
        return _evaluate_ensemble(run, options, reporter)
    return _evaluate_classifier(run, options, reporter)


def _evaluate_classifier(run: Run, options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    recipe = Recipe.of_run(run.path)
    classifier = load_classifier(run.path, options.device, options.views, reporter)
    require_noise(classifier.model, options.marginalize, options.augment)
    data = _open_images(run, recipe, reporter).prepare(classifier.preprocess)
    augment = None
    if options.augment:
        text = recipe.augment if options.augment == "train" else options.augment
        augment = bind_test_augment(load_catalog(recipe.use).make(text, "augment"), data)
    rows = data.rows(options.split)
    _open_split(run, rows, options, reporter, f'"{data.name}" has no {options.split} images to evaluate on.')
    # thresholds that were fitted to the validation images serve the test images; for those they are fitted anew
    loss = classifier.loss if options.test else data.task.with_loss(plain_loss(classifier.loss))
    evaluator = RowEvaluator(data, loss, classifier.device)
    scored = score_views(evaluator, classifier.model, rows, classifier.views)
    result = scored.scores
    temperature = stored_temperature(run) if options.test else None  # nothing is fitted to the test images
    result["calibration"] = measure_calibration(scored.probabilities, scored.center.labels, temperature, classifier.task)
    if options.marginalize:
        result["marginalized"] = score_noise(evaluator, classifier.model, scored.center, options.marginalize, recipe.seed, augment)
    if options.test or not options.views:  # a validation score by other views than its own is not the run's
        _store(run, options, result, predictions_of(scored.probabilities, scored.center.ids, data), reporter)
    if options.calibrate:
        fitted = data.task.fit(scored.probabilities, scored.center.labels)
        kept = {} if fitted.name == "classes" else {"task": plain_task(fitted)}
        scale = {key: value for key, value in result["calibration"].items() if key == "temperature"}
        run.update("config.json", {**scale, **kept})
    return result


def _store(run: Run, options: EvaluateOptions, result: dict[str, Any], predictions: Predictions, reporter: Reporter) -> None:
    """Store the scores of a split, and the predictions for validation images; report what cannot be stored."""
    try:
        try:
            before = run.read("scores.json")
        except DamagedFile as error:
            before = {}
            reporter.say(f"Warning: {error} The scores of other images in it are lost.")
        run.write("scores.json", {**before, options.split: result})
        if not options.test:
            predictions.save(run.path / PREDICTIONS_FILE)
    except (GoodfitError, OSError) as error:
        reporter.say(f"Warning: the scores could not be stored: {error}")


def _evaluate_ensemble(run: Run, options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Score an ensemble; under "gain" is its lead over the member that was best on validation, with a paired interval."""
    if option := "marginalize" if options.marginalize or options.augment else "calibrate" if options.calibrate else "":
        raise UsageError(f'{option} is for a single model: give it a member of "{run.path}", such as {run.path}/members/00.')
    content, recipe = run.read(ENSEMBLE_FILE, "members", "classes", "single", "single.path", "tests_seen"), Recipe.of_run(run.path)
    if options.test and content["tests_seen"]:
        raise UsageError(
            f'The members of "{run.path}" have other splits, and {content["tests_seen"]:,} of its test images were used to train some:'
            " there is no honest test score. Train them with the same --split-seed."
        )
    predictor = load_ensemble(run, options.device, options.views)
    images = _open_images(run, recipe, reporter)
    rows = images.data.rows("test") if options.test else _rows_no_member_trained_on(run, images.data)
    missing = "test images" if options.test else "validation image that no member was trained on"
    _open_split(run, rows, options, reporter, f'"{run.path}" has no {missing} to evaluate on.')
    paths = [member["path"] for member in content["members"] if member["weight"]]
    answers = {path: images.probabilities(member, rows) for path, member in zip(paths, predictor.members, strict=True)}
    single = content["single"]["path"]
    if single not in answers:
        answers[single] = images.probabilities(load_classifier(run.path / single, options.device, options.views), rows)
    mean = sum((weight * answers[path].double() for path, weight in zip(paths, predictor.weights, strict=True)), torch.zeros(()))
    predictions = predictions_of(mean, rows, images.data)
    temperature = stored_temperature(run) if options.test else None
    task = deployed_task(predictor.task) if options.test else images.data.task  # nothing is fitted to test images
    result = score_ensemble(predictions, predictions_of(answers[single], rows, images.data), task, temperature)
    _store(run, options, result, predictions, reporter)
    return result


def _open_images(run: Run, recipe: Recipe, reporter: Reporter) -> ImagesFor:
    """Open the images of a run's recipe, with its number of threads, and check that they are the run's."""
    torch.set_num_threads(int(recipe.threads))
    images = ImagesFor(recipe, reporter)
    require_same_data(run, images.data)
    return images


def _open_split(run: Run, rows: Tensor, options: EvaluateOptions, reporter: Reporter, if_empty: str) -> None:
    """Refuse to evaluate no images; log that the test split is opened."""
    if not len(rows):
        raise UsageError(if_empty)
    reporter.show_activity(f"scoring {count_of(len(rows), 'image')}")
    if options.test:
        open_test_split(run, reporter)


def stored_temperature(run: Run) -> float:
    """The temperature that was fitted to a run's validation images; 1 where there is none, as in runs of earlier versions."""
    try:
        return float(get(run.read("scores.json"), "validation", "calibration", "temperature") or 1.0)
    except DamagedFile:
        return 1.0


def _rows_no_member_trained_on(run: Run, data: Dataset) -> Tensor:
    """The validation rows that an ensemble was scored on when it was made."""
    kept = Predictions.read(run.path / PREDICTIONS_FILE)
    names = set(kept.names.tolist()) if kept else set()
    rows = data.rows("validation")
    return rows[torch.tensor([data.names[row] in names for row in rows.tolist()], dtype=torch.bool)]
