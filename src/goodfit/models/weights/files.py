"""Weights to begin from: tensors by name, and what is known of the net that learned them."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from goodfit.core.errors import DataError
from goodfit.core.fetch import Say, fetch, hash_file
from goodfit.core.files import cache_folder
from goodfit.core.run import Run
from goodfit.core.words import format_percent
from goodfit.models.weights.published import PUBLISHED
from goodfit.models.weights.saved import SavedModel

SUFFIXES = (".safetensors", ".pth", ".pt")
WRAPPED = ("state_dict", "model_state_dict", "model")  # under which training scripts keep the tensors
PARALLEL = "module."  # what torch's DataParallel puts before each name
# ImageNet's classes: the 1000 ids of WordNet, in their order, from the first to the last of these.
WORDNET, FIRST, LAST, IMAGENET = re.compile(r"n\d{8}"), "n01440764", "n15075141", 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Tensors by name, and the SHA-256 of their file; `name` is how a recipe calls them.

    `model` is the text of the part that they fit, `classes` the names of what its head tells apart, `size` (height, width) and `mean` and
    `std` per channel those of the images it saw; each is empty where unknown. `use` are files of the user's own parts that the model
    needs, `accuracy` a phrase that says how good it is.
    """

    name: str
    sha256: str
    tensors: Mapping[str, Tensor]
    model: str = ""
    classes: tuple[str, ...] = ()
    size: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    use: tuple[str, ...] = ()
    accuracy: str = ""
    imagenet: bool = False

    def tell_apart(self, classes: Sequence[str]) -> bool:
        """Whether the head is for these very classes."""
        return tuple(classes) == self.classes or (self.imagenet and are_imagenet(classes))


def are_imagenet(classes: Sequence[str]) -> bool:
    """Whether classes are the 1000 of ImageNet, in the order of every net trained on them."""
    ids = len(classes) == IMAGENET and (classes[0], classes[-1]) == (FIRST, LAST)
    return ids and list(classes) == sorted(classes) and all(WORDNET.fullmatch(name) for name in classes)


def from_published(name: str, say: Say) -> Weights:
    """The weights of that full name, fetched the first time.

    Raises:
        DataError: they cannot be fetched, or are damaged; the sentence says which file to put where.
    """
    about = PUBLISHED[name]
    path = cache_folder() / "downloads" / "weights" / about.file
    return _known(name, path, fetch(about.url, path, about.checksum, "sha256", say))


def from_file(path: Path) -> Weights:
    """The weights in a file; one with the name of a published file is that, and is checked against its name.

    Raises:
        DataError: it is no file of weights, or damaged.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f'Expected weights in a file that ends in {", ".join(SUFFIXES)}, received "{path}".')
    sha256 = hash_file(path)
    name = next((name for name, about in PUBLISHED.items() if about.file == path.name), "")
    if not name:
        return Weights(str(path), sha256, tensors_in(path))
    about = PUBLISHED[name]
    if not sha256.startswith(about.checksum):
        raise DataError(f'"{path}" is not the file of that name (SHA-256 {sha256}): fetch it from {about.url}, or rename yours.')
    return _known(str(path), path, sha256)


def from_run(run: Run) -> Weights:
    """The kept weights of a run, with its model, classes and preprocessing.

    Raises:
        UsageError: the run has no model yet.
        GoodfitError: its model is damaged.
    """
    saved = SavedModel.read(run)
    accuracy, pre = run.read("scores.json").get("validation", {}).get("accuracy"), saved.preprocess
    return Weights(
        str(run.path.resolve()), saved.sha256, saved.tensors, saved.model, saved.classes, pre.size, pre.mean, pre.std,
        tuple(str(file.resolve()) for file in saved.use_files),
        "" if accuracy is None else f"{format_percent(accuracy)} on its own validation images",
    )  # fmt: skip


def _known(name: str, path: Path, sha256: str) -> Weights:
    """The published weights in a file of theirs."""
    (about,) = (about for about in PUBLISHED.values() if about.file == path.name)
    return Weights(
        name, sha256, tensors_in(path), about.model, size=(about.size, about.size), mean=about.mean, std=about.std,
        accuracy=f"top-1 {about.top1:.1f} %, top-5 {about.top5:.1f} % on ImageNet at {about.size} of {about.resize} pixels", imagenet=True,
    )  # fmt: skip


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or a torch file, by name; nothing but tensors is ever unpickled.

    Raises:
        DataError: the file does not read, or holds something else.
    """
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds code ({code[1]}), which could run anything" if code else "is no file of tensors"
        raise DataError(f'"{path}" {what}, so it is not opened: expected a state_dict() alone, or a .safetensors file.') from error
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f'"{path}" does not read as weights ({reason}).') from error
    for key in WRAPPED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise DataError(f'Expected tensors by name in "{path}", found {"none" if content == {} else f"a {type(content).__name__}"}.')
    for name, x in content.items():
        if not isinstance(name, str) or not isinstance(x, Tensor):
            raise DataError(f'Expected tensors by name in "{path}", found a {type(x).__name__} at {name!r}.')
    if all(name.startswith(PARALLEL) for name in content):
        return {name.removeprefix(PARALLEL): x for name, x in content.items()}
    return content
