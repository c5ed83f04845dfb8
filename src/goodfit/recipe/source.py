"""The data of a recipe, opened the same way for training and for evaluation."""

from __future__ import annotations

from pathlib import Path

from goodfit.core.errors import UsageError
from goodfit.data.dataset import Dataset, prepare
from goodfit.data.index import find
from goodfit.data.pack import Progress
from goodfit.data.scan import Survey, survey
from goodfit.data.splits import assign
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.size import parse_size


def look(recipe: Recipe) -> Survey:
    """Find the images of a recipe and read their headers.

    Raises:
        UsageError: the recipe names no data.
        DataError: the data is not there, or not what training needs.
    """
    if not recipe.data:
        raise UsageError('Expected the images to train on, such as "photos/" or "digits", received nothing.')
    index = find(recipe.data, recipe.limit, recipe.split_seed)
    if isinstance(recipe.validation, str):
        index = assign(index, Path(recipe.validation))
    return survey(index)


def open_data(recipe: Recipe, seen: Survey, progress: Progress | None = None) -> Dataset:
    """Pack, split and measure the images of a recipe whose size is chosen."""
    share = recipe.validation if isinstance(recipe.validation, float) else 0.0
    return prepare(seen, parse_size(recipe.size), recipe.aspect, share, recipe.split_seed, int(recipe.cache * 1e9), progress=progress)
