"""The weights that training starts from (`--from`): finding them, what the recipe adopts from them, and loading them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from goodfit.core.errors import DataError, UsageError, did_you_mean
from goodfit.core.parts import Part, spell
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.data.dataset import Dataset
from goodfit.models.blocks import SMALL_STEM_BELOW
from goodfit.models.weights.files import Weights, from_file, from_published, from_run
from goodfit.models.weights.matching import transfer_weights
from goodfit.models.weights.published import DEFAULT_WEIGHTS, PUBLISHED, resolve_published
from goodfit.models.weights.saved import WEIGHTS_FILE
from goodfit.models.weights.surgery import adapt_statistics
from goodfit.models.weights.tensor_file import WEIGHT_SUFFIXES
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.parts import load_catalog
from goodfit.training.state import State

SHA256_SUFFIX = re.compile(r"#sha256=([0-9a-f]{8,64})$")  # of a source: the checksum its file must have
SLOW_BACKBONE = "backbone(0.1)"

# ---- where the weights are ---------------------------------------------------------------------------------------------------------


def absolute_source(source: str) -> str:
    """A source that is found from any folder: published weights by name, all else by absolute path."""
    place, checksum = _split_checksum(source)
    if not place or (not Path(place).expanduser().exists() and resolve_published(place)):
        return source
    return str(Path(place).expanduser().resolve()) + (f"#sha256={checksum}" if checksum else "")


def _split_checksum(source: str) -> tuple[str, str]:
    """A source without its checksum, and the checksum; empty where it has none."""
    match = SHA256_SUFFIX.search(source)
    return (source[: match.start()], match[1]) if match else (source, "")


def find_weights(source: str, reporter: Reporter) -> Weights:
    """Load the weights of a source: a run folder, a file, or published ones by name.

    Raises:
        UsageError: there are none of that name.
        DataError: they do not read, cannot be fetched, or have changed since the recipe was written.
    """
    place, checksum = _split_checksum(source)
    weights = _load_weights(place, reporter)
    if not weights.sha256.startswith(checksum):
        raise DataError(
            f'The weights of "{place}" have changed: expected SHA-256 {checksum}, found {weights.sha256}. Give --from "{place}" to use'
            " the weights that are there now."
        )
    return weights


def _load_weights(place: str, reporter: Reporter) -> Weights:
    path = Path(place).expanduser()
    if path.is_dir():
        return from_run(Run.open(path))
    if path.is_file():
        is_kept_model = path.name == WEIGHTS_FILE and (path.parent / "recipe.toml").is_file()
        return from_run(Run(path.parent)) if is_kept_model else from_file(path)
    if name := resolve_published(place):
        return from_published(name, reporter.say)
    models = list(dict.fromkeys(name.partition(":")[0] for name in PUBLISHED))
    suffixes = ", ".join(WEIGHT_SUFFIXES)
    raise UsageError(
        f"Expected weights to start from: a run folder, a file ({suffixes}), or published ones such as resnet18:{DEFAULT_WEIGHTS};"
        f' found nothing at "{place}".{did_you_mean(path.name.partition(":")[0], models)} Published are {", ".join(models)}.'
    )


# ---- what the recipe adopts from them ------------------------------------------------------------------------------------------------


def adopt_source(chooser: Chooser, weights: Weights) -> None:
    """Choose the model and size of the weights where those are open, and record in the recipe which weights they are.

    Raises:
        UsageError: it is not known which model the weights are of.
    """
    chooser.recipe = chooser.recipe.but(source=f"{weights.name}#sha256={weights.sha256}")
    evidence = ", ".join(text for text in (weights.name, weights.accuracy) if text)
    if chooser.is_open("model"):
        if not weights.model:
            raise UsageError(f'Expected the --model that the weights in "{weights.name}" are of: a file of tensors does not say it.')
        if weights.use:
            chooser.recipe = chooser.recipe.but(use=(*chooser.recipe.use, *weights.use))
            chooser.catalog = load_catalog(chooser.recipe.use)
        part = _with_fixed_stem(chooser.catalog.make(weights.model, "model"), weights.size)
        chooser.choose("model", spell(part), "the model that its weights are of", evidence)
    if weights.size:
        height, width = weights.size
        size = height if height == width else f"{height}x{width}"
        chooser.choose("size", size, "the size that its weights were trained at", evidence)


def _with_fixed_stem(part: Part, size: tuple[int, ...]) -> Part:
    """The model with the stem that it has for images of this size, so that it keeps it at another."""
    if getattr(part, "stem", "") != "auto" or len(size) != 2:
        return part
    return dataclasses.replace(part, stem="small" if min(size) < SMALL_STEM_BELOW else "imagenet")  # type: ignore[type-var]


def choose_normalization(chooser: Chooser, weights: Weights | None) -> None:
    """Choose mean and std where they are open: those of the weights, else of the data. The channels must be chosen."""
    for field, of_alpha in (("mean", 0.0), ("std", 1.0)):
        if weights and (values := getattr(weights, field)):
            values = adapt_statistics(values, int(chooser.recipe.channels), of_alpha)
            chooser.choose(field, values, "of the images that its weights were trained on", weights.name)
        else:
            chooser.set(field, "data")


def choose_rates(chooser: Chooser, weights: Weights | None) -> None:
    """Choose the rates by layer where they are open: a tenth of the rate below the head of pretrained weights, else one rate for all."""
    if weights is None:
        chooser.set("rates", "none")
    elif getattr(chooser.part("optimizer"), "full_batch", False):
        chooser.choose("rates", "none", "a full-batch optimizer moves all weights as one vector", weights.name)
    else:
        chooser.choose("rates", SLOW_BACKBONE, "what is pretrained below the head moves at a tenth of the rate", weights.name)


# ---- loading them ------------------------------------------------------------------------------------------------------------------


def load_pretrained(state: State, weights: Weights, data: Dataset) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Load the weights into the model, and into its running average if there is one; returns a record of it, and lines to report.

    Raises:
        UsageError: none of the checkpoint's tensors match the model.
    """
    same_classes = weights.has_classes(data.classes)
    transfer = transfer_weights(state.model, weights, same_classes)
    if state.average is not None:
        state.average.load_state_dict(state.model.state_dict())
    first, *others = transfer.sentences()
    first += ", the head too, because its classes are the same" if same_classes and not transfer.reinitialized else ""
    about = {"name": weights.name, "sha256": weights.sha256, "model": weights.model, "said": weights.accuracy}
    source = {**about, "tensors": transfer.to_dict()}
    return source, (f"{weights.name}: {first}", *(f"  {line}" for line in others))
