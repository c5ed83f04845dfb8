"""Streamed shards: each image once an epoch in an order of seed and epoch alone, within the cache, and what is broken has a name."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from goodfit.core.chance import Chance
from goodfit.core.errors import DataError, UsageError
from goodfit.core.ranks import Ranks
from goodfit.core.reporter import SilentReporter
from goodfit.data.dataset import Dataset
from goodfit.data.loader import Loader
from goodfit.data.sampler import Balanced, Shuffle
from goodfit.data.shards import shard_cache
from goodfit.data.shards.places import Place, find_shards
from goodfit.data.shards.shard_cache import ShardCache
from goodfit.data.shards.shard_order import Mixing, ShardShuffle
from goodfit.data.shards.shard_store import ShardStore
from goodfit.data.shards.streamed import StreamedPixels, order_epochs
from goodfit.data.sources import index_images
from goodfit.recipe.recipe import Recipe
from goodfit.recipe.source import read_image_headers
from tests.support.data_files import png, write_parquet
from tests.support.photos import COLORS, picture
from tests.support.process import Forked
from tests.support.shards import NAMES, make_shards, numbers_of, open_stream, record, records, tar_of


def loader_of(data: Dataset, seed: int = 0, workers: int = 0, batch_size: int = 32) -> Loader:
    order = order_epochs(data, Shuffle(), batch_size)
    return Loader(data.pixels, data.labels, data.rows("train"), len(data.classes), batch_size, seed, workers, order)


def shuffle(sizes: list[int], batch_size: int, mixing: Mixing, told: list[Any] | None = None) -> ShardShuffle:
    shards = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return ShardShuffle(shards, batch_size, mixing, ([] if told is None else told).append)


def epoch_of(order: ShardShuffle, epoch: int, seed: int = 0) -> torch.Tensor:
    n = len(order.shards)
    return order(torch.zeros(n, dtype=torch.long), Chance.of(seed, torch.arange(n), "order", epoch))


# ---- the order -----------------------------------------------------------------------------------------------------------------

ORDERS = [
    ([50] * 20, 32, Mixing(4, 1)), ([7, 1, 90, 3, 33, 12], 16, Mixing(8, 4)), ([100] * 3, 30, Mixing(2, 2)), ([5], 2, Mixing(1, 1)),
    ([2, 1], 2, Mixing(8, 4)),
    ([400, 10] * 12, 128, Mixing(8, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "batch_size", "mixing"), ORDERS)
def test_each_image_once_an_epoch_in_an_order_of_its_own(sizes: list[int], batch_size: int, mixing: Mixing) -> None:
    order, n = shuffle(sizes, batch_size, mixing), sum(sizes)
    first, second = epoch_of(order, 0), epoch_of(order, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == [*range(n)]
    assert torch.equal(first, epoch_of(shuffle(sizes, batch_size, mixing), 0))
    if n > 5:
        assert not torch.equal(first, second) and not torch.equal(first, epoch_of(order, 0, seed=1))


@pytest.mark.parametrize(("lanes", "window"), [(1, 1), (2, 2), (4, 1), (8, 2)])
def test_few_shards_are_open_at_a_time_and_their_images_are_mixed(lanes: int, window: int) -> None:
    """Of 64 shards of 40 images: those between their first and last image, and the ones that are told to follow them."""
    told: list[dict[int, tuple[int, ...]]] = []
    order = shuffle([40] * 64, 32, Mixing(lanes, window), told)
    shards = order.shards[epoch_of(order, 3)].tolist()
    first, last = {}, {}
    for place, shard in enumerate(shards):
        first.setdefault(shard, place)
        last[shard] = place
    for place in range(0, len(shards), 32):
        open_now = {shard for shard in first if first[shard] <= place <= last[shard]}
        needed = open_now | {after for shard in open_now for after in told[0][shard]}
        assert len(open_now) <= lanes * (window + 1), "in a step a lane may leave a window and enter the next"
        assert len(needed) <= 2 * lanes * window + lanes
    followers = set(itertools.chain.from_iterable(told[0].values()))
    assert len(followers) >= 64 - lanes * window, "all but the first of each lane follow others"
    heads = [{*[*dict.fromkeys(order.shards[epoch_of(order, epoch)].tolist())][: 2 * lanes]} for epoch in (3, 4)]
    assert heads[0] != heads[1], "each epoch begins with shards of its own"
    mixed = np.mean([len(set(shards[start : start + 32])) for start in range(0, len(shards), 32)])
    assert mixed >= 0.8 * lanes * window, "a batch has images of all shards that are open"


@pytest.mark.parametrize("size", [2, 4, 8])
def test_ranks_read_the_shards_of_their_own_lanes(size: int) -> None:
    """With whole shards in each lane no shard is read by two ranks, and the order is that of one rank."""
    order, batch_size = shuffle([32] * 32, 128, Mixing(8, 1)), 128
    shards = order.shards[epoch_of(order, 0)]
    by_rank: list[set[int]] = []
    for rank in range(size):
        rows = Ranks(rank, size).share(slice(0, batch_size)).rows
        by_rank.append({shard for batch in shards.split(batch_size) for shard in batch[rows].tolist()})
    assert sum(map(len, by_rank)) == len(set().union(*by_rank)) == 32


def test_mixing_stays_within_the_slots() -> None:
    for slots in range(2, 200):
        mixing = Mixing.within(slots)
        assert 2 * mixing.lanes * mixing.window <= slots
    assert Mixing.within(16) == Mixing(8, 1) and Mixing.within(1) == Mixing(1, 1)


# ---- what is read --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cls", "json"])
def test_records_are_read_with_their_labels(tmp_path: Path, form: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    (tmp_path / "train" / "a.tar").write_bytes(tar_of(records(range(30), form)))
    (tmp_path / "val" / "b.tar").write_bytes(tar_of(records(range(30, 42), form)))
    data = open_stream(tmp_path)
    assert data.classes == tuple(NAMES)
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [30, 12, 0]
    assert data.labels.tolist() == [NAMES.index(NAMES[number % 3]) for number in range(42)]
    assert data.names[31] == "val/b.tar/000031" and [*data.names][31] == data.names[31] and len(data.names) == 42
    assert numbers_of(data.pixels.read_exact(torch.tensor([41, 3, 30])).numpy()) == [41, 3, 30]
    assert data.store.read(7) == record(7)["000007.png"]


def test_numbers_as_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    forms = [lambda k: (f"{k}.cls", f" {k % 11}\n".encode()), lambda k: (f"{k}.json", json.dumps(k % 11).encode())]
    for name, form in zip("ab", forms, strict=True):
        pairs = (((f"{k}.png", png(picture((k, 0, 0), k))), form(k)) for k in range(44))
        (tmp_path / f"{name}.tar").write_bytes(tar_of(dict(itertools.chain.from_iterable(pairs))))
    data = open_stream(tmp_path)
    assert data.classes == tuple(map(str, range(11)))
    assert data.labels.tolist() == [k % 11 for k in range(44)] * 2


def test_parquet_is_streamed_as_it_is_packed(tmp_path: Path) -> None:
    for k in range(3):
        images = [picture(COLORS[NAMES[number % 3]], number, 20) for number in range(k * 30, (k + 1) * 30)]
        write_parquet(tmp_path / f"{k}.parquet", images, [number % 3 for number in range(30)], ["rot", "grün", "blau"])
    index, data = index_images(str(tmp_path)), open_stream(tmp_path, storage="stream")
    assert (data.classes, [*data.names], data.labels.tolist()) == (index.classes, index.names, index.labels.tolist())
    assert [data.store.read(row) for row in range(90)] == [*index.store.read_many(range(90))]
    batch = loader_of(data).batch(1)
    assert numbers_of(batch.images.permute(0, 2, 3, 1).numpy()) == batch.ids.tolist()


def test_parquet_beyond_the_cache_is_streamed(tmp_path: Path) -> None:
    """Ninety noisy images of 1.2 KB as pixels, of which JPEG takes about as many."""
    for k in range(9):
        images = [picture(COLORS[NAMES[number % 3]], number, 20) for number in range(k * 10, (k + 1) * 10)]
        write_parquet(tmp_path / f"{k}.parquet", images, [number % 3 for number in range(k * 10, (k + 1) * 10)])
    assert open_stream(tmp_path).pixels.storage == "raw"
    data = open_stream(tmp_path, cache=60e-6)
    assert data.pixels.storage == "stream" and data.labels.tolist() == [number % 3 for number in range(90)]


def test_statistics_are_those_of_the_training_images(tmp_path: Path) -> None:
    make_shards(tmp_path)
    data = open_stream(tmp_path)
    images = data.pixels.read_exact(data.rows("train")).double() / 255
    assert np.allclose(data.statistics.mean, images.mean((0, 1, 2)), atol=1e-12)
    assert np.allclose(data.statistics.std, images.std((0, 1, 2), correction=0), atol=1e-9)
    assert len(data.local_rows("train")) == len(data.rows("train")) and len(data.local_rows("validation")) == len(data.rows("validation"))


def test_the_sample_is_of_training_images_of_a_few_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path)
    monkeypatch.setattr("goodfit.data.shards.streamed.SAMPLE_IMAGES", 15)
    monkeypatch.setattr("goodfit.data.shards.streamed.SAMPLE_SHARDS", 2)
    data = open_stream(tmp_path)
    local = data.local_rows("train")
    assert len(local) == 15 and set(local.tolist()) <= set(data.rows("train").tolist())
    assert len(set((local // 30).tolist())) == 2
    assert set(data.spread_rows("train", 9).tolist()) <= set(local.tolist())
    images = data.pixels.read_exact(local).double() / 255
    assert np.allclose(data.statistics.mean, images.mean((0, 1, 2)), atol=1e-12)
    assert "mean and std are those of 15 training images" in " ".join(data.notes)


def test_validation_is_never_in_training_and_duplicates_are_of_one_split(tmp_path: Path) -> None:
    """Every image stands in two shards."""
    for name in "ab":
        renamed = {f"{name}{key}": content for key, content in records(range(90)).items()}
        (tmp_path / f"{name}.tar").write_bytes(tar_of(renamed))
    data = open_stream(tmp_path)
    held_out = {split: {data.store.read(row) for row in data.rows(split).tolist()} for split in ("train", "validation", "test")}
    assert all(held_out.values()) and not any(a & b for a, b in itertools.combinations(held_out.values(), 2))
    assert data.splits.leaked == 0 and "90 images are duplicates" in " ".join(data.notes)
    seen = torch.cat([loader_of(data).batch(step).ids for step in range(loader_of(data).epoch_steps)]).tolist()
    assert sorted(seen) == data.rows("train").tolist()
    assert open_stream(tmp_path).splits.digest == data.splits.digest


def test_any_step_is_reached_without_those_before(tmp_path: Path) -> None:
    make_shards(tmp_path)
    data = open_stream(tmp_path)
    stream = loader_of(data, workers=2).stream()
    batches = [next(stream) for _ in range(2 * loader_of(data).epoch_steps)]
    stream.close()
    for step in (len(batches) - 2, 3):
        alone = loader_of(open_stream(tmp_path)).batch(step)
        assert torch.equal(alone.ids, batches[step].ids) and torch.equal(alone.images, batches[step].images)
        assert alone.chance is not None and batches[step].chance is not None
        assert torch.equal(alone.chance.bits(), batches[step].chance.bits())


# ---- what is broken ------------------------------------------------------------------------------------------------------------


def test_broken_records_are_named_and_left_out(tmp_path: Path) -> None:
    good = make_shards(tmp_path, shards=1, each=60)["0.tar"]
    image, (_, label) = record(0)["000000.png"], [*record(0)][0:2]
    assert good and label
    bad = {
        "cut.png": image[:200], "cut.cls": b"red", "text.png": b"no image", "text.cls": b"red", "unlabeled.png": image,
        "blank.png": image, "blank.cls": b" ", "odd.png": image, "odd.json": b"[1, 2]", "torn.png": image, "torn.json": b'{"label": "re',
        "alone.cls": b"red", "two.png": image, "two.jpg": image, "two.cls": b"red", "README.txt": b"of no record", "good.png": image,
        "good.cls": b"red",
    }  # fmt: skip
    (tmp_path / "1.tar").write_bytes(tar_of(bad))
    data = open_stream(tmp_path)
    reasons = {name.removeprefix("1.tar/"): reason for name, reason in data.broken.items()}
    assert read_image_headers(Recipe(data=str(tmp_path)), SilentReporter()).broken.keys() == {*map([*data.names].index, data.broken)}
    assert reasons.keys() == {"cut", "text", "unlabeled", "blank", "odd", "torn", "alone", "two"}
    assert reasons["unlabeled"] == reasons["blank"] == "it has no label" and reasons["alone"] == "it has no image"
    assert "2 images" in reasons["two"] and "label cannot be read" in reasons["torn"] and "one name or number" in reasons["odd"]
    used = torch.cat([data.rows(split) for split in ("train", "validation", "test")]).tolist()
    assert {data.names[row] for row in used} == {f"0.tar/{k:06d}" for k in range(60)} | {"1.tar/good"}
    assert any("8 broken images left out" in note for note in data.notes)
    assert data.classes == tuple(NAMES)


@pytest.mark.parametrize("cut", ["image", "label", "header", "end"])
def test_a_torn_tar_is_named_and_what_is_whole_is_read(tmp_path: Path, cut: str) -> None:
    content = make_shards(tmp_path, shards=2, each=30)["1.tar"]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        places = {member.name: member for member in archive.getmembers()}
    end = {
        "image": places["000050.png"].offset_data + 100, "label": places["000050.cls"].offset_data + 2,
        "header": places["000050.cls"].offset + 100, "end": places["000050.png"].offset,
    }  # fmt: skip
    (tmp_path / "1.tar").write_bytes(content[: end[cut]])
    data = open_stream(tmp_path)
    used = {data.names[row] for split in ("train", "validation", "test") for row in data.rows(split).tolist()}
    assert used == {f"{k // 30}.tar/{k:06d}" for k in range(50)}
    assert all(name.startswith("1.tar/") for name in data.broken) and any("torn" in reason for reason in data.broken.values())


def test_damage_within_a_tar_is_named(tmp_path: Path) -> None:
    content = bytearray(make_shards(tmp_path, shards=2, each=30)["1.tar"])
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as archive:
        place = archive.getmember("000040.png").offset
    content[place : place + 100] = b"\xff" * 100
    (tmp_path / "1.tar").write_bytes(content)
    data = open_stream(tmp_path)
    assert [*data.broken.values()] == ["the shard is torn: it ends here"] and "000039" in next(iter(data.broken))
    assert sum(len(data.rows(split)) for split in ("train", "validation", "test")) == 40


def refusal(data: Path | str, **changes: Any) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        open_stream(data, **changes)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_other_layouts_are_refused_in_a_sentence(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "classes.tar": (tar_of({"cat/1.png": record(0)["000000.png"], "dog/2.png": record(1)["000001.png"]}), "cat/1, dog/2 without one"),
        "empty.tar": (tar_of({}), "have no images"),
        "text.tar": (b"not a tar at all" * 100, "is no tar"),
        "gzip.tar": (__import__("gzip").compress(tar_of(records(range(3)))), "compressed"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert words in refusal(tmp_path / name), name
    (tmp_path / "none").mkdir()
    assert "found none" in refusal(tmp_path / "none", storage="stream")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.tar").write_bytes(tar_of(records(range(30))))
    write_parquet(tmp_path / "mixed" / "b.parquet", [picture((0, 0, 0), 0)], [0])
    assert "of one kind" in refusal(tmp_path / "mixed", storage="stream")


def test_what_streams_do_not_have_is_refused(tmp_path: Path) -> None:
    make_shards(tmp_path)
    assert "--limit 0" in refusal(tmp_path, limit=3)
    assert "--storage auto" in refusal(tmp_path, storage="raw")
    assert "--task classes" in refusal(tmp_path, task="labels")
    with pytest.raises(UsageError, match="sampler shuffle"):
        order_epochs(open_stream(tmp_path), Balanced(), 32)
    with pytest.raises(DataError, match="streamed"):
        index_images("memory://nothing")


def test_a_folder_of_images_with_an_archive_is_no_stream(photos: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "photos.tar").write_bytes(tar_of(records(range(3))))
    headers = read_image_headers(Recipe(data=str(tmp_path / "photos")), SilentReporter())
    assert len(headers.index) == 90 and headers.index.classes == tuple(NAMES)


# ---- copies in the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, bytes]]:
    """Twelve shards in fsspec's memory, and an empty cache."""
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    contents = make_shards(tmp_path / "shards", shards=12, each=30)
    for name, content in contents.items():
        system.pipe(f"/shards/{name}", content)
    yield "memory://shards", contents
    system.rm("/shards", recursive=True)


def gigabytes_for(shards: float, contents: dict[str, bytes]) -> float:
    """The --cache of which copies of so many shards take half."""
    return 2 * shards * max(map(len, contents.values())) / 1e9


@pytest.mark.parametrize("workers", [0, 3])
def test_copies_never_take_more_than_the_cache(
    remote: tuple[str, dict[str, bytes]], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, contents = remote
    folder, counts, opened = tmp_path / "cache" / "shards", [], Counter()
    before, open_shard = ShardCache._reserve, Place.open

    def reserve(self: ShardCache, partial: Path, size: int) -> None:
        before(self, partial, size)
        sizes = [file.stat().st_size for file in folder.iterdir() if file.is_file()]
        counts.append(len(sizes))
        assert sum(sizes) <= self.limit

    def count(self: Place, shard: Any) -> Any:
        opened[shard.name] += 1
        return open_shard(self, shard)

    def fetch_at_once(self: ShardStore, shards: list[int]) -> None:
        for number in shards:
            self._copy(number)

    if not workers:  # in turn, so that what is copied does not depend on which thread comes first
        monkeypatch.setattr(ShardStore, "_fetch", fetch_at_once)
    monkeypatch.setattr(shard_cache, "SECONDS_BETWEEN_MARKS", 0.0)
    monkeypatch.setattr(ShardCache, "_reserve", reserve)
    monkeypatch.setattr(Place, "open", count)
    data = open_stream(url, cache=gigabytes_for(4.5, contents), validation=0.1)
    assert isinstance(data.pixels, StreamedPixels) and data.pixels.mixing == Mixing(2, 1)
    local = open_stream(tmp_path / "shards", cache=gigabytes_for(4.5, contents), validation=0.1)
    opened.clear()
    remote_loader, local_loader = loader_of(data, workers=workers, batch_size=4), loader_of(local, batch_size=4)
    for step, batch in zip(range(2 * remote_loader.epoch_steps), remote_loader.stream(), strict=False):
        expected = local_loader.batch(step)
        assert torch.equal(batch.ids, expected.ids) and torch.equal(batch.images, expected.images)
    assert max(counts) == 4
    if not workers:
        assert sum(opened.values()) <= 2 * 13, "once an epoch, but for the shard that two lanes share"
    assert data.digest == local.digest and data.splits.digest == local.splits.digest


def test_a_single_image_is_read_without_its_shard(remote: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, contents = remote
    data = open_stream(url, cache=gigabytes_for(20, contents))
    copies = tmp_path / "cache" / "shards"
    for file in copies.glob("*.shard"):
        file.unlink()
    alone = open_stream(url, cache=gigabytes_for(20, contents)).store
    assert alone.read(77) == record(77)["000077.png"] and not [*copies.glob("*.shard")]
    assert [*alone.read_many([77, 78])] == [record(k)[f"{k:06d}.png"] for k in (77, 78)] and len([*copies.glob("*.shard")]) == 1
    assert numbers_of(data.pixels.read_for_training(torch.tensor([200]), torch.tensor([0]), 0).numpy()) == [200]
    assert len([*copies.glob("*.shard")]) == 2


def test_parquet_at_a_url(remote: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    for k in range(3):
        images = [picture(COLORS[NAMES[number % 3]], number, 20) for number in range(k * 30, (k + 1) * 30)]
        write_parquet(tmp_path / f"{k}.parquet", images, [NAMES[number % 3] for number in range(30)])
        system.pipe(f"/tables/{k}.parquet", (tmp_path / f"{k}.parquet").read_bytes())
    data = open_stream("memory://tables")
    batch = loader_of(data).batch(1)
    assert numbers_of(batch.images.permute(0, 2, 3, 1).numpy()) == batch.ids.tolist()
    assert data.names[35] == "1.parquet#5" and data.classes == tuple(NAMES)


def test_a_cache_too_small_for_two_shards_is_refused(remote: tuple[str, dict[str, bytes]]) -> None:
    url, contents = remote
    assert "so that two shards fit" in refusal(url, cache=gigabytes_for(1.5, contents))


def test_a_damaged_copy_is_copied_again(remote: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, contents = remote
    data = open_stream(url, cache=gigabytes_for(20, contents))
    for file in (tmp_path / "cache" / "shards").glob("*.shard"):
        file.write_bytes(file.read_bytes()[:-5000].replace(b"IDAT", b"XXXX"))
    assert [data.store.read(row) for row in range(360)] == [record(k)[f"{k:06d}.png"] for k in range(360)]


def test_a_shard_that_changes_is_noticed(remote: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, contents = remote
    data = open_stream(url, cache=gigabytes_for(20, contents))
    changed = tar_of(records(range(200, 230)))
    fsspec.filesystem("memory").pipe("/shards/3.tar", changed)
    data.store.files.remove(data.store.files.place.shards[3])
    with pytest.raises(DataError, match=r'"3.tar".*has changed since it was indexed'):
        data.store.read(95)
    again = open_stream(url, cache=gigabytes_for(20, contents))
    assert again.digest != data.digest and again.store.read(95) == record(205)["000205.png"]


def test_a_local_shard_that_changes_is_noticed(tmp_path: Path) -> None:
    make_shards(tmp_path)
    data = open_stream(tmp_path)
    (tmp_path / "3.tar").write_bytes(tar_of(records(range(200, 230))))
    with pytest.raises(DataError, match=r'"3.tar".*has changed since it was indexed'):
        data.store.read(95)
    assert open_stream(tmp_path).digest != data.digest
    (tmp_path / "3.tar").write_bytes(tar_of(records(range(90, 120))))
    assert open_stream(tmp_path).digest == data.digest, "the content is as it was, if not the time"


def read_all(folder: Path, url: str, cache: float) -> None:
    loader = loader_of(open_stream(url, cache=cache))
    for step in range(2 * loader.epoch_steps):
        batch = loader.batch(step)
        assert numbers_of(batch.images.permute(0, 2, 3, 1).numpy()) == batch.ids.tolist()
    (folder / "done").touch()


def test_two_processes_share_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through local://, which fsspec reads as it does a bucket."""
    monkeypatch.setenv("GOODFIT_CACHE", str(tmp_path / "cache"))
    contents = make_shards(tmp_path / "shards", shards=8, each=30)
    cache = gigabytes_for(4.5, contents)
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [Forked(folder, read_all, folder, f"local://{tmp_path}/shards", cache) for folder in folders]
    for process, folder in zip(processes, folders, strict=True):
        assert process.wait() == 0 and (folder / "done").exists(), process.err
    sizes = [file.stat().st_size for file in (tmp_path / "cache" / "shards").iterdir() if file.is_file()]
    assert sum(sizes) <= cache * 1e9 / 2


def test_writers_wait_for_each_other_where_both_do_not_fit(tmp_path: Path) -> None:
    """Eight threads write shards of which three fit, and are slow."""
    cache, sizes = ShardCache(tmp_path, 100), []

    def pieces() -> Any:
        for _ in range(3):
            time.sleep(0.01)
            with cache._room():
                sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir() if file.is_file()))
            yield bytes(10)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(cache.ensure, f"{k}", 30, pieces) for k in range(8)]:
            future.result()
    assert 30 < max(sizes) <= 100


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100)
    with pytest.raises(KeyboardInterrupt):
        cache.ensure("a", 60, interrupted)
    assert [file for file in tmp_path.iterdir() if file.is_file()] == []
    dead = tmp_path / f".b.here.1.{os.getpid()}.partial"  # another process may have its number now, as in a container that starts again
    dead.write_bytes(bytes(90))
    assert ShardCache(tmp_path, 100).ensure("a", 60, lambda: [bytes(30), bytes(30)]).read_bytes() == bytes(60)
    assert not dead.exists()


def interrupted() -> Any:
    yield bytes(30)
    raise KeyboardInterrupt


def test_the_oldest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "SECONDS_BETWEEN_MARKS", 0.0)
    cache = ShardCache(tmp_path, 100)
    pieces: Callable[[], list[bytes]] = lambda: [bytes(30)]  # noqa: E731
    for name in ("a", "b", "c", "a", "d"):
        cache.ensure(name, 30, pieces)
    assert sorted(file.stem for file in tmp_path.glob("*.shard")) == ["a", "c", "d"]


# ---- places --------------------------------------------------------------------------------------------------------------------


def test_shards_are_found_by_folder_file_pattern_and_url(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", shards=3)
    (tmp_path / "data" / ".hidden.tar").write_bytes(b"")
    for data, names in {
        str(tmp_path / "data"): ["0.tar", "1.tar", "2.tar"], str(tmp_path / "data" / "1.tar"): ["1.tar"],
        str(tmp_path / "data" / "[01].tar"): ["0.tar", "1.tar"], f"file://{tmp_path}/data": ["0.tar", "1.tar", "2.tar"],
        f"local://{tmp_path}/data/*.tar": ["0.tar", "1.tar", "2.tar"], f"local://{tmp_path}/data/2.tar": ["2.tar"],
    }.items():  # fmt: skip
        assert [shard.name for shard in find_shards(data).shards] == names, data


def test_without_fsspec_a_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert 'pip install "goodfit[stream]"' in refusal("memory://shards")


def test_a_url_that_cannot_be_read_is_named() -> None:
    assert "cannot be read" in refusal("github://")
    assert "cannot be read" in refusal("nosuchsystem://bucket/shards")
