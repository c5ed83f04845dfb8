"""The weights that training starts from (`--from`): finding them, what the recipe adopts from them, and loading them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from torch import nn

from goodfit.core.errors import DataError, UsageError, did_you_mean
from goodfit.core.parts import spell
from goodfit.core.reporter import Reporter
from goodfit.core.run import Run
from goodfit.core.trust import trust_own_code
from goodfit.data.headers import ImageHeaders
from goodfit.data.preprocess import INTERPOLATION
from goodfit.models.weights.files import Weights, from_file, from_published, from_run
from goodfit.models.weights.hub import HUB, TIMM, from_hub, from_timm
from goodfit.models.weights.matching import transfer_weights
from goodfit.models.weights.published import DEFAULT_WEIGHTS, IMAGENET_MEAN, PUBLISHED, resolve_published
from goodfit.models.weights.saved import WEIGHTS_FILE
from goodfit.models.weights.surgery import Transfer, adapt_statistics
from goodfit.models.weights.tensor_file import WEIGHT_SUFFIXES
from goodfit.recipe.chooser import Chooser
from goodfit.recipe.parts import load_catalog
from goodfit.recipe.transfer.assumptions import assume_preprocessing, with_fitting_stem

SHA256_SUFFIX = re.compile(r"#sha256=([0-9a-f]{8,64})$")  # of a source: the checksum its file must have

# ---- where the weights are ---------------------------------------------------------------------------------------------------------


def absolute_source(source: str) -> str:
    """A source that is found from any folder: published weights by name, all else by absolute path."""
    place, checksum = _split_checksum(source)
    if not place or (not Path(place).expanduser().exists() and (place.startswith((TIMM, HUB)) or resolve_published(place))):
        return source
    return str(Path(place).expanduser().resolve()) + (f"#sha256={checksum}" if checksum else "")


def _split_checksum(source: str) -> tuple[str, str]:
    """A source without its checksum, and the checksum; empty where it has none."""
    match = SHA256_SUFFIX.search(source)
    return (source[: match.start()], match[1]) if match else (source, "")


def find_weights(source: str, reporter: Reporter, by: Literal["name", "order"] = "name") -> Weights:
    """Load the weights of a source: a run folder, a file, published ones by name, or those of timm or of a repository of the hub.

    `by` says how their tensors are to be matched to those of the model.

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
    if place.startswith((TIMM, HUB)) and not Path(place).expanduser().exists():
        trust_own_code([weights.model])  # which was asked for with them
    return dataclasses.replace(weights, by=by)


def _load_weights(place: str, reporter: Reporter) -> Weights:
    path = Path(place).expanduser()
    if path.is_dir():
        return from_run(Run.open(path), reporter.say)
    if path.is_file():
        is_kept_model = path.name == WEIGHTS_FILE and (path.parent / "recipe.toml").is_file()
        return from_run(Run(path.parent), reporter.say) if is_kept_model else from_file(path)
    if place.startswith(TIMM):
        return from_timm(place.removeprefix(TIMM), reporter.say)
    if place.startswith(HUB):
        return from_hub(place.removeprefix(HUB), reporter.say)
    if name := resolve_published(place):
        return from_published(name, reporter.say)
    models = list(dict.fromkeys(name.partition(":")[0] for name in PUBLISHED))
    suffixes = ", ".join(WEIGHT_SUFFIXES)
    raise UsageError(
        f"Expected weights to start from: a run folder, a file ({suffixes}), {TIMM}NAME, {HUB}OWNER/NAME, or published ones such as"
        f" resnet18:{DEFAULT_WEIGHTS};"
        f' found nothing at "{place}".{did_you_mean(path.name.partition(":")[0], models)} Published are {", ".join(models)}.'
    )


# ---- what the recipe adopts from them ------------------------------------------------------------------------------------------------


def adopt_source(chooser: Chooser, weights: Weights) -> None:
    """Choose the model of the weights where it is open, and record in the recipe which weights they are.

    Raises:
        UsageError: it is not known which model the weights are of.
    """
    chooser.recipe = chooser.recipe.but(source=f"{weights.name}#sha256={weights.sha256}")
    evidence = ", ".join(text for text in (weights.name, weights.accuracy) if text)
    assumption = f"its tensors are those of {weights.assumed_from}, and the file says no more" if weights.assumed_from else ""
    asked, rule = chooser.part("model"), ""
    if asked is None:
        if not weights.model:
            known = assume_preprocessing(dataclasses.replace(weights, by="order"), chooser.catalog, None).assumed_from
            offer = f" By order and shape they are those of {known}: --from-by order takes them so." if known else ""
            raise UsageError(f'Expected the --model that the weights in "{weights.name}" are of: a file of tensors does not say it.{offer}')
        if weights.use:
            chooser.recipe = chooser.recipe.but(use=(*chooser.recipe.use, *weights.use))
            chooser.catalog = load_catalog(chooser.recipe.use)
        asked, rule = chooser.catalog.make(weights.model, "model"), "the model that its weights are of"
    part, stem_rule = with_fitting_stem(asked, weights, chooser.catalog)
    rule = rule or stem_rule
    if part != asked or chooser.is_open("model"):
        chooser.recipe = chooser.recipe.but(model="auto")
        chooser.choose("model", spell(part), rule, assumption or evidence)


def choose_shown_images(chooser: Chooser, headers: ImageHeaders, weights: Weights | None) -> ImageHeaders:
    """Choose how images come to the model's shape and what is white in 16-bit ones: as for the weights, where they say it."""
    rule, level = "as the images that its weights were trained on", headers.white_level
    if weights and weights.aspect not in ("", "crop"):
        chooser.choose("aspect", weights.aspect, rule, weights.name)
    chooser.set("aspect", "crop")
    if weights and weights.white_level and (level <= weights.white_level or not headers.has_16_bits):
        chooser.choose("white_level", weights.white_level, rule, weights.name)
    chooser.set("white_level", level)
    return headers.with_white_level(int(chooser.recipe.white_level))


def choose_normalization(chooser: Chooser, weights: Weights | None) -> None:
    """Choose mean and std where they are open: those of the weights, else of the data. The channels must be chosen."""
    for field, of_alpha in (("mean", 0.0), ("std", 1.0)):
        if weights and (values := getattr(weights, field)):
            values = adapt_statistics(values, int(chooser.recipe.channels), of_alpha)
            rule = "of the images that its weights were trained on"
            if weights.assumed_from:
                owner = "ImageNet's " if weights.mean == IMAGENET_MEAN else ""
                rule = f"{owner}mean and std assumed, those of {weights.assumed_from}; --set {field}=data takes the images' own"
            chooser.choose(field, values, rule, weights.name)
        elif weights:
            rule = f"the images' own, assumed, for the weights do not say theirs; --set {field}=... sets others"
            chooser.choose(field, "data", rule, weights.name)
        else:
            chooser.set(field, "data")


# ---- loading them ------------------------------------------------------------------------------------------------------------------


def copy_pretrained(model: nn.Module, weights: Weights, keep_head: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Copy the weights into a freshly initialized model, the head only to keep it; returns a record of it, and lines to report.

    Raises:
        UsageError: none of the checkpoint's tensors match the model.
    """
    transfer = transfer_weights(model, weights, keep_head)
    first, *others = transfer.sentences()
    first += ", the head too, because its classes are the same" if keep_head and not transfer.reinitialized else ""
    notes = (*_describe_file(weights), *others)
    return _to_record(weights, transfer), (f"{weights.name}: {first}", *(f"  {line}" for line in notes))


def _describe_file(weights: Weights) -> list[str]:
    """What is to be said of the file of the weights: where its tensors lie, and how its images were resized."""
    lines = []
    if weights.keys:
        beside = f", not under {', '.join(weights.other_keys)}" if weights.other_keys else ""
        lines.append(f"its tensors lie under {' / '.join(weights.keys)}{beside}")
    if weights.interpolation not in ("", INTERPOLATION):
        lines.append(f"its images were resized by {weights.interpolation} interpolation, here they are by {INTERPOLATION}")
    return lines


def _to_record(weights: Weights, transfer: Transfer) -> dict[str, Any]:
    """The record of a transfer for about.json; what is not known of the weights is left out."""
    optional = {
        "keys": list(weights.keys),
        "assumed_from": weights.assumed_from,
        "interpolation": weights.interpolation,
    }
    about = {"name": weights.name, "sha256": weights.sha256, "model": weights.model, "said": weights.accuracy}
    return {**about, **{key: value for key, value in optional.items() if value}, "tensors": transfer.to_dict()}
