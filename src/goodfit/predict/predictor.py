"""A trained classifier: the kept weights with their preprocessing, ready to predict; needs neither the data nor the training code."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from goodfit.augment.views import Center
from goodfit.core.catalog import Part, spell
from goodfit.core.device import choose, cores
from goodfit.core.errors import GoodfitError, UsageError
from goodfit.core.files import write
from goodfit.core.run import ENSEMBLE, Run, used
from goodfit.data.decode import BrokenImage
from goodfit.data.multiscale import decode_scaled, read_contents
from goodfit.data.preprocess import Preprocess
from goodfit.predict.views import Viewer, probabilities_of
from goodfit.recipe.build import catalog, make_model
from goodfit.training.calibration import tempered
from goodfit.training.heads import heads
from goodfit.training.snapshots import packed

BATCH = 64
IMAGES = (str, Path, bytes, Image.Image)  # and arrays


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the classifier says of one image: `classes` and their `probabilities`, likeliest first; or the `problem` with the image."""

    name: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode with its classes, preprocessing, the loss that says how scores become probabilities, the views of an
    image that `predict` averages over, and the temperature of its probabilities: 1 unless `goodfit evaluate --calibrate` stored another.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess
    loss: Any
    device: torch.device
    views: Any = Center()
    temperature: float = 1.0

    @property
    def viewer(self) -> Viewer:
        """What shows images to the model."""
        return Viewer(self.model, self.views, self.preprocess, self.loss, self.device)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities [B, K] float32 for stored pixels uint8 [B, C, H, W] of the preprocessing's box, by their center alone."""
        there = self.preprocess.normalize(self.preprocess.center_crop(images.to(self.device)))
        return tempered(probabilities_of(self.loss, heads(self.model(there))[0].float()).cpu(), self.temperature)

    def predict(self, images: object, top: int = 5) -> list[Prediction]:
        """Predictions for paths, PIL images or arrays (uint8 [H, W] or [H, W, C]); one alone or any sequence (an array [N, H, W, C] too).

        An image that cannot be read gives a prediction with its `problem`, and the others go on.

        Raises:
            UsageError: something is no path, image or array.
        """
        return list(self.stream(one_or_many(images), top))

    def stream(self, images: Iterable[Any], top: int = 5) -> Iterator[Prediction]:
        """`predict`, one batch after the other, for more images than memory holds."""
        left = iter(images)
        with ThreadPoolExecutor(cores()) as pool:
            while some := list(islice(left, BATCH)):
                decoded = list(pool.map(self.decode, some))
                good = [x for x in decoded if isinstance(x, dict)]
                rows: Iterator[Tensor] = iter(self.answers(good) if good else [])
                for image, x in zip(some, decoded, strict=True):
                    name = name_of(image)
                    yield prediction(name, self.classes, next(rows), top) if isinstance(x, dict) else Prediction(name, problem=x.reason)

    @functools.cached_property
    def scales(self) -> tuple[int, ...]:
        """The scales at which its views need an image."""
        return tuple(dict.fromkeys(view.scale for view in self.viewer.views))

    def answers(self, decoded: Sequence[dict[int, np.ndarray]]) -> Tensor:
        """Probabilities [n, K] float32 of images that `decode` has decoded."""
        return tempered(self.viewer.probabilities(lambda scale: [x[scale] for x in decoded]), self.temperature)

    def decode(self, image: Any) -> dict[int, np.ndarray] | BrokenImage:
        """The image's pixels at each scale that a view needs."""
        if not isinstance(image, (*IMAGES, np.ndarray)):
            raise UsageError(f"Expected a path, PIL image or array to predict, received a {type(image).__name__}.")
        try:
            source = read_contents(image)
            return {scale: decode_scaled(self.preprocess, source, scale) for scale in self.scales}
        except BrokenImage as error:
            return error


def prediction(name: str, classes: Sequence[str], probabilities: Tensor, top: int) -> Prediction:
    """The likeliest classes for probabilities [K]."""
    best = probabilities.topk(min(top, len(classes)))
    return Prediction(name, tuple(classes[i] for i in best.indices.tolist()), tuple(best.values.tolist()))


def name_of(image: object) -> str:
    """The name of an image: its path, or that of the file it was opened from."""
    return str(image) if isinstance(image, (str, Path)) else getattr(image, "filename", "") or "image"


def one_or_many(images: Any) -> Iterable[Any]:
    """Images as a sequence of them; one alone is a sequence of one."""
    alone = isinstance(images, (*IMAGES, np.ndarray)) and not (isinstance(images, np.ndarray) and images.ndim == 4)
    return [images] if alone else images


def keep(run: Run, model: nn.Module, made: Mapping[str, Part], classes: Sequence[str], preprocess: Preprocess) -> None:
    """Write model.safetensors and config.json: all that `load` needs; `made` are the recipe's parts by seat."""
    config = {
        **{seat: spell(made[seat], full=True) for seat in ("model", "loss", "views")},
        "num_classes": len(classes),
        "label_names": list(classes),
        "preprocess": preprocess.to_dict(),
        "use": [path.name for path in used(run)],
    }
    write(run.path / "model.safetensors", packed(model))
    write(run.path / "config.json", json.dumps(config, indent=1) + "\n")


def load_run(path: str | Path, device: str = "auto", views: str | Part = "") -> Classifier:
    """The classifier of a run folder, wherever it lies; with other `views` than the run's own, if given.

    Raises:
        UsageError: there is no run, it has no finished model yet, or its model does not go with the views.
        GoodfitError: its model is damaged.
    """
    run = Run.open(path)
    try:
        config = run.read("config.json")
        if not config and run.read(ENSEMBLE):
            raise UsageError(f'Expected one model, found the ensemble "{run.path}": name a member of it, such as {run.path}/members/00.')
        if not config:
            raise UsageError(f'The run "{run.path}" has no model yet: train it to its end with --resume auto --out "{run.path}".')
        known = catalog([str(run.path / "use" / name) for name in config["use"]])
        preprocess = Preprocess.from_dict(config["preprocess"])
        classes = tuple(config["label_names"])
        model = make_model(known.make(config["model"], "model"), len(classes), preprocess.channels, preprocess.size)
        model.load_state_dict(load((run.path / "model.safetensors").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0].rstrip(".:")
        raise GoodfitError(f'The model in "{run.path}" does not read ({reason}): train it anew, or take a copy of the run.') from error
    there = choose(device)
    model = model.eval().to(there, memory_format=torch.channels_last)  # type: ignore[call-overload]
    looks = known.make(views or config.get("views", "center"), "views")  # runs of earlier versions have none
    loss, temperature = known.make(config["loss"], "loss"), float(config.get("temperature", 1.0))
    classifier = Classifier(model, classes, preprocess, loss, there, looks, temperature)
    classifier.viewer.check()
    return classifier
