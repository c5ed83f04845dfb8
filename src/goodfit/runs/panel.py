"""Models asked about the same images: the mean of their probabilities, what it scores, and what it gains over the best of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from goodfit.core.errors import DataError, UsageError
from goodfit.core.predictions import PREDICTIONS_FILE, Predictions
from goodfit.core.run import ENSEMBLE, Run
from goodfit.data.dataset import Dataset
from goodfit.data.preprocess import Preprocess
from goodfit.runs import start
from goodfit.recipe.build import Judge
from goodfit.predict.predictor import Classifier, load_run
from goodfit.predict.ensemble import in_order, load_members
from goodfit.runs.finish import temperature_of
from goodfit.predict.scoring import scored
from goodfit.runs.opening import open_test
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import look, open_data
from goodfit.predict.paired import paired
from goodfit.training.calibration import calibration, logarithms, tempered
from goodfit.training.evaluate import Answers, scores
from goodfit.terminal.reporter import Voice


class Album:
    """The images of a recipe, prepared for any model as its own preprocessing asks."""

    def __init__(self, recipe: Recipe, voice: Voice) -> None:
        self.recipe, self.voice = recipe, voice
        self.data = open_data(recipe, look(recipe, voice.say), voice.packing)
        self._known = {geometry(self.data.preprocess): self.data}

    def fit(self, preprocess: Preprocess) -> Dataset:
        """The same images, labels and splits for a model's preprocessing.

        Raises:
            DataError: the images cannot be prepared so.
        """
        key = geometry(preprocess)
        if key not in self._known:
            size = "x".join(map(str, preprocess.size))
            recipe = self.recipe.but(size=size, aspect=preprocess.aspect, channels=preprocess.channels, mean="data", std="data")
            data = open_data(recipe, look(recipe, self.voice.say), self.voice.packing)
            if geometry(data.preprocess) != key or data.splits.digest != self.data.splits.digest:
                raise DataError(f'The images of "{data.name}" are not as a model was made for: expected {key}, found {data.preprocess}.')
            self._known[key] = data
        return dataclasses.replace(self._known[key], preprocess=preprocess)

    def ask(self, classifier: Classifier, rows: Tensor) -> Tensor:
        """Its probabilities [n, K] float32 for some rows, by its own views and temperature, in the order of the data's classes."""
        data = self.fit(classifier.preprocess)
        found = scored(Judge(data, classifier.loss, classifier.device), classifier.model, rows, classifier.views).probabilities
        return tempered(in_order(found, classifier.classes, data.classes), classifier.temperature)

    def predictions(self, probabilities: Tensor, rows: Tensor) -> Predictions:
        """Probabilities [n, K] for some rows, with the names and labels of those."""
        names = np.array([self.data.names[row] for row in rows.tolist()], dtype=np.str_)
        return Predictions(names, self.data.labels[rows].numpy(), probabilities.float().numpy(), self.data.classes)


def geometry(preprocess: Preprocess) -> Preprocess:
    """A preprocessing without the numbers that come after the pixels."""
    return preprocess.but(mean=(), std=())


def scores_of(found: Predictions, single: Predictions, temperature: float | None = None) -> dict[str, Any]:
    """The scores of averaged probabilities as a run has them, and under "gain" what they are ahead of a single model on the same images.

    The calibration is by a temperature that is fitted to these images, which then are validation images, unless one is given.
    """
    shares, labels = torch.from_numpy(found.probabilities), torch.from_numpy(found.labels)
    logits = logarithms(shares)
    losses = -logits.gather(1, labels[:, None])[:, 0]
    result = scores(Answers(torch.arange(len(labels)), labels, logits, losses), found.classes)
    result["calibration"] = calibration(shares, labels, temperature)
    result["gain"] = {"single": float(single.correct.mean()), **paired(found.correct[None], single.correct[None]).plain()}
    return result


def evaluate(run: Run, test: bool, device: str, voice: Voice, views: str, single_only: str = "") -> dict[str, Any]:
    """Scores of an ensemble on its validation images, those that no member was trained on, or on its test images, which is logged.

    Under "gain" is what it is ahead of the member that was best on validation, with a paired interval.

    Raises:
        UsageError: `single_only` names an option that asks one model alone, there are no such images, or a member has seen test images.
        DataError: the data is gone or has changed.
        GoodfitError: a member is damaged.
    """
    if single_only:
        raise UsageError(f'{single_only} is for a single model: give it a member of "{run.path}", such as {run.path}/members/00.')
    content, recipe = run.read(ENSEMBLE), Recipe.from_toml(run.path / "recipe.toml")
    if test and content["tests_seen"]:
        raise UsageError(
            f'The members of "{run.path}" have other splits, and {content["tests_seen"]:,} of its test images were used to train some:'
            " there is no honest test score. Train them with the same --split-seed."
        )
    members = load_members(run, device, views)
    torch.set_num_threads(int(recipe.threads))
    album = Album(recipe, voice)
    start.same_data(run, album.data)
    rows = album.data.rows("test") if test else held_out(run, album.data)
    if not len(rows):
        missing = "test images" if test else "validation image that no member was trained on"
        raise UsageError(f'"{run.path}" has no {missing} to evaluate on.')
    if test:
        open_test(run, voice)
    paths = [member["path"] for member in content["members"]]
    answers = {path: album.ask(member, rows) for path, member in zip(paths, members.members, strict=True)}
    single = content["single"]["path"]
    if single not in answers:
        answers[single] = album.ask(load_run(run.path / single, device, views), rows)
    mean = sum((weight * answers[path].double() for path, weight in zip(paths, members.weights, strict=True)), torch.zeros(()))
    found = album.predictions(mean, rows)
    result = scores_of(found, album.predictions(answers[single], rows), temperature_of(run) if test else None)
    run.update("scores.json", {"test" if test else "validation": result})
    if not test:
        found.save(run.path / PREDICTIONS_FILE)
    return result


def held_out(run: Run, data: Dataset) -> Tensor:
    """The validation rows that an ensemble was scored on when it was made: no member was trained on them."""
    kept = Predictions.read(run.path / PREDICTIONS_FILE)
    names = set(kept.names.tolist()) if kept else set()
    rows = data.rows("validation")
    return rows[torch.tensor([data.names[row] in names for row in rows.tolist()], dtype=torch.bool)]
