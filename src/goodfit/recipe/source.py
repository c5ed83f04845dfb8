"""The images of a recipe, opened in the same way for training and for evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from goodfit.core.errors import DataError, UsageError
from goodfit.core.reporter import Reporter
from goodfit.core.words import count_of
from goodfit.data.dataset import Dataset, load_dataset
from goodfit.data.headers import ImageHeaders, read_headers
from goodfit.data.loader import iterate_batches
from goodfit.data.pack import CacheLimit
from goodfit.data.preprocess import Aspect
from goodfit.data.sources import index_images
from goodfit.data.splits import SplitRule, assign_splits
from goodfit.recipe.recipe import Recipe, parse_size
from goodfit.terminal.log import LoggingReporter

MAX_CACHE_GB = 1e9  # more than any disk has
IMAGES_AT_ONCE = 256  # whose pixels are added up


def read_image_headers(recipe: Recipe, reporter: Reporter) -> ImageHeaders:
    """Find the images of a recipe and read their headers.

    Raises:
        UsageError: the recipe names no data, or its validation file does not exist.
        DataError: the data does not exist, or is not what training needs.
    """
    if not recipe.data:
        raise UsageError('Expected the images to train on, such as "photos/" or "digits", received nothing.')
    index = index_images(recipe.data, recipe.limit, recipe.split_seed, reporter.say)
    if isinstance(recipe.validation, str):
        if not Path(recipe.validation).is_file():
            raise UsageError(f'Expected validation to be a share from 0 to 1 or a CSV file, found no file "{recipe.validation}".')
        index = assign_splits(index, Path(recipe.validation))
    headers = read_headers(index, reporter=reporter)
    if recipe.white_level != "auto":
        headers = headers.with_white_level(recipe.white_level)
    return headers if recipe.channels == "auto" else dataclasses.replace(headers, forced_channels=recipe.channels)


def open_images(recipe: Recipe, reporter: Reporter | None = None, headers: ImageHeaders | None = None) -> Dataset:
    """Pack, split and measure the images of a recipe whose size is chosen; `headers` are read here unless given.

    Raises:
        UsageError: the recipe holds no validation images out, or its mean or std are not one number for each channel.
        DataError: there are too few images, or every one is broken.
        GoodfitError: no space is left.
    """
    reporter = reporter or LoggingReporter()
    headers = headers or read_image_headers(recipe, reporter)
    share = recipe.validation if isinstance(recipe.validation, float) else 0.0
    size = parse_size(recipe.size)
    aspect: Aspect = "crop" if recipe.aspect == "auto" else recipe.aspect
    rule = SplitRule(share, recipe.split_seed, drop_duplicates=recipe.duplicates == "drop")
    data = load_dataset(headers, size, aspect, rule, cache_limit(recipe), reporter=reporter)
    if not len(data.splits.validation):
        if recipe.validation == 0:
            raise UsageError(
                f'"{data.name}" has no validation images of its own, and validation = 0 takes none: give a share such as 0.15, for a model '
                "cannot be judged on the images it was trained on."
            )
        raise DataError(f'"{data.name}" has too few images to hold some out for validation: a class needs 3 good ones or more.')
    return _with_normalization(data, recipe)


def cache_limit(recipe: Recipe) -> CacheLimit:
    """How many bytes a recipe lets its prepared images take, and how it lets them be stored."""
    return CacheLimit(int(min(recipe.cache, MAX_CACHE_GB) * 1e9), recipe.storage)


def _with_normalization(data: Dataset, recipe: Recipe) -> Dataset:
    """The data with the recipe's mean and std, where those are numbers, and with the mean image if it asks for that."""
    numbers = {key: value for key in ("mean", "std") if isinstance(value := getattr(recipe, key), tuple)}
    for key, values in numbers.items():
        if len(values) != data.preprocess.channels:
            expected = count_of(data.preprocess.channels, "number")
            raise UsageError(f"Expected {key} to have {expected}, one for each channel, received {len(values)}.")
    preprocess = data.preprocess.but(**numbers)
    return dataclasses.replace(
        data, preprocess=preprocess.with_mean_image(measure_mean_image(data)) if recipe.mean == "image" else preprocess
    )


def measure_mean_image(data: Dataset) -> Tensor:
    """The mean of the center crops of the training images, float64 [C, H, W] on a scale of 0 to 1.

    Source: Krizhevsky et al. 2012; CS231n, data preprocessing (subtract the mean image).
    """
    rows, pre = data.rows("train"), data.preprocess
    total = torch.zeros(pre.channels, *pre.size, dtype=torch.int64)
    for batch in iterate_batches(data.pixels, data.labels, rows, len(data.classes), IMAGES_AT_ONCE):
        total += pre.center_crop(batch.images).sum(0)
    return total.double() / (255 * len(rows))
