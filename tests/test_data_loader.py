"""Splits, statistics and batches: stable, exact, and the same for any number of workers."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from goodfit.core.chance import Chance
from goodfit.core.errors import DataError
from goodfit.data.index import TEST, TRAIN, UNASSIGNED, VALIDATION, Index
from goodfit.data.loader import Loader, iterate_batches
from goodfit.data.pixels import Pixels, RawPixels
from goodfit.data.preprocess import Preprocess
from goodfit.data.sampler import Shuffle
from goodfit.data.sources import index_images
from goodfit.data.splits import SplitRule, assign_splits, make_splits, write_splits
from goodfit.data.statistics import measure_statistics, sum_images
from goodfit.data.store import ArrayStore

RNG = np.random.default_rng(0)


def make_index(labels: list[int], splits: list[int] | None = None, names: list[str] | None = None) -> Index:
    n = len(labels)
    return Index(
        "x",
        tuple("abcdefgh"[: max(labels) + 1]),
        np.array(labels, dtype=np.int64),
        np.array(splits if splits is not None else [UNASSIGNED] * n, dtype=np.int8),
        names or [f"{k}.png" for k in range(n)],
        ArrayStore(lambda: np.zeros((n, 4, 4), np.uint8), "x"),
    )


def names_of(index: Index, rows: np.ndarray) -> set[str]:
    return {index.names[row] for row in rows}


# ---- splits --------------------------------------------------------------------------------------------------------------------


def test_made_splits_are_stratified_disjoint_and_seeded() -> None:
    index = make_index([k % 3 for k in range(300)])
    good = np.ones(300, dtype=bool)
    good[7] = False
    made = make_splits(index, good, SplitRule(0.1, 5))
    rows = np.concatenate([made.train, made.validation, made.test])
    assert sorted(rows.tolist()) == [k for k in range(300) if k != 7]
    assert np.bincount(index.labels[made.test]).tolist() == [20, 20, 20]
    assert np.bincount(index.labels[made.validation]).tolist() == [8, 8, 8]
    assert len(made.notes) == 2 and "20 %" in made.notes[0] and "10 %" in made.notes[1]
    same, other = make_splits(index, good, SplitRule(0.1, 5)), make_splits(index, good, SplitRule(0.1, 6))
    assert same.digest == made.digest and np.array_equal(same.test, made.test)
    assert other.digest != made.digest
    overlap = len(set(other.test) & set(made.test))
    assert overlap < 30  # 12 are expected by chance


def test_one_more_image_moves_at_most_one_other_a_class() -> None:
    labels, names = [k % 3 for k in range(300)], [f"{k}.png" for k in range(300)]
    before_index, after_index = make_index(labels, names=names), make_index([1, *labels], names=["new.png", *names])
    before = make_splits(before_index, np.ones(300, bool), SplitRule(0.1, 0))
    after = make_splits(after_index, np.ones(301, bool), SplitRule(0.1, 0))
    for part in ("train", "validation", "test"):
        gone = names_of(before_index, getattr(before, part)) - names_of(after_index, getattr(after, part))
        assert len(gone) <= 2


def test_given_splits_are_kept() -> None:
    given = [TRAIN] * 20 + [VALIDATION] * 4 + [TEST] * 4
    index = make_index([k % 2 for k in range(28)], given)
    made = make_splits(index, np.ones(28, bool), SplitRule(0.1, 0))
    assert made.train.tolist() == list(range(20)) and made.test.tolist() == list(range(24, 28)) and not made.notes
    only_test = make_index([k % 2 for k in range(28)], [TRAIN] * 24 + [TEST] * 4)
    made = make_splits(only_test, np.ones(28, bool), SplitRule(0.25, 0))
    assert made.test.tolist() == list(range(24, 28)) and len(made.validation) == 6 and len(made.notes) == 1
    assert len(make_splits(only_test, np.ones(28, bool), SplitRule(0.0, 0)).validation) == 0
    only_validation = make_index([k % 2 for k in range(28)], [TRAIN] * 24 + [VALIDATION] * 4)
    assert len(make_splits(only_validation, np.ones(28, bool), SplitRule(0.25, 0)).test) == 0


def test_small_classes() -> None:
    index = make_index([0] * 20 + [1] * 2 + [2])
    made = make_splits(index, np.ones(23, bool), SplitRule(0.1, 0))
    assert np.bincount(index.labels[made.train], minlength=3).tolist() == [14, 1, 1]
    assert np.bincount(index.labels[made.test], minlength=3).tolist() == [4, 1, 0]
    assert any("Too few" in text and "c" in text for text in made.notes)
    good = np.ones(23, bool)
    good[22] = False
    with pytest.raises(DataError, match="No training image is left for c"):
        make_splits(index, good, SplitRule(0.1, 0))


def test_splits_are_written_and_read(tmp_path: Path, photos: Path) -> None:
    index = index_images(str(photos))
    made = make_splits(index, np.ones(90, bool), SplitRule(0.1, 0))
    write_splits(tmp_path / "splits.csv", index, made)
    again = make_splits(assign_splits(index, tmp_path / "splits.csv"), np.ones(90, bool), SplitRule(0.1, 99))
    assert again.digest == made.digest and not again.notes
    (tmp_path / "bad.csv").write_text("path,split\nnone.png,test\n")
    with pytest.raises(DataError, match="names none"):
        assign_splits(index, tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("path,split\nred/000.png,exam\n")
    with pytest.raises(DataError, match="exam"):
        assign_splits(index, tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="path and split"):
        assign_splits(index, tmp_path / "bad.csv")


def test_a_file_of_splits_moves_only_what_it_names(tmp_path: Path) -> None:
    index = make_index([0, 1] * 6, [TRAIN] * 6 + [TEST] * 4 + [UNASSIGNED] * 2)
    (tmp_path / "held.csv").write_text("path,split\n0.png,val\n1.png,validation\n3.png,\nelsewhere.png,test\n")
    found = assign_splits(index, tmp_path / "held.csv")
    assert found.splits.tolist() == [VALIDATION] * 2 + [TRAIN] * 4 + [TEST] * 4 + [TRAIN] * 2
    assert len(found.notes) == 1 and "2 of 12 images" in found.notes[0] and "keep their split" in found.notes[0]
    made = make_splits(found, np.ones(12, bool), SplitRule(0.5, 0))
    assert made.test.tolist() == [6, 7, 8, 9] and made.validation.tolist() == [0, 1] and not made.notes


# ---- statistics ----------------------------------------------------------------------------------------------------------------


def write_raw(path: Path, n: int, channels: int) -> RawPixels:
    images = RNG.integers(0, 256, (n, 9, 7, channels), dtype=np.uint8)
    images[..., 0] //= 2
    images.tofile(path)
    return RawPixels(path, images.shape)


@pytest.mark.item("S007")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_statistics_are_numpys_of_the_training_rows(channels: int) -> None:
    images = RNG.integers(0, 256, (40, 9, 7, channels), dtype=np.uint8)
    images[..., 0] //= 2
    rows = np.array([k for k in range(40) if k % 3])
    values = images[rows].reshape(-1, channels).astype(np.float64) / 255
    found = measure_statistics(np.concatenate([sum_images(piece) for piece in np.split(images, [7, 8, 30])]), rows, 9 * 7)
    assert np.allclose(found.mean, values.mean(axis=0), atol=1e-13)
    assert np.allclose(found.std, values.std(axis=0), atol=1e-13)
    assert np.allclose(found.covariance, np.cov(values.T, bias=True).reshape(channels, channels), atol=1e-13)
    normalized = Preprocess((9, 7), (9, 7), channels, mean=found.mean, std=found.std).normalize(
        torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
    )
    assert normalized.double().mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert (normalized.double().std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_sums_of_a_white_image_are_exact() -> None:
    white = np.full((1, 1000, 1001, 3), 255, dtype=np.uint8)
    assert sum_images(white).tolist() == [[255 * 1_001_000] * 3 + [255**2 * 1_001_000] * 6]


# ---- batches -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pixels(tmp_path: Path) -> RawPixels:
    return write_raw(tmp_path / "pixels", 50, 3)


@pytest.mark.parametrize(
    ("n", "batch", "sizes"), [(9, 4, [4, 5]), (9, 8, [9]), (10, 4, [4, 4, 2]), (3, 2, [3]), (3, 1, [1, 1, 1]), (1, 8, [1])]
)
def test_one_image_left_over_joins_the_batch_before_it(pixels: RawPixels, n: int, batch: int, sizes: list[int]) -> None:
    one = Loader(pixels, torch.arange(50) % 4, torch.arange(n), 4, batch, 0)
    assert one.epoch_steps == len(sizes)
    for epoch in range(3):
        batches = [one.batch(epoch * len(sizes) + k) for k in range(len(sizes))]
        places = [one.places(epoch * len(sizes) + k) for k in range(len(sizes))]
        assert [len(b) for b in batches] == [len(p) for _, p in places] == sizes
        assert {e for e, _ in places} == {epoch} and torch.cat([p for _, p in places]).tolist() == list(range(n))
        assert torch.equal(torch.cat([b.ids for b in batches]), one.order(epoch))
    streamed = [len(b) for b in itertools.islice(one.stream(), 2 * len(sizes))]
    assert streamed == sizes * 2


def make_loader(pixels: Pixels, batch: int = 8, workers: int = 1, seed: int = 0) -> Loader:
    labels = torch.arange(50) % 4
    return Loader(pixels, labels, torch.arange(50)[torch.arange(50) % 5 > 0], 4, batch, seed, workers)


def test_each_epoch_is_a_permutation_of_its_own(pixels: RawPixels) -> None:
    one = make_loader(pixels)
    orders = [one.order(epoch).tolist() for epoch in range(4)]
    assert all(sorted(order) == one.rows.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert one.order(0).tolist() == orders[0]  # back again, as a resumed run does
    assert one.order(3).tolist() == orders[3] and make_loader(pixels, seed=1).order(0).tolist() != orders[0]


@pytest.mark.parametrize("batch", [1, 7, 8, 40, 64])
def test_batches_cover_the_epoch_with_a_short_last_one(pixels: RawPixels, batch: int) -> None:
    one = make_loader(pixels, batch)
    assert one.epoch_steps == -(-40 // batch)
    for epoch in range(2):
        batches = [one.batch(epoch * one.epoch_steps + k) for k in range(one.epoch_steps)]
        assert torch.equal(torch.cat([b.ids for b in batches]), one.order(epoch))
        assert [len(b) for b in batches] == [min(batch, 40 - k * batch) for k in range(one.epoch_steps)]
        assert [one.places(epoch * one.epoch_steps + k)[0] for k in range(one.epoch_steps)] == [epoch] * one.epoch_steps
        assert torch.equal(torch.cat([one.places(epoch * one.epoch_steps + k)[1] for k in range(one.epoch_steps)]), torch.arange(40))


def test_a_batch_holds_its_rows(pixels: RawPixels) -> None:
    batch = make_loader(pixels).batch(3)
    assert batch.images.shape == (8, 3, 9, 7) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images.permute(0, 2, 3, 1), pixels.read(batch.ids))
    assert torch.equal(batch.targets.argmax(1), batch.ids % 4) and torch.equal(batch.targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("start", [0, 3, 5, 17])
def test_the_stream_is_the_same_for_any_number_of_workers(pixels: RawPixels, start: int) -> None:
    truth = [make_loader(pixels).batch(step) for step in range(start, start + 12)]
    for workers in (0, 1, 4):
        stream = make_loader(pixels, workers=workers).stream(start)
        for wanted, found in zip(truth, itertools.islice(stream, 12), strict=True):
            assert torch.equal(wanted.images, found.images) and torch.equal(wanted.ids, found.ids)
            assert torch.equal(wanted.targets, found.targets)


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("goodfit-read")]


def test_orders_are_made_in_the_thread_that_trains(pixels: RawPixels) -> None:
    """In a reader torch would start a second set of OpenMP threads, and all of them would then sleep at once while they wait."""
    threads: list[threading.Thread] = []

    class Noted(Shuffle):
        def __call__(self, labels: Tensor, chance: Chance) -> Tensor:
            threads.append(threading.current_thread())
            return super().__call__(labels, chance)

    stream = Loader(pixels, torch.arange(50) % 4, torch.arange(50), 4, 10, 0, 2, Noted()).stream()
    for _ in range(12):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(threads) >= 3 and set(threads) == {threading.current_thread()}


def test_closing_or_forgetting_a_stream_ends_its_threads(pixels: RawPixels) -> None:
    stream = make_loader(pixels, workers=3).stream()
    next(stream)
    assert reader_threads()
    assert isinstance(stream, Iterator)
    stream.close()  # type: ignore[attr-defined]
    assert not reader_threads()
    stream = make_loader(pixels, workers=2).stream()
    next(stream)
    del stream
    gc.collect()
    assert not reader_threads()


class Failing(Pixels):
    shape = (50, 9, 7, 3)

    def read(self, rows: object) -> Tensor:
        raise DataError("The image is gone.")

    read_exact = read


@pytest.mark.parametrize("workers", [0, 2])
def test_what_fails_in_a_thread_is_raised(workers: int) -> None:
    with pytest.raises(DataError, match="gone"):
        next(make_loader(Failing(), workers=workers).stream())
    assert not reader_threads()


def test_iterate_batches_yields_every_row_once_in_order(pixels: RawPixels) -> None:
    rows = np.array([3, 1, 4, 15, 9])
    batches = list(iterate_batches(pixels, torch.arange(50) % 4, rows, 4, 2))
    assert [len(b) for b in batches] == [2, 2, 1]
    assert torch.cat([b.ids for b in batches]).tolist() == rows.tolist()
    assert torch.equal(torch.cat([b.images for b in batches]).permute(0, 2, 3, 1), pixels.read_exact(rows))
