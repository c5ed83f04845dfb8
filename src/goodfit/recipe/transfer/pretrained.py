"""Transfer: where a training begins from (`--from`), what it takes over from there, and the account of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goodfit.core.catalog import Catalog, Part, spell
from goodfit.core.errors import DataError, UsageError, did_you_mean
from goodfit.core.fetch import hash_file
from goodfit.core.run import Run, used
from goodfit.core.words import percent
from goodfit.data.dataset import Dataset
from goodfit.models.blocks import SMALL
from goodfit.models.weights.files import SUFFIXES, Weights, from_file, from_published
from goodfit.models.weights.published import DEFAULT, PUBLISHED, published
from goodfit.models.weights.surgery import for_channels, transplant
from goodfit.predict.predictor import load_run
from goodfit.recipe.auto import Choice, Chooser
from goodfit.recipe.build import Built, catalog, parts
from goodfit.recipe.recipe import Recipe
from goodfit.training.checkpoint import Checkpoints

HASH = re.compile(r"#sha256=([0-9a-f]{8,64})$")  # at the end of a source: what its file must have
MODEL = "model.safetensors"
GENTLE = "backbone(0.1)"


# ---- where the weights are ---------------------------------------------------------------------------------------------------------


def lasting(source: str) -> str:
    """A source as it is found from any folder, also once it is gone: published weights by name, all else as an absolute path."""
    place, hashed = _split(source)
    if not place or (not Path(place).expanduser().exists() and published(place)):
        return source
    return str(Path(place).expanduser().resolve()) + (f"#sha256={hashed}" if hashed else "")


def _split(source: str) -> tuple[str, str]:
    """A source and the SHA-256 it must have, empty where it says none."""
    found = HASH.search(source)
    return (source[: found.start()], found[1]) if found else (source, "")


def weights_of(recipe: Recipe, run: Run | None, say: Callable[[str], None]) -> Weights | None:
    """What a recipe begins from; None where it begins from nothing, or where a run to go on with has its own weights by now.

    Raises:
        UsageError: there is no such source.
        DataError: it does not read, cannot be fetched, or has changed since the recipe was written.
    """
    if not recipe.source or (run is not None and Checkpoints(run.checkpoints).steps()):
        return None
    place, hashed = _split(recipe.source)
    weights = find(place, say)
    if not weights.sha256.startswith(hashed):
        raise DataError(
            f'The weights of "{place}" have changed: expected SHA-256 {hashed}, found {weights.sha256}. Give --from "{place}" to take'
            " those that are there now."
        )
    return weights


def find(place: str, say: Callable[[str], None]) -> Weights:
    """The weights of a run folder, of a file, or published by name.

    Raises:
        UsageError: there are none of that name.
        DataError: they do not read, or cannot be fetched.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return from_run(Run.open(path))
    if path.is_file():
        beside = path.name == MODEL and (path.parent / "recipe.toml").is_file()
        return from_run(Run(path.parent)) if beside else from_file(path)
    if name := published(place):
        return from_published(name, say)
    models = list(dict.fromkeys(name.partition(":")[0] for name in PUBLISHED))
    raise UsageError(
        f"Expected weights to begin from: a run folder, a file ({', '.join(SUFFIXES)}), or published ones such as resnet18:{DEFAULT};"
        f' found nothing at "{place}".{did_you_mean(path.name.partition(":")[0], models)} Published are {", ".join(models)}.'
    )


def from_run(run: Run) -> Weights:
    """The kept weights of a run, with its model, classes and preprocessing.

    Raises:
        UsageError: it has no model yet.
        GoodfitError: its model is damaged.
    """
    there = load_run(run.path, "cpu")
    score = run.read("scores.json").get("validation", {}).get("accuracy")
    return Weights(
        str(run.path.resolve()), hash_file(run.path / MODEL), there.model.state_dict(), str(run.read("config.json")["model"]),
        there.classes, there.preprocess.size, there.preprocess.mean, there.preprocess.std, tuple(str(file.resolve()) for file in used(run)),
        "" if score is None else f"{percent(score)} on its own validation images",
    )  # fmt: skip


# ---- what is taken over ------------------------------------------------------------------------------------------------------------


def take_over(chooser: Chooser, weights: Weights, known: Catalog) -> Catalog:
    """Choose the model and size of the source where they are open, and write down which weights it is; returns the parts there now are.

    Raises:
        UsageError: it is not known which model the weights are of.
    """
    chooser.recipe = chooser.recipe.but(source=f"{weights.name}#sha256={weights.sha256}")
    evidence = ", ".join(word for word in (weights.name, weights.said) if word)
    if chooser.open("model"):
        if not weights.model:
            raise UsageError(f'Expected the --model that the weights in "{weights.name}" are of: a file of tensors does not say it.')
        if weights.use:
            chooser.recipe = chooser.recipe.but(use=(*chooser.recipe.use, *weights.use))
            known = catalog(chooser.recipe.use)
        part = with_stem(known.make(weights.model, "model"), weights.size)
        chooser.choose("model", spell(part), "the model that its weights are of", evidence)
    if weights.size:
        height, width = weights.size
        size = height if height == width else f"{height}x{width}"
        chooser.choose("size", size, "the size that its weights have seen", evidence)
    return known


def with_stem(part: Part, size: tuple[int, ...]) -> Part:
    """The model with the stem it has for images of that size, so that it keeps it at another."""
    if getattr(part, "stem", "") != "auto" or len(size) != 2:
        return part
    return dataclasses.replace(part, stem="small" if min(size) < SMALL else "imagenet")  # type: ignore[type-var]


def settle(chooser: Chooser, weights: Weights | None, known: Catalog) -> None:
    """Choose mean, std and rates where they are open: those of the weights and a tenth of the rate for what has learned, or the data's
    and one rate for all. The channels must be chosen.
    """
    recipe = chooser.recipe
    if weights is None:
        plain = {"mean": "data", "std": "data", "rates": "none"}
        chooser.recipe = recipe.but(**{field: value for field, value in plain.items() if chooser.open(field)})
        return
    for field, alpha in (("mean", 0.0), ("std", 1.0)):
        values = for_channels(getattr(weights, field), int(recipe.channels), alpha) if getattr(weights, field) else "data"
        if chooser.open(field):
            chooser.recipe = chooser.recipe.but(**{field: values})
            if values != "data":
                said = ", ".join(f"{x:.4g}" for x in values)
                chooser.choices.append(Choice(field, said, "of the images that its weights have seen", weights.name))
    if getattr(parts(recipe, known).get("optimizer"), "full_batch", False):
        chooser.choose("rates", "none", "a full-batch optimizer moves all weights as one vector", weights.name)
    chooser.choose("rates", GENTLE, "what has learned before the head moves at a tenth of the rate", weights.name)


def plant(built: Built, weights: Weights, data: Dataset) -> Built:
    """Put the weights into what is to be trained, its running average too, and keep the account of it.

    Raises:
        UsageError: none of them fits the model.
    """
    state = built.state
    same = weights.tell_apart(data.classes)
    transfer = transplant(state.model, weights.tensors, same)
    if state.average is not None:
        state.average.load_state_dict(state.model.state_dict())
    first, *others = transfer.sentences()
    first += ", the head too, for it tells the same classes apart" if same and not transfer.anew else ""
    lines = (f"{weights.name}: {first}", *(f"  {line}" for line in others))
    about: dict[str, Any] = {"name": weights.name, "sha256": weights.sha256, "model": weights.model, "said": weights.said}
    return dataclasses.replace(built, source={**about, "tensors": transfer.plain()}, notes=lines)
