"""Streamed data: headers from the indexes of shards, training images from the shards, and those that are often read from a pack."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.contracts import Sampler
from goodfit.core.errors import DataError, UsageError
from goodfit.core.files import lock
from goodfit.core.reporter import Reporter, SilentReporter
from goodfit.core.words import count_of, format_bytes
from goodfit.data.dataset import Dataset, choose_preprocess, join_dataset
from goodfit.data.duplicates import find_originals
from goodfit.data.headers import WHITE_LEVELS, ImageHeaders, check_any_usable, choose_white_level
from goodfit.data.index import NAMES_OF_FILES, Index, IntArray
from goodfit.data.labels import encode_labels
from goodfit.data.loader import EpochOrder
from goodfit.data.pack import CacheLimit, pack_images
from goodfit.data.packed import PackedImages
from goodfit.data.parquet import parse_split
from goodfit.data.pixels import FilePixels, Pixels, Rows
from goodfit.data.preprocess import Aspect, Preprocess
from goodfit.data.sampler import Shuffle
from goodfit.data.shards.parquet_records import read_parquet
from goodfit.data.shards.places import Place, Shard, find_shards
from goodfit.data.shards.records import read_tar
from goodfit.data.shards.shard_index import HASH_BYTES, Names, ShardIndex, index_path, load_index, make_index, save_index
from goodfit.data.shards.shard_order import Mixing, ShardShuffle
from goodfit.data.shards.shard_store import ShardFiles, ShardStore
from goodfit.data.splits import SplitRule, make_splits
from goodfit.data.statistics import measure_statistics
from goodfit.data.store import hash_fields

SAMPLE_IMAGES, SAMPLE_SHARDS = 4096, 32  # training images whose pixels are kept, and of how many shards they are at most


# ---- the index -----------------------------------------------------------------------------------------------------------------


def read_shard_headers(data: str, cache_bytes: int, reporter: Reporter | None = None) -> ImageHeaders:
    """Index the shards at a path or URL, or find their indexes in the cache; copies of shards take half of `cache_bytes` at most.

    Raises:
        DataError: there are no shards, they are of another layout or damaged, or every image is broken.
        GoodfitError: a shard is larger than the cache.
    """
    place = find_shards(data)
    files = ShardFiles.of(place, cache_bytes // 2)
    indexes = _index_shards(files, reporter or SilentReporter())
    starts = np.cumsum([0, *(len(index.records) for index in indexes)])
    records = np.concatenate([index.records for index in indexes])
    if not len(records):
        raise DataError(f'The shards of "{place.root}" have no images.')
    broken = {int(start) + k: reason for start, index in zip(starts, indexes, strict=False) for k, reason in index.broken.items()}
    classes, labels = _join_labels(place, indexes)
    names = [shard.name for shard in place.shards]
    splits = np.repeat(np.array([parse_split(name) for name in names], dtype=np.int8), np.diff(starts))
    store = ShardStore(files, records, starts, [index.digest for index in indexes])
    lazy_names = Names([*zip(names, (index.keys for index in indexes), strict=True)])
    index = Index(place.name, classes, labels, splits, lazy_names, store, split_source=NAMES_OF_FILES)
    check_any_usable(index, broken)
    maximum = max(index.maximum for index in indexes)
    level = choose_white_level(maximum) if maximum else WHITE_LEVELS[-1]
    widths, heights, channels, bits = (records[name] for name in ("width", "height", "channels", "bits"))
    return ImageHeaders(index, widths, heights, channels, bits, broken, level, ()).with_white_level(level)


def _index_shards(files: ShardFiles, reporter: Reporter) -> list[ShardIndex]:
    """The index of each shard, from the cache or made by threads."""
    shards = files.place.shards
    with ThreadPoolExecutor(min(len(shards), os.cpu_count() or 1), thread_name_prefix="goodfit-index") as pool:
        futures = [pool.submit(_index_shard, files, shard, reporter) for shard in shards]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                reporter.show_activity(f"indexing the shards, {done} of {len(shards)}")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in futures]


def _index_shard(files: ShardFiles, shard: Shard, reporter: Reporter) -> ShardIndex:
    path = index_path(files.place, shard)
    index = load_index(path, reporter)
    if index is None:
        with lock(path.with_suffix(".lock")):
            index = load_index(path)  # another process may have made it meanwhile
            if index is None:
                index = _read_shard(files, shard)
                save_index(path, index)
    return index


def _read_shard(files: ShardFiles, shard: Shard) -> ShardIndex:
    """Read all records of a shard: of a tar, from its file on this machine."""
    if files.place.is_tar:
        with files.ensure(shard, shard.size).open("rb") as file:
            return make_index(read_tar(file, shard.name))
    with files.place.open(shard) as file:
        classes, records = read_parquet(file, shard.path)
        return make_index(records, classes)


def _join_labels(place: Place, indexes: list[ShardIndex]) -> tuple[tuple[str, ...], IntArray]:
    """The class names of all shards, and the label of each record; that of a broken one means nothing.

    Raises:
        DataError: the shards list different class names.
    """
    listed = {index.classes for index in indexes if len(index.records)}
    if len(listed) > 1:
        raise DataError(f'The shards of "{place.root}" list different class names: give them the same list.')
    texts = list(dict.fromkeys(text for index in indexes for text in index.labels))
    classes = listed.pop() if listed else ()
    if classes:
        numbers = {text: classes.index(text) for text in texts}
    else:
        classes, labels = encode_labels(texts, f'"{place.root}"')
        numbers = dict(zip(texts, labels.tolist(), strict=True))
    by_shard = [np.array([numbers[text] for text in index.labels] or [0], dtype=np.int64)[index.records["label"]] for index in indexes]
    return classes, np.concatenate(by_shard)


# ---- the data set --------------------------------------------------------------------------------------------------------------


class StreamedPixels(FilePixels):
    """Training images from the shards; those that are `kept` [m], in ascending order of their rows, also from a pack of their own."""

    storage = "stream"

    def __init__(self, index: Index, preprocess: Preprocess, kept: IntArray, packed: Pixels, mixing: Mixing) -> None:
        assert isinstance(index.store, ShardStore)
        super().__init__(index, preprocess)
        self.store, self.mixing, self._kept, self._packed = index.store, mixing, kept, packed

    def read(self, rows: Rows) -> Tensor:
        return self._read(rows, self._packed.read)

    def read_exact(self, rows: Rows) -> Tensor:
        return self._read(rows, self._packed.read_exact)

    def read_for_training(self, rows: Tensor, places: Tensor, epoch: int) -> Tensor:
        return super().read_exact(rows)

    def _read(self, rows: Rows, read_packed: Callable[[Rows], Tensor]) -> Tensor:
        numbers = np.asarray(rows)
        places = np.searchsorted(self._kept, numbers)
        is_kept = self._kept[np.minimum(places, len(self._kept) - 1)] == numbers
        if is_kept.all():
            return read_packed(places)
        images = torch.empty(len(numbers), *self.shape[1:], dtype=torch.uint8)
        images[torch.from_numpy(is_kept)] = read_packed(places[is_kept])
        images[torch.from_numpy(~is_kept)] = super().read_exact(numbers[~is_kept])
        return images

    def _map_rows(self, function: Callable[[int, int], NDArray[np.uint8]], rows: Rows, shape: tuple[int, int, int]) -> Tensor:
        self.store.prepare(np.asarray(rows))
        return super()._map_rows(function, rows, shape)


def load_streamed_dataset(
    headers: ImageHeaders, size: tuple[int, int], aspect: Aspect, split_rule: SplitRule, cache: CacheLimit, reporter: Reporter | None = None
) -> Dataset:
    """Split and measure streamed images for a model with the input (height, width) `size`.

    Validation images and a sample of the training images, from which mean and std are taken, are packed as other data is, within half of
    the cache; training images are read from the shards.

    Raises:
        DataError: a class has no training image.
        UsageError: the cache has no room for two shards.
        GoodfitError: no space is left.
    """
    index, usable = headers.index, headers.usable
    assert isinstance(index.store, ShardStore)
    mixing = _choose_mixing(index.store, cache.n_bytes // 2)
    preprocess = choose_preprocess(headers, size, aspect)
    hashes = np.ascontiguousarray(index.store.records["hash"]).view(np.uint8).reshape(-1, HASH_BYTES)
    originals = find_originals(hashes, usable)
    splits = make_splits(index, usable, split_rule, originals)
    sample = _choose_sample(splits.train, index.store)
    kept = np.sort(np.concatenate([splits.validation, sample]))
    packed = pack_images(headers.take(kept), preprocess, CacheLimit(cache.n_bytes // 2), reporter=reporter)
    lost = {int(kept[row]): reason for row, reason in packed.broken.items()}  # whose header and whole decode, but not this size
    train, validation = (np.setdiff1d(rows, [*lost]) for rows in (splits.train, splits.validation))
    splits = dataclasses.replace(splits, train=train, validation=validation)
    sample = np.setdiff1d(sample, [*lost])
    statistics = measure_statistics(packed.sums, np.searchsorted(kept, sample), math.prod(preprocess.box))
    images = PackedImages(
        StreamedPixels(index, preprocess, kept, packed.pixels, mixing),
        hash_fields(*index.classes, *index.store.digests, *(shard.name for shard in index.store.files.place.shards)),
        {**headers.broken, **lost},
        originals,
        packed.sums,
        (*packed.notes, _describe_stream(index.store, mixing, splits.train, sample)),
    )
    return dataclasses.replace(join_dataset(headers, preprocess, images, splits, statistics), local_train=sample)


def _choose_mixing(store: ShardStore, n_bytes: int) -> Mixing:
    largest = max(store.sizes)
    if store.files.are_copies and n_bytes < 2 * largest and len(store.sizes) > 1:
        raise UsageError(
            f"Expected a cache of at least {format_bytes(4 * largest)}, so that two shards fit into half of it, received"
            f" {format_bytes(2 * n_bytes)}: give a larger --cache, or make smaller shards."
        )
    return Mixing.within(n_bytes // max(1, largest))


def _choose_sample(train: IntArray, store: ShardStore) -> IntArray:
    """Some training rows, at random from a few shards, so that not all have to be read."""
    shards = torch.from_numpy(store.shards_of(train))
    numbers = torch.unique(shards)
    chosen = numbers[Chance.of(0, numbers, "sample shards").permutation()[:SAMPLE_SHARDS]]
    rows = torch.from_numpy(train)[torch.isin(shards, chosen)]
    return rows[Chance.of(0, rows, "sample").permutation()[:SAMPLE_IMAGES].sort().values].numpy()


def _describe_stream(store: ShardStore, mixing: Mixing, train: IntArray, sample: IntArray) -> str:
    """Say what of a full shuffle is lost."""
    n = len(np.unique(store.shards_of(train)))
    at_once = min(n, mixing.shards)
    mixed = "all are mixed" if at_once == n else f"at any time the images of {at_once} of them are mixed ({len(train) * at_once // n:,})"
    note = f"Streamed from {count_of(n, 'training shard')}: each epoch shuffles the shards, and {mixed}"
    return f"{note}; mean and std are those of {count_of(len(sample), 'training image')}."


def order_epochs(data: Dataset, sampler: Sampler, batch_size: int) -> EpochOrder:
    """What orders the training images of each epoch: the sampler, or of streamed data their shards.

    Raises:
        UsageError: the sampler needs random access, which shards do not give.
    """
    pixels = data.pixels
    if not isinstance(pixels, StreamedPixels):
        return sampler
    if not isinstance(sampler, Shuffle):
        raise UsageError(f'Expected the sampler shuffle for streamed data, received "{sampler}", which reads all shards all the time.')
    shards = torch.from_numpy(pixels.store.shards_of(data.splits.train))
    return ShardShuffle(shards, batch_size, pixels.mixing, pixels.store.follow)
