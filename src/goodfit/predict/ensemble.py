"""An ensemble as a classifier: several models, each with its own preprocessing and views, whose probabilities are averaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goodfit.core.device import cores
from goodfit.core.errors import GoodfitError
from goodfit.core.fetch import hash_file
from goodfit.core.run import ENSEMBLE, Run
from goodfit.data.decode import BrokenImage
from goodfit.predict.predictor import BATCH, Classifier, Prediction, load_run, name_of, one_or_many, prediction

MODEL = "model.safetensors"
Pictures = dict[int, Any]  # scale -> pixels


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Classifiers of the same `classes`, in whatever order each has them, with the weight of each (they sum to 1)."""

    members: tuple[Classifier, ...]
    weights: tuple[float, ...]
    classes: tuple[str, ...]

    def predict(self, images: object, top: int = 5) -> list[Prediction]:
        """Predictions for paths, PIL images or arrays, as `Classifier.predict` has it."""
        return list(self.stream(one_or_many(images), top))

    def stream(self, images: Iterable[Any], top: int = 5) -> Iterator[Prediction]:
        """`predict`, one batch after the other. Members that see an image in the same way share its pixels, so it is decoded once."""
        left = iter(images)
        with ThreadPoolExecutor(cores()) as pool:
            while some := list(islice(left, BATCH)):
                looks = {look(member): member for member in self.members}
                decoded = {key: list(pool.map(member.decode, some)) for key, member in looks.items()}
                found = zip(*decoded.values(), strict=True)
                problems = [next((x.reason for x in seen if isinstance(x, BrokenImage)), "") for seen in found]
                good = [place for place, problem in enumerate(problems) if not problem]
                fine: dict[Any, list[Any]] = {key: [seen[place] for place in good] for key, seen in decoded.items()}
                rows: Iterator[Tensor] = iter(self.mean(member.answers(fine[look(member)]) for member in self.members) if good else [])
                for image, problem in zip(some, problems, strict=True):
                    name = name_of(image)
                    yield Prediction(name, problem=problem) if problem else prediction(name, self.classes, next(rows), top)

    def mean(self, answers: Iterable[Tensor]) -> Tensor:
        """Probabilities [n, K] float32 for those [n, K] of each member in turn."""
        mean = torch.zeros((), dtype=torch.float64)
        for member, weight, own in zip(self.members, self.weights, answers, strict=True):
            mean = mean + weight * in_order(own, member.classes, self.classes).double()
        return mean.float()


def look(member: Classifier) -> tuple[Any, tuple[int, ...]]:
    """What decides the pixels that a member decodes: its preprocessing without the numbers that come after, and the scales of its views."""
    return member.preprocess.but(mean=(), std=()), member.scales


def in_order(probabilities: Tensor, own: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    """Probabilities [N, K] whose columns are `own` classes with the columns in the order of `classes`."""
    return probabilities if own == classes else probabilities[:, [own.index(name) for name in classes]]


def load_any(path: str | Path, device: str = "auto", views: str = "") -> Classifier | Ensemble:
    """The classifier of a run or of an ensemble, wherever its folder lies; with other `views` than its own, if given.

    Raises:
        UsageError: there is neither, or its model does not go with the views.
        GoodfitError: a model is damaged.
    """
    run = Run.open(path)
    if not run.read(ENSEMBLE) or run.read("config.json"):  # a soup is one model, as a run is
        return load_run(path, device, views)
    return load_members(run, device, views)


def load_members(run: Run, device: str = "auto", views: str = "") -> Ensemble:
    """The members of an ensemble that have a weight; of a soup, itself alone.

    Raises:
        GoodfitError: a model is damaged, or no longer the one that the ensemble was made of.
    """
    content = run.read(ENSEMBLE)
    kept = [member for member in content["members"] if member["weight"] and "path" in member]
    for member in kept:
        file = run.path / member["path"] / MODEL
        if file.is_file() and hash_file(file) != member["sha256"]:
            raise GoodfitError(f'The model "{file}" is not the one that the ensemble was made of (its SHA-256 differs): make it anew.')
    members = tuple(load_run(run.path / member["path"], device, views) for member in kept)
    return Ensemble(members, tuple(member["weight"] for member in kept), tuple(content["classes"]))
