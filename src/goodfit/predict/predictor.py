"""Trained classifiers at work: one or several, with the views, temperature and weight of each; needs neither data nor training code."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from goodfit.augment.views import Center
from goodfit.core.device import physical_cores, select_device
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.fetch import hash_file
from goodfit.core.fitted_task import read_task, temper_task
from goodfit.core.parts import Part
from goodfit.core.reporter import Reporter, SilentReporter
from goodfit.core.run import ENSEMBLE_FILE, Run
from goodfit.core.run_files import DamagedFile, explain_damage
from goodfit.core.task import CLASSES, Task
from goodfit.data.multiscale import decode_scaled
from goodfit.data.opening import BrokenImage, read_contents
from goodfit.data.preprocess import Preprocess
from goodfit.models.weights.saved import CONFIG_FILE, WEIGHTS_FILE, SavedModel, explain_misfit
from goodfit.predict.calibration import apply_temperature
from goodfit.predict.prediction import Prediction, broken_prediction, make_prediction
from goodfit.predict.views import Viewer
from goodfit.recipe.parts import load_catalog, make_model
from goodfit.terminal.log import LoggingReporter

IMAGES_AT_ONCE = 64
IMAGE_TYPES = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
Decoded = dict[int, NDArray[np.uint8]]  # scale -> pixels
DecodedImage = dict[tuple[Preprocess, tuple[int, ...]], Decoded]  # of one image, by Classifier.pixels_key

if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's compute threads, and would wait for them forever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode with its classes, its preprocessing, the loss that turns its scores into probabilities, the views of an
    image that are averaged, and the temperature of its probabilities: 1 unless `goodfit evaluate --calibrate` stored another. Of another
    `task`, its probabilities are that task's answers.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess
    loss: Any
    device: torch.device
    views: Any = Center()
    temperature: float = 1.0
    task: Task = CLASSES

    @property
    def viewer(self) -> Viewer:
        """Runs the model on the views of images."""
        return Viewer(self.model, self.views, self.preprocess, self.loss, self.device)

    @functools.cached_property
    def scales(self) -> tuple[int, ...]:
        """The scales at which its views need an image."""
        return tuple(dict.fromkeys(view.scale for view in self.viewer.views))

    @property
    def pixels_key(self) -> tuple[Preprocess, tuple[int, ...]]:
        """What its decoded pixels depend on: its preprocessing without the normalization, and the scales of its views."""
        return self.preprocess.geometry, self.scales

    def decode(self, image: Any) -> Decoded | BrokenImage:
        """Decode an image to pixels at each scale that a view needs; what is known to be broken stays so.

        Raises:
            UsageError: it is not a path, file, image or array.
        """
        if isinstance(image, BrokenImage):
            return image
        if not is_image(image):
            raise UsageError(_explain_type(image))
        try:
            source = read_contents(image)
            return {scale: decode_scaled(self.preprocess, source, scale) for scale in self.scales}
        except BrokenImage as error:
            return error

    def probabilities(self, decoded: Sequence[Decoded]) -> Tensor:
        """Probabilities [n, K] float32 for decoded images, averaged over the views."""
        return apply_temperature(self.viewer.probabilities(lambda scale: [x[scale] for x in decoded]), self.temperature, self.task)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """One or more classifiers of the same `classes`, in whatever order each has them, whose probabilities are averaged by `weights`
    (which sum to 1). A run has one member, an ensemble several. `task` says what the averaged answers are.
    """

    members: tuple[Classifier, ...]
    weights: tuple[float, ...]
    classes: tuple[str, ...]
    task: Task = CLASSES

    def predict(self, images: object, top: int = 5) -> list[Prediction]:
        """Predict the classes of one image or any sequence: paths, files open in binary mode or in memory, their bytes, PIL images,
        arrays uint8 [H, W] or [H, W, C], or an array [N, H, W, C].

        A process forked from one that has loaded a predictor computes with one thread; torch.set_num_threads gives it more if its
        parent has not computed anything.

        An image that cannot be read gets a prediction with its `problem`, and the others go on.

        Raises:
            UsageError: something is not a path, file, image or array.
        """
        return list(self.stream(as_sequence(images), top))

    def stream(self, images: Iterable[Any], top: int = 5) -> Iterator[Prediction]:
        """Predict batch after batch, for more images than memory holds. Members with equal preprocessing share the decoded pixels."""
        remaining = iter(images)
        with ThreadPoolExecutor(physical_cores()) as pool:
            while batch := list(islice(remaining, IMAGES_AT_ONCE)):
                decoded = _decode_each(pool, self, [_read_if_open(image) for image in batch])
                good = [pixels for pixels in decoded if not isinstance(pixels, BrokenImage)]
                rows: Iterator[Tensor] = iter(self.answers(good) if good else [])
                for image, pixels in zip(batch, decoded, strict=True):
                    name = image_name(image)
                    yield self.describe(name, pixels if isinstance(pixels, BrokenImage) else next(rows), top)

    def decode(self, image: Any) -> DecodedImage | BrokenImage:
        """Decode an image for all members; those with equal preprocessing share the pixels.

        Raises:
            UsageError: it is not a path, file, image or array.
        """
        decoded: DecodedImage = {}
        for member in self.members:
            if member.pixels_key not in decoded:
                pixels = member.decode(image)
                if isinstance(pixels, BrokenImage):
                    return pixels
                decoded[member.pixels_key] = pixels
        return decoded

    def answers(self, decoded: Sequence[DecodedImage]) -> Tensor:
        """The averaged answers [n, K] float32 for images that `decode` has decoded."""
        return self.average(member.probabilities([pixels[member.pixels_key] for pixels in decoded]) for member in self.members)

    def describe(self, name: str, answers: Tensor | BrokenImage, top: int = 5) -> Prediction:
        """The prediction for an image of that name by its answers [K], or by what is wrong with it."""
        task = dataclasses.replace(self.task, outputs=self.classes)
        if isinstance(answers, BrokenImage):
            return broken_prediction(task, name, answers.reason)
        return make_prediction(task, name, answers, top)

    def average(self, answers: Iterable[Tensor]) -> Tensor:
        """Average the probabilities [n, K] of each member in turn, as float32 [n, K] in the order of `classes`."""
        mean = torch.zeros((), dtype=torch.float64)
        for member, weight, probabilities in zip(self.members, self.weights, answers, strict=True):
            mean = mean + weight * reorder_classes(probabilities, member.classes, self.classes).double()
        return mean.float()


def reorder_classes(probabilities: Tensor, current: tuple[str, ...], wanted: tuple[str, ...]) -> Tensor:
    """Reorder the columns of probabilities [N, K] from the order of the `current` classes to that of the `wanted`."""
    return probabilities if current == wanted else probabilities[:, [current.index(name) for name in wanted]]


def image_name(image: object) -> str:
    """The name of an image: its path, or that of the file it was opened from."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    names = (getattr(image, attribute, None) for attribute in ("filename", "name"))
    return next((name for name in names if isinstance(name, str) and name), "image")


def is_image(image: object) -> bool:
    """Whether something can be meant as an image: a path, a file, bytes, a PIL image or an array."""
    return isinstance(image, IMAGE_TYPES) or hasattr(image, "read")


def as_sequence(images: Any) -> Iterable[Any]:
    """Images as a sequence; a single one becomes a sequence of one.

    Raises:
        UsageError: it is neither an image nor a sequence.
    """
    if is_image(images) and not (isinstance(images, np.ndarray) and images.ndim == 4):
        return [images]
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise UsageError(_explain_type(images))
    return images


def _explain_type(image: object) -> str:
    return f"Expected a path, file, PIL image or array to predict, received a {type(image).__name__}."


def _decode_each(pool: ThreadPoolExecutor, predictor: Predictor, sources: list[Any]) -> list[DecodedImage | BrokenImage]:
    """Decode images in threads, one that comes twice only once: Pillow must not load it in two threads at a time."""
    distinct = {id(source): source for source in sources}
    decoded = dict(zip(distinct, pool.map(predictor.decode, distinct.values()), strict=True))
    return [decoded[id(source)] for source in sources]


def _read_if_open(image: Any) -> Any:
    """Read an open file, so that it is read once, and by the thread that gave it; its fault becomes a BrokenImage."""
    try:
        return read_contents(image) if hasattr(image, "read") else image
    except BrokenImage as error:
        return error


# ---- loading -----------------------------------------------------------------------------------------------------------------------


def load_classifier(path: str | Path | Run, device: str = "auto", views: str | Part = "", reporter: Reporter | None = None) -> Classifier:
    """Load the one model of a run folder, wherever it lies; with other `views` than the run's own, if given.

    Raises:
        UsageError: there is no run, it has no finished model yet, it is an ensemble, or its model does not take the views.
        GoodfitError: its model is damaged.
    """
    run = Run.open(path)
    saved = SavedModel.read(run)
    (reporter or LoggingReporter()).say(*saved.notes)
    with explain_misfit(run):
        catalog = load_catalog(saved.use_files)
        size, channels = saved.preprocess.size, saved.preprocess.channels
        model = make_model(catalog.make(saved.model, "model"), len(saved.classes), channels, size)
        model.load_state_dict(saved.tensors)
    target = select_device(device)
    model = model.eval().to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss, view_part = saved.task.with_loss(catalog.make(saved.loss, "loss")), catalog.make(views or saved.views, "views")
    classifier = Classifier(model, saved.classes, saved.preprocess, loss, target, view_part, saved.temperature, saved.task)
    classifier.viewer.check()
    return classifier


def load_predictor(path: str | Path | Run, device: str = "auto", views: str = "", reporter: Reporter | None = None) -> Predictor:
    """Load the predictor of a run or of an ensemble, wherever its folder lies; with other `views` than its own, if given.

    Raises:
        UsageError: there is neither, or a model does not take the views.
        GoodfitError: a model is damaged.
    """
    run = Run.open(path)
    if (run.path / ENSEMBLE_FILE).exists() and not (run.path / CONFIG_FILE).exists():  # a soup is one model, as a run is
        return load_ensemble(run, device, views)
    classifier = load_classifier(run, device, views, reporter)
    return Predictor((classifier,), (1.0,), classifier.classes, temper_task(classifier.task, classifier.temperature))


def load_ensemble(run: Run, device: str = "auto", views: str = "") -> Predictor:
    """Load the members of an ensemble that have a weight; of a soup, itself alone.

    Raises:
        GoodfitError: a model is damaged, or no longer the one that the ensemble was made of.
    """
    content = run.read(ENSEMBLE_FILE, "members", "classes")
    with explain_damage(run.path / ENSEMBLE_FILE):
        members = [(run.path / row["path"], float(row["weight"]), row["sha256"]) for row in content["members"] if row["weight"]]
        classes = tuple(content["classes"])
        task = read_task(content.get("task"), classes)
    for folder, _, sha256 in members:
        file = folder / WEIGHTS_FILE
        if file.is_file() and hash_file(file) != sha256:
            raise GoodfitError(f'The model "{file}" is not the one that the ensemble was made of (its SHA-256 differs): make it again.')
    classifiers = tuple(load_classifier(folder, device, views, SilentReporter()) for folder, _, _ in members)  # ensemble.json has hashes
    if not classifiers or any(set(classifier.classes) != set(classes) for classifier in classifiers):
        raise DamagedFile(run.path / ENSEMBLE_FILE, "it is not of its members")
    return Predictor(classifiers, tuple(weight for _, weight, _ in members), classes, task)
