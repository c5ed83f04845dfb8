"""Arrays mean the same numbers in training and in prediction, in every split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from goodfit.core.errors import DataError
from goodfit.data.dataset import load_dataset
from goodfit.data.decode import BrokenImage
from goodfit.data.headers import read_headers
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
    data = load_dataset(found, (6, 5), "crop", SplitRule(0.25, 0), 1 << 30)
    assert np.array_equal(data.pixels.read_exact(np.arange(8)).numpy(), PIXELS)
    for k in range(8):
        assert np.array_equal(data.preprocess.decode(images[k]), PIXELS[k])


def test_bits_and_16_bits_agree_too(tmp_path: Path) -> None:
    for images in (PIXELS > 100, PIXELS.astype(np.int32) * 16, PIXELS.astype(np.uint16) * 257):
        found = read_headers(index_images(save_npz(tmp_path / "d.npz", images=images, labels=LABELS)))
        data = load_dataset(found, (6, 5), "crop", SplitRule(0.25, 0), 1 << 30)
        stored = data.pixels.read_exact(np.arange(8)).numpy()
        assert stored.max() >= 254
        for k in range(8):
            assert np.array_equal(data.preprocess.decode(images[k]), stored[k])


def test_splits_are_scaled_together(tmp_path: Path) -> None:
    dark = (PIXELS[:4] > 128).astype(np.float32)  # 0 and 1 of 255
    path = save_npz(tmp_path / "d.npz", x_train=PIXELS.astype(np.float32), y_train=LABELS, x_test=dark, y_test=LABELS[:4])
    store = index_images(path).store
    assert np.array_equal(store.read(0), PIXELS[0]) and np.array_equal(store.read(9), dark[1])
    low = PIXELS[:4].astype(np.uint16)
    path = save_npz(tmp_path / "e.npz", x_train=PIXELS.astype(np.uint16) * 257, y_train=LABELS, x_test=low, y_test=LABELS[:4])
    assert index_images(path).store.read(9).dtype == np.uint16 and np.array_equal(index_images(path).store.read(9), low[1])


@pytest.mark.parametrize(("low", "high"), [(-2.1, 2.6), (0, 16), (0, 4000), (-1, 1)])
def test_a_range_that_may_mean_something_else_is_noted(tmp_path: Path, low: float, high: float) -> None:
    images = np.linspace(low, high, 8 * 6 * 5 * 3).reshape(8, 6, 5, 3)
    index = index_images(save_npz(tmp_path / "d.npz", images=images, labels=LABELS))
    data = load_dataset(read_headers(index), (6, 5), "crop", SplitRule(0.25, 0), 1 << 30)
    (note,) = (note for note in data.notes if note.startswith("Floats"))
    assert f"from {low:.3g} to {high:.3g}" in note and f"0 to {1 if high <= 1 else 255}," in note


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
