"""Weights to begin training from, read from a published file, a user's file or a run: tensors by name, and facts about their net."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from goodfit.core.errors import DataError
from goodfit.core.fetch import Say, fetch, hash_file
from goodfit.core.files import cache_folder
from goodfit.core.run import Run
from goodfit.core.words import format_percent
from goodfit.data.levels import MAX_16_BIT
from goodfit.data.preprocess import Aspect
from goodfit.models.weights.published import PUBLISHED, PublishedWeights
from goodfit.models.weights.saved import SavedModel
from goodfit.models.weights.tensor_file import WEIGHT_SUFFIXES, read_tensors

# ImageNet's classes are 1000 WordNet ids in ascending order, from the first to the last of these.
WORDNET_ID, FIRST_IMAGENET_ID, LAST_IMAGENET_ID, IMAGENET_CLASSES = re.compile(r"n\d{8}"), "n01440764", "n15075141", 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Tensors by name, and the SHA-256 of their file; `name` is how a recipe refers to them.

    `model` is the text of the part that they fit, `classes` are those of its head; `size` (height, width), `mean` and `std` per channel,
    `aspect` and `white_level` are those of the images it was trained on; each is empty where unknown. `assumed_from` names the published
    weights whose size, mean and std are assumed because the file does not say its own; empty where nothing is assumed. `has_fixed_size`
    says that the model takes images of that size alone, `interpolation` how they were resized. `use` are files of the user's own parts
    that the model needs, `accuracy` is a phrase that says how good it is.

    `keys` are those in the file under which the tensors lie, `other_keys` those under which it has more; `is_sorted` says that the tensors
    come sorted by name. `by` says how they are matched to those of a model.
    """

    name: str
    sha256: str
    tensors: Mapping[str, Tensor]
    model: str = ""
    classes: tuple[str, ...] = ()
    size: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    aspect: Aspect | Literal[""] = ""
    white_level: int = 0
    use: tuple[str, ...] = ()
    accuracy: str = ""
    imagenet: bool = False
    assumed_from: str = ""
    has_fixed_size: bool = False
    interpolation: str = ""
    keys: tuple[str, ...] = ()
    other_keys: tuple[str, ...] = ()
    is_sorted: bool = False
    by: Literal["name", "order"] = "name"

    def has_classes(self, classes: Sequence[str]) -> bool:
        """Whether the head is for exactly these classes, in this order."""
        return tuple(classes) == self.classes or (self.imagenet and are_imagenet_classes(classes))


def are_imagenet_classes(classes: Sequence[str]) -> bool:
    """Whether the classes are ImageNet's 1000, in the order that every net trained on them has."""
    ids = len(classes) == IMAGENET_CLASSES and (classes[0], classes[-1]) == (FIRST_IMAGENET_ID, LAST_IMAGENET_ID)
    return ids and list(classes) == sorted(classes) and all(WORDNET_ID.fullmatch(name) for name in classes)


def from_published(name: str, say: Say) -> Weights:
    """Load the published weights with this full name; their file is downloaded the first time.

    Raises:
        DataError: the file cannot be fetched, or is damaged; the sentence says which file to put where.
    """
    about = PUBLISHED[name]
    path = cache_folder() / "downloads" / "weights" / about.file
    return _load_published(name, path, about, fetch(about.url, path, about.checksum, "sha256", say))


def from_file(path: Path) -> Weights:
    """Load the weights in a file; a file with the name of a published one is taken for it, and its checksum is verified.

    Raises:
        DataError: it is no file of weights, or it is damaged.
    """
    if path.suffix not in WEIGHT_SUFFIXES:
        raise DataError(f'Expected weights in a file that ends in {", ".join(WEIGHT_SUFFIXES)}, received "{path}".')
    sha256 = hash_file(path)
    about = next((about for about in PUBLISHED.values() if about.file == path.name), None)
    if about is None:
        return from_bare_file(str(path), path, sha256)
    if not sha256.startswith(about.checksum):
        raise DataError(f'"{path}" is not the published file of that name (SHA-256 {sha256}): fetch it from {about.url}, or rename yours.')
    return _load_published(str(path), path, about, sha256)


def from_bare_file(name: str, path: Path, sha256: str) -> Weights:
    """Load the tensors of a file that says nothing of its net, under the name that a recipe is to have for them.

    Raises:
        DataError: it is no file of weights, or it is damaged.
    """
    tensors, keys, others, is_sorted = read_tensors(path)
    return Weights(name, sha256, tensors, keys=keys, other_keys=others, is_sorted=is_sorted)


def from_run(run: Run, say: Say) -> Weights:
    """Load the saved weights of a run, with its model, classes and preprocessing.

    Raises:
        UsageError: the run has no model yet.
        GoodfitError: its model is damaged.
    """
    saved = SavedModel.read(run)
    for note in saved.notes:
        say(note)
    if saved.preprocess.mean_image:
        say(f'Note: "{run.path}" takes a mean image off, whose own mean is taken off here: with --mean image it is that of these images.')
    accuracy, pre = run.read("scores.json").get("validation", {}).get("accuracy"), saved.preprocess
    return Weights(
        str(run.path.resolve()), saved.sha256, saved.tensors, saved.model, saved.classes, pre.size, pre.mean, pre.std, pre.aspect,
        pre.white_level if pre.white_level < MAX_16_BIT else 0,  # which it also is where no image had 16 bits
        tuple(str(file.resolve()) for file in saved.use_files),
        "" if accuracy is None else f"{format_percent(accuracy)} on its own validation images",
        is_sorted=True,
    )  # fmt: skip


def _load_published(name: str, path: Path, about: PublishedWeights, sha256: str) -> Weights:
    """Load published weights from their downloaded file."""
    return Weights(
        name, sha256, read_tensors(path).tensors, about.model, size=(about.size, about.size), mean=about.mean, std=about.std,
        accuracy=f"top-1 {about.top1:.1f} %, top-5 {about.top5:.1f} % on ImageNet at {about.size} of {about.resize} pixels", imagenet=True,
    )  # fmt: skip
