"""Leakage: held-out images that training images show, too, are found by pair and by share; sets split at random have none."""

from __future__ import annotations

import numpy as np
import pytest

from goodfit.doctor.audit.leakage import find_leak, measure_excess_likeness
from goodfit.doctor.audit.near_duplicates import NearDuplicates, find_near_duplicates
from tests.support.digits import read_digits

IMAGES, _ = read_digits()
ORDER = np.random.default_rng(0).permutation(len(IMAGES))
SPLITS = np.where(np.arange(len(IMAGES)) < 1300, 0, 1)


def test_equal_and_near_pictures_of_both_splits_are_listed_with_their_source() -> None:
    pairs = np.array([[0, 5], [0, 6], [1, 7], [2, 3], [7, 9]])
    duplicates = NearDuplicates(pairs, np.ones(5, dtype=np.float32), np.array([True, True, False, False, False]), 10)
    leak = find_leak(duplicates, np.array([1, 0, 0, 0, 0, 0, 1, 1, 1, 1]), 1)
    assert leak.rows.tolist() == [0, 6, 7] and leak.sources.tolist() == [5, 5, 1] and leak.exact.tolist() == [0, 6]
    assert leak.n == 5 and leak.share == pytest.approx(0.6)


def test_copies_in_the_other_split_are_a_leak() -> None:
    images = IMAGES[ORDER]
    images[1300:1350] = images[:50]
    leak = find_leak(find_near_duplicates(images), SPLITS, 1)
    assert set(range(1300, 1350)) <= set(leak.rows.tolist()) and len(leak.rows) <= 51
    assert (leak.sources[:50] == np.arange(50)).all() and len(leak.exact) == 50
    assert leak.interval[0] < 50 / 497 < leak.interval[1]


@pytest.mark.parametrize("noise", [5, 15])
def test_noise_does_not_hide_that_a_share_is_copied(noise: float) -> None:
    images = IMAGES[ORDER].astype(float)
    images[1300:1450] = images[:150] + np.random.default_rng(1).normal(0, noise, images[:150].shape)
    excess = measure_excess_likeness(np.clip(images, 0, 255).astype(np.uint8), SPLITS)
    assert excess.is_leak and 0.18 < excess.share < 0.36


@pytest.mark.parametrize("seed", range(3))
def test_sets_split_at_random_have_no_excess(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(IMAGES))
    excess = measure_excess_likeness(IMAGES[order], SPLITS)
    assert not excess.is_leak and excess.share < 0.03
    assert not measure_excess_likeness(IMAGES[:60], SPLITS[:60]).is_leak
