"""The images of a recipe, opened in the same way for training and for evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from goodfit.core.errors import DataError, UsageError
from goodfit.core.reporter import Reporter
from goodfit.core.settings import parse_size
from goodfit.core.words import count_of
from goodfit.data.dataset import Dataset, choose_preprocess, load_dataset
from goodfit.data.headers import ImageHeaders, read_headers
from goodfit.data.index import Index
from goodfit.data.loader import iterate_batches
from goodfit.data.pack import CacheLimit, choose_storage
from goodfit.data.parquet import ParquetStore
from goodfit.data.preprocess import Aspect, Preprocess
from goodfit.data.shards.places import is_always_streamed
from goodfit.data.shards.streamed import load_streamed_dataset, read_shard_headers
from goodfit.data.sources import check_trainable, index_images
from goodfit.data.splits import SplitRule, assign_splits
from goodfit.data.table_targets import TargetSpec
from goodfit.recipe.recipe import Recipe
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
    if recipe.targets and recipe.task == "classes":
        raise UsageError("Expected --task labels or --task numbers beside --targets, which names their columns, received --task classes.")
    if isinstance(recipe.validation, str) and not Path(recipe.validation).is_file():
        raise UsageError(f'Expected validation to be a share from 0 to 1 or a CSV file, found no file "{recipe.validation}".')
    headers = _read_streamed(recipe, reporter) if is_streamed(recipe) else _read_indexed(recipe, reporter)
    if recipe.white_level != "auto":
        headers = headers.with_white_level(recipe.white_level)
    return headers if recipe.channels == "auto" else dataclasses.replace(headers, forced_channels=recipe.channels)


def is_streamed(recipe: Recipe) -> bool:
    """Whether the images of a recipe are read shard by shard: where it says so, and where they can be read in no other way."""
    return recipe.storage == "stream" or is_always_streamed(recipe.data)


def _read_indexed(recipe: Recipe, reporter: Reporter) -> ImageHeaders:
    index = index_images(recipe.data, recipe.limit, recipe.split_seed, reporter.say, TargetSpec(recipe.task, recipe.targets))
    return read_headers(_with_listed_splits(index, recipe), reporter=reporter)


def _read_streamed(recipe: Recipe, reporter: Reporter) -> ImageHeaders:
    """Index the shards of a recipe.

    Raises:
        UsageError: it asks for what streamed data does not have: another task than classes, a limit, or another storage.
        DataError: as `read_image_headers`.
    """
    for option, value, expected in (
        ("--task", recipe.task, "classes"), ("--limit", recipe.limit, 0), ("--storage", recipe.storage.replace("stream", "auto"), "auto"),
    ):  # fmt: skip
        if value != expected:
            raise UsageError(f"Expected {option} {expected} for shards, which are streamed, received {value}.")
    headers = read_shard_headers(recipe.data, cache_limit(recipe).n_bytes, reporter)
    headers = dataclasses.replace(headers, index=_with_listed_splits(headers.index, recipe))
    check_trainable(headers.index, recipe.data)
    return headers


def _exceeds_cache(recipe: Recipe, headers: ImageHeaders, preprocess: Preprocess, reporter: Reporter) -> bool:
    """Whether images of parquet files do not fit into the cache in any form, so that their files are streamed."""
    may_stream = isinstance(headers.index.store, ParquetStore) and recipe.storage == "auto" and recipe.task == "classes"
    return may_stream and choose_storage(headers, preprocess, cache_limit(recipe), reporter)[0] == "files"


def _with_listed_splits(index: Index, recipe: Recipe) -> Index:
    """The index with the splits of the recipe's validation file, if it names one."""
    return assign_splits(index, Path(recipe.validation)) if isinstance(recipe.validation, str) else index


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
    if is_streamed(recipe) or _exceeds_cache(recipe, headers, choose_preprocess(headers, size, aspect), reporter):
        headers = headers if is_streamed(recipe) else _read_streamed(recipe, reporter)
        data = load_streamed_dataset(headers, size, aspect, rule, cache_limit(recipe), reporter)
    else:
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
    rows, pre = data.local_rows("train"), data.preprocess
    total = torch.zeros(pre.channels, *pre.size, dtype=torch.int64)
    for batch in iterate_batches(data.pixels, data.labels, rows, len(data.classes), IMAGES_AT_ONCE):
        total += pre.center_crop(batch.images).sum(0)
    return total.double() / (255 * len(rows))
