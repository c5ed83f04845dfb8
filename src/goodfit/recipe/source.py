"""The data of a recipe, opened the same way for training and for evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from goodfit.core.errors import DataError, UsageError
from goodfit.core.words import count
from goodfit.data.dataset import Dataset, load_dataset
from goodfit.data.headers import ImageHeaders, read_headers
from goodfit.data.pack import PackProgress
from goodfit.data.sources import index_images
from goodfit.data.splits import assign_splits
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.size import parse_size


def look(recipe: Recipe, say: Callable[[str], None] = lambda text: None) -> ImageHeaders:
    """Find the images of a recipe and read their headers; `say` hears of a download.

    Raises:
        UsageError: the recipe names no data, or its validation file is not there.
        DataError: the data is not there, or not what training needs.
    """
    if not recipe.data:
        raise UsageError('Expected the images to train on, such as "photos/" or "digits", received nothing.')
    index = index_images(recipe.data, recipe.limit, recipe.split_seed, say)
    if isinstance(recipe.validation, str):
        if not Path(recipe.validation).is_file():
            raise UsageError(f'Expected validation to be a share from 0 to 1 or a CSV file, found no file "{recipe.validation}".')
        index = assign_splits(index, Path(recipe.validation))
    seen = read_headers(index)
    return seen if recipe.channels == "auto" else dataclasses.replace(seen, forced_channels=recipe.channels)


def open_data(recipe: Recipe, seen: ImageHeaders, progress: PackProgress | None = None) -> Dataset:
    """Pack, split and measure the images of a recipe whose size is chosen.

    Raises:
        UsageError: the recipe holds no validation images out.
        DataError: there are too few images, or every one is broken.
        GoodfitError: no space is left.
    """
    share = recipe.validation if isinstance(recipe.validation, float) else 0.0
    cache = int(recipe.cache * 1e9) if recipe.storage == "auto" else recipe.storage
    data = load_dataset(seen, parse_size(recipe.size), recipe.aspect, share, recipe.split_seed, cache, progress=progress)
    if not len(data.splits.validation):
        if recipe.validation == 0:
            raise UsageError(
                f'"{data.name}" has no validation images of its own, and validation = 0 takes none: give a share such as 0.15, for a model '
                "cannot be judged on the images it learned."
            )
        raise DataError(f'"{data.name}" has too few images to hold some out for validation: a class needs 3 good ones or more.')
    return normalized(data, recipe)


def normalized(data: Dataset, recipe: Recipe) -> Dataset:
    """The data with the recipe's mean and std, where those are numbers.

    Raises:
        UsageError: there are not as many as channels.
    """
    numbers = {key: value for key in ("mean", "std") if isinstance(value := getattr(recipe, key), tuple)}
    for key, values in numbers.items():
        if len(values) != data.preprocess.channels:
            raise UsageError(f"Expected {key} to have {count(data.preprocess.channels, 'number')}, one a channel, received {len(values)}.")
    return dataclasses.replace(data, preprocess=data.preprocess.but(**numbers))
