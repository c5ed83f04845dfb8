"""The images of a recipe, prepared for any classifier as its own preprocessing asks."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from goodfit.core.errors import DataError
from goodfit.core.reporter import Reporter
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.predict.calibration import apply_temperature
from goodfit.predict.predictor import Classifier, reorder_classes
from goodfit.predict.scoring import score_views
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images
from goodfit.training.evaluate import RowEvaluator


class ImagesFor:
    """The images of a recipe; each preprocessing that is asked for is prepared once."""

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        self.recipe, self.reporter = recipe, reporter
        self.data = open_images(recipe, reporter)
        self._prepared = {self.data.preprocess.geometry: self.data}

    def prepare(self, preprocess: Preprocess) -> Dataset:
        """The same images, labels and splits with a classifier's preprocessing.

        Raises:
            DataError: the images cannot be prepared in this way.
        """
        key = preprocess.geometry
        if key not in self._prepared:
            size = "x".join(map(str, preprocess.size))
            shown = {"size": size, "aspect": preprocess.aspect, "channels": preprocess.channels, "white_level": preprocess.white_level}
            data = open_images(self.recipe.but(**shown, mean="data", std="data"), self.reporter)
            if data.preprocess.geometry != key or data.splits.digest != self.data.splits.digest:
                raise DataError(f'The images of "{data.name}" do not fit the model: expected {key}, found {data.preprocess}.')
            self._prepared[key] = data
        return dataclasses.replace(self._prepared[key], preprocess=preprocess)

    def probabilities(self, classifier: Classifier, rows: Tensor) -> Tensor:
        """The probabilities [n, K] float32 of a classifier for some rows, by its own views and temperature, in the data's class order."""
        data = self.prepare(classifier.preprocess)
        evaluator = RowEvaluator(data, classifier.loss, classifier.device)
        probabilities = score_views(evaluator, classifier.model, rows, classifier.views).probabilities
        ordered = reorder_classes(probabilities, classifier.classes, data.classes)
        return apply_temperature(ordered, classifier.temperature, classifier.task)
