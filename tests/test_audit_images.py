"""Tests of sets of images: two samples, shortcuts, blank images and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from goodfit.doctor.audit.counts import count_classes, find_odd_sizes, is_too_small
from goodfit.doctor.audit.shift import compare_sets
from goodfit.doctor.audit.shortcuts import border_colors, find_pixel_shortcut, find_property_shortcuts
from goodfit.doctor.defects import find_blank_images
from goodfit.doctor.probe import area_under_curve
from tests.support.digits import read_digits

IMAGES, LABELS = read_digits(900)


def test_area_under_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, group = rng.integers(0, 20, 200).astype(np.float32), rng.integers(0, 2, 200)
    assert area_under_curve(torch.from_numpy(scores), torch.from_numpy(group)) == pytest.approx(roc_auc_score(group, scores))


def test_two_samples_of_one_kind_are_not_told_apart_and_darker_ones_are() -> None:
    rows = np.random.default_rng(0).permutation(len(IMAGES))
    first, second = rows[:600], rows[600:]
    same = compare_sets(IMAGES[first], IMAGES[second], (LABELS[first], LABELS[second]))
    assert same.interval[0] < 0.55
    darker = compare_sets(IMAGES[first], (IMAGES[second] * 0.8).astype(np.uint8))
    assert darker.interval[0] > 0.7 and darker.means[1][0] < darker.means[0][0]


def test_other_class_counts_are_no_difference_if_labels_are_given() -> None:
    few = np.flatnonzero(LABELS < 5)
    second = np.random.default_rng(0).permutation(few)[:300]
    first = np.setdiff1d(np.arange(len(LABELS)), second)
    assert compare_sets(IMAGES[first], IMAGES[second]).interval[0] > 0.6
    assert compare_sets(IMAGES[first], IMAGES[second], (LABELS[first], LABELS[second])).interval[0] < 0.55


def test_a_mark_in_a_corner_is_found_and_digits_have_none() -> None:
    assert not find_pixel_shortcut(IMAGES, LABELS).is_shortcut
    marked = IMAGES.copy()
    marked[:, 0, 0, 0] = LABELS * 25
    mark = find_pixel_shortcut(marked, LABELS)
    assert mark.is_shortcut and mark.accuracy > 0.9 and mark.box[:2] == (0.0, 0.0)


def test_plain_colors_are_no_shortcut() -> None:
    labels = np.arange(300) % 3
    images = np.random.default_rng(0).normal(60 + 60 * labels[:, None, None, None], 10, (300, 16, 16, 3)).astype(np.uint8)
    assert not find_pixel_shortcut(images, labels).is_shortcut


def test_file_sizes_by_class_are_found() -> None:
    rng = np.random.default_rng(0)
    sizes = {
        "file size": 1000 * (LABELS + 1) + rng.integers(0, 300, len(LABELS)),
        "width": rng.integers(50, 60, len(LABELS)),
        "bits": LABELS * 0,
    }
    found = find_property_shortcuts(sizes, LABELS)
    assert [(shortcut.name, shortcut.is_shortcut) for shortcut in found] == [("file size", True), ("width", False)]


def test_border_colors_are_the_mean_of_the_outermost_pixels() -> None:
    image = np.zeros((1, 4, 4, 1), dtype=np.uint8)
    image[0, 0] = 120
    assert border_colors(image).tolist() == [[40.0]]


def test_blank_and_plain_images_are_found() -> None:
    images = np.repeat(IMAGES[:10, ..., :1], 3, axis=3).repeat(3, axis=1).repeat(3, axis=2)
    images[2], images[5], images[7] = 17, 255, (200, 30, 0)
    images[5, 0, 0] = 0
    found = find_blank_images(images)
    assert found.blank.tolist() == [2, 7] and found.plain.tolist() == [5]


def test_counts_name_what_is_missing_and_how_even_the_classes_are() -> None:
    labels, splits = np.array([0] * 40 + [1] * 2 + [2] * 4), np.array([0] * 40 + [0] * 2 + [1] * 4)
    counts = count_classes(labels, splits, 3)
    assert counts.counts.tolist() == [[40, 2, 0], [0, 0, 4], [0, 0, 0]]
    assert counts.missing == (("train", 2), ("validation", 0), ("validation", 1)) and counts.imbalance == 20
    assert count_classes(np.arange(8) % 4, np.zeros(8, dtype=int), 4).effective == pytest.approx(4)
    assert is_too_small(100) and not is_too_small(500)


def test_odd_sizes_are_those_far_from_the_median() -> None:
    widths, heights = np.array([100, 110, 90, 20, 900, 400, 0]), np.array([100, 100, 100, 20, 900, 100, 0])
    odd = find_odd_sizes(widths, heights, np.array([3, 3, 1, 3, 3, 3, 0]))
    assert (odd.smaller.tolist(), odd.larger.tolist(), odd.longer.tolist(), odd.kinds) == ([3], [4], [5], {3: 5, 1: 1})
