"""Arrays mean the same numbers in training and in prediction, and no number is clipped."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from goodfit.core.errors import DataError
from goodfit.data.dataset import load_dataset
from goodfit.data.headers import read_headers
from goodfit.data.opening import BrokenImage
from goodfit.data.pack import CacheLimit
from goodfit.data.preprocess import Preprocess
from goodfit.data.sources import index_images
from goodfit.data.splits import SplitRule

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8)
PIXELS[:, 0, 0] = 255  # every image has its brightest, so that one alone tells its range
LABELS = np.arange(8) % 2
PREPROCESS = Preprocess((6, 5), (6, 5))

KINDS = {
    "uint8": PIXELS,
    "int64": PIXELS.astype(np.int64),
    "uint16": PIXELS.astype(np.uint16),
    "float32 to 1": (PIXELS / 255).astype(np.float32),
    "float16 to 1": (PIXELS / 255).astype(np.float16),
    "float32 to 255": PIXELS.astype(np.float32),
    "float64 to 255": PIXELS.astype(np.float64),
}


def save_npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [False, True])
def test_training_and_prediction_read_the_same_pixels(tmp_path: Path, kind: str, first: bool) -> None:
    images = KINDS[kind].transpose(0, 3, 1, 2) if first else KINDS[kind]
    found = read_headers(index_images(save_npz(tmp_path / "d.npz", images=images, labels=LABELS)))
    assert not found.index.notes
    data = load_dataset(found, (6, 5), "crop", SplitRule(0.25, 0), CacheLimit(1 << 30))
    assert np.array_equal(data.pixels.read_exact(np.arange(8)).numpy(), PIXELS)
    for k in range(8):
        assert np.array_equal(data.preprocess.decode(images[k]), PIXELS[k])


def test_bits_and_16_bits_agree_too(tmp_path: Path) -> None:
    for images in (PIXELS > 100, PIXELS.astype(np.int32) * 16, PIXELS.astype(np.uint16) * 257):
        found = read_headers(index_images(save_npz(tmp_path / "d.npz", images=images, labels=LABELS)))
        data = load_dataset(found, (6, 5), "crop", SplitRule(0.25, 0), CacheLimit(1 << 30))
        stored = data.pixels.read_exact(np.arange(8)).numpy()
        assert stored.max() >= 254
        for k in range(8):
            assert np.array_equal(data.preprocess.decode(images[k]), stored[k])


@pytest.mark.parametrize("train", KINDS)
@pytest.mark.parametrize("test", KINDS)
def test_each_split_has_its_own_scale(tmp_path: Path, train: str, test: str) -> None:
    path = save_npz(tmp_path / "d.npz", x_train=KINDS[train], y_train=LABELS, x_test=KINDS[test][:4], y_test=LABELS[:4])
    index = index_images(path)
    assert np.array_equal([index.store.read(k) for k in range(12)], np.concatenate([PIXELS, PIXELS[:4]]))
    ends = {kind[-5:] for kind in (train, test) if kind.startswith("float")}
    wanted = [f"Floats from 0 to {end.split()[-1]} are taken as 0 to {end.split()[-1]}." for end in ends] if len(ends) > 1 else []
    assert sorted(index.notes) == sorted(wanted)


def test_a_dark_split_of_16_bits_is_as_deep_as_the_others(tmp_path: Path) -> None:
    low = PIXELS[:4].astype(np.uint16)
    path = save_npz(tmp_path / "e.npz", x_train=PIXELS.astype(np.uint16) * 257, y_train=LABELS, x_test=low, y_test=LABELS[:4])
    index = index_images(path)
    assert index.store.read(9).dtype == np.uint16 and np.array_equal(index.store.read(9), low[1])
    assert "Integers from 0 to 255 are taken as 0 to 65535." in index.notes


def test_a_range_that_may_mean_something_else_is_noted(tmp_path: Path) -> None:
    images = np.linspace(0, 16, 8 * 6 * 5 * 3).reshape(8, 6, 5, 3)
    index = index_images(save_npz(tmp_path / "d.npz", images=images, labels=LABELS))
    data = load_dataset(read_headers(index), (6, 5), "crop", SplitRule(0.25, 0), CacheLimit(1 << 30))
    assert "Floats from 0 to 16 are taken as 0 to 255." in data.notes


@pytest.mark.parametrize(("low", "high"), [(-2.1, 2.6), (-1, 1), (-0.01, 1), (0, 4000), (0, 256), (-1, 255)])
def test_floats_that_would_be_clipped_are_refused(tmp_path: Path, low: float, high: float) -> None:
    images = np.linspace(low, high, 8 * 6 * 5 * 3).reshape(8, 6, 5, 3)
    reason = re.escape(f"from 0 to 1 or 0 to 255, found {low:.3g} to {high:.3g}")
    with pytest.raises(DataError, match=f'd.npz": expected floats {reason}'):
        index_images(save_npz(tmp_path / "d.npz", images=images, labels=LABELS))
    with pytest.raises(BrokenImage, match=reason):
        PREPROCESS.decode(images.reshape(1, -1, 5, 3)[0])


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_beyond_the_range_is_no_clipping(white: int, dtype: type) -> None:
    images = (PIXELS.astype(np.float64) / 255 * white * (1 + 1e-7) - 1e-7 * white).astype(dtype)
    for k in range(8):
        assert np.array_equal(PREPROCESS.decode(images[k]), PIXELS[k])


def test_numbers_that_are_no_pixels_are_refused(tmp_path: Path) -> None:
    holes = KINDS["float32 to 1"].copy()
    holes[3, 2, 1] = np.nan
    cases = [(holes, "finite"), (PIXELS.astype(int) - 9, "0 to 255"), (PIXELS.astype(int) * 999, "0 to 255")]
    for images, reason in cases:
        with pytest.raises(DataError, match=reason):
            read_headers(index_images(save_npz(tmp_path / "d.npz", images=images, labels=LABELS)))
    with pytest.raises(BrokenImage, match="finite"):
        PREPROCESS.decode(holes[3])
    with pytest.raises(BrokenImage, match="0 to 255"):
        PREPROCESS.decode(np.full((6, 5), -1))
    mixed = {"x_train": PIXELS.astype(np.uint16) * 257, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS}
    with pytest.raises(DataError, match="scale them alike"):
        read_headers(index_images(save_npz(tmp_path / "d.npz", **mixed)))
