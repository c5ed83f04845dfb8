"""Preparation: from what was asked to everything that trains. Machine, source, images, choices, parts: each once, in this order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goodfit.core.catalog import Catalog
from goodfit.core.errors import UsageError
from goodfit.core.forecast import Forecast
from goodfit.core.parts import Part, Pipe, spell
from goodfit.core.progress import steady_time
from goodfit.core.reporter import Reporter
from goodfit.data.dataset import Dataset
from goodfit.data.index import Index
from goodfit.data.shards.places import is_shard_pattern, is_url
from goodfit.models.weights.files import Weights
from goodfit.recipe.auto import choose_channels, choose_loss, choose_machine, choose_size, choose_training
from goodfit.recipe.build import Training, build, check_random_stages
from goodfit.recipe.chooser import Choice, Chooser
from goodfit.recipe.parts import check_model, check_sync, check_task, load_catalog, with_parts_spelled
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import open_images, read_image_headers
from goodfit.recipe.transfer.assumptions import assume_imagenet, assume_preprocessing
from goodfit.recipe.transfer.defaults import choose_for_source, choose_source_size, seconds_of
from goodfit.recipe.transfer.features import FeatureNet
from goodfit.recipe.transfer.pretrained import (
    absolute_source,
    adopt_source,
    choose_normalization,
    choose_shown_images,
    find_weights,
)
from goodfit.recipe.transfer.start import Start, choose_head_init, load_pretrained, make_start, restore_start
from goodfit.terminal.log import LoggingReporter


@dataclasses.dataclass(frozen=True)
class Opened:
    """A recipe whose machine, source and images are chosen and opened: what choices are made from."""

    chooser: Chooser
    data: Dataset
    index: Index
    weights: Weights | None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A recipe resolved against its data, with everything that training needs.

    `recipe` has nothing left open, `parts` are its parts by seat, `source` describes the weights it starts from, and `packed` is the
    steady time at which the images were packed, `forecast` what the training was planned to reach, if it was, and `seconds_per_image`
    what a step takes at full size, if that was measured.
    """

    recipe: Recipe
    parts: dict[str, Part]
    data: Dataset
    index: Index
    choices: tuple[Choice, ...]
    training: Training
    source: dict[str, Any]
    packed: float
    forecast: Forecast | None
    seconds_per_image: float | None

    def steered_by(self, commands: Sequence[Part]) -> Prepared:
        """The same with other commands by hand, in the recipe too."""
        pipe = Pipe(tuple(commands))
        recipe = dataclasses.replace(self.recipe, steering=spell(pipe, full=True))
        return dataclasses.replace(self, recipe=recipe, parts={**self.parts, "steering": pipe})


def open_recipe(
    asked: Recipe, reporter: Reporter, catalog: Catalog | None = None, load_source: bool = True, started: float | None = None
) -> Opened:
    """Choose the machine and the size, load the weights to start from and open the images; the time counts from `started`.

    Raises:
        UsageError: a part, the source or a value is unknown or wrong.
        DataError: the images or the weights do not read.
    """
    asked.trust_own_code()
    chooser = Chooser(with_absolute_paths(asked), catalog or load_catalog(asked.use))
    choose_loss(chooser)
    check_task(chooser.recipe, chooser.parts())  # and a misspelled part is refused, before any work
    check_sync(chooser.recipe, chooser.parts())
    choose_machine(chooser)
    if asked.source_by != "name" and not asked.source:
        raise UsageError(f"Expected --from beside --from-by {asked.source_by}, received none.")
    if asked.head_init in ("probe", "source") and not asked.source:
        raise UsageError(f"Expected --from beside --head-init {asked.head_init}, received none.")
    weights = find_weights(asked.source, reporter, asked.source_by) if asked.source and load_source else None
    if weights:
        weights = assume_preprocessing(weights, chooser.catalog, chooser.part("model"))
        adopt_source(chooser, weights)
        weights = assume_imagenet(weights, chooser.part("model"))
    reporter.show_activity(f"reading {chooser.recipe.data}")
    headers = read_image_headers(chooser.recipe, reporter)
    headers = choose_shown_images(chooser, headers, weights)
    choose_channels(chooser, headers)
    if weights:
        choose_source_size(chooser, weights, headers, steady_time() - started if started else 0.0)
    choose_size(chooser, headers, "; assumed, for the weights do not say theirs" if weights else "")
    choose_normalization(chooser, weights)
    return Opened(chooser, open_images(chooser.recipe, reporter, headers), headers.index, weights)


def prepare(
    asked: Recipe,
    reporter: Reporter | None = None,
    started: float | None = None,
    catalog: Catalog | None = None,
    start: Mapping[str, Tensor] | None = None,
    check_data: Callable[[Dataset], None] = lambda data: None,
) -> Prepared:
    """Resolve a recipe against its data and build everything training needs; runs.plan says what came of it.

    A budget in minutes counts from the steady time `started`. `catalog` replaces the parts of the recipe's own `use` files, `start` has the
    weights that a run started from where they are known already, and `check_data` may refuse the images before anything is built.

    Raises:
        UsageError: a part, setting or source is unknown or wrong, or does not go with the data.
        DataError: the images or the weights do not read.
    """
    reporter = reporter or LoggingReporter()
    opened = open_recipe(asked, reporter, catalog, start is None, started)
    chooser, data, weights = opened.chooser, opened.data, opened.weights
    packed = steady_time()
    rule = "raw pixels within the cache, JPEG above it, above that the originals, from which crops are then cut; of shards a stream"
    chooser.choose("storage", data.pixels.storage, rule, f"the cache is {chooser.recipe.cache:g} GB")
    if model := chooser.part("model"):
        check_model(model, data)
    check_data(data)
    made = Start(None)
    reporter.show_activity("choosing the training by what this machine can do")
    if weights:
        chooser.choose("threads", torch.get_num_threads(), "one for each core, as for the features of the start", chooser.recipe.device)
        made = make_start(chooser, weights, data)
        choose_for_source(chooser, made, data, seconds_of(chooser.recipe.budget) - (steady_time() - (started or packed)))
    elif start:
        made = Start(restore_start(chooser, start, data))
    choose_training(chooser, data, packed - started if started else 0.0)
    parts = chooser.parts()
    check_task(chooser.recipe, parts)
    recipe = with_parts_spelled(chooser.recipe, parts)
    training = build(recipe, parts, data, made.model)
    if start is None and made.model is None and not recipe.fork:
        training = dataclasses.replace(training, warnings=(*training.warnings, *check_random_stages(training, parts)))
    training = dataclasses.replace(training, notes=(*training.notes, *made.notes))
    return Prepared(
        recipe,
        parts,
        data,
        opened.index,
        tuple(chooser.choices),
        training,
        made.record,
        packed,
        chooser.forecast,
        chooser.seconds_per_image,
    )


def open_source(asked: Recipe, reporter: Reporter) -> tuple[Opened, FeatureNet]:
    """Open the data of a recipe and load the net of its source, as a training would: the same size, channels, splits, mean and std.

    Raises:
        UsageError: the recipe has no source or data, or it is not known which model the weights are of.
        DataError: the weights or the images do not read.
    """
    if not asked.source:
        raise UsageError("Expected --from: a run folder, a file of weights or the name of published ones, received nothing.")
    opened = open_recipe(asked, reporter)
    assert opened.weights is not None
    choose_head_init(opened.chooser, opened.weights, opened.data)
    with torch.random.fork_rng(devices=[]):
        net, _, _ = load_pretrained(opened.chooser, opened.weights, opened.data)
    net.model.eval()
    return opened, net


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with its data, validation, source and use files as absolute paths where they are paths, so that it replays anywhere."""

    def absolute(text: Any) -> Any:
        path = Path(text).expanduser() if isinstance(text, str) and text else None
        if path is not None and is_shard_pattern(str(text)) and not is_url(str(text)):
            return str(path.parent.resolve() / path.name)
        return str(path.resolve()) if path is not None and path.exists() else text

    use = tuple(absolute(file) for file in recipe.use)
    source = absolute_source(recipe.source)
    return dataclasses.replace(recipe, data=absolute(recipe.data), validation=absolute(recipe.validation), use=use, source=source)
